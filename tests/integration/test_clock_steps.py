"""Changes of the machine's clock, by an administrator or NTP, while the service works."""

import time
from collections.abc import Iterator

import pytest
from ledgers import Books, opened, stored

from receiver import clock
from receiver.model import AssetState

STEPS = pytest.mark.parametrize("step", [7 * 3600.0, -7 * 3600.0], ids=["forwards", "backwards"])


@pytest.fixture
def books(sqlite_url: str) -> Iterator[Books]:
    """Open a ledger that goes by the service's own clock, read just now."""
    clock._machine_started_at.cache_clear()
    with opened(sqlite_url) as books:
        books.clock.follow(clock.now)
        yield books
    clock._machine_started_at.cache_clear()


def set_machine(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Set the machine's clock forward by this many seconds, or back."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step)


@STEPS
def test_running_work_does_not_look_abandoned_and_is_finished(
    books: Books, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    ref = books.archiving(2)
    claims = books.assets.claim(2)
    set_machine(monkeypatch, step)
    assert books.assets.claim(2) == []
    for claimed in claims:
        books.assets.finish(claimed, stored(claimed))
    assert {asset.state for asset in books.assets_of(ref)} == {AssetState.ARCHIVED}


@STEPS
def test_what_was_due_before_is_due_afterwards_and_nothing_else(
    books: Books, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    books.archiving()
    waiting = books.waiting("task-2")
    set_machine(monkeypatch, step)
    assert books.jobs.claim(10) == [], "no poll is due, no URL at risk"
    (claimed,) = books.assets.claim(2)
    left = claimed.row.expires_at - books.clock()
    assert books.timing.url_lifetime - 60 < left <= books.timing.url_lifetime
    assert books.job(waiting).deadline_at - books.clock() > books.timing.job_timeout - 60


@STEPS
def test_what_comes_after_the_step_takes_its_place_in_line_behind_what_came_before(
    books: Books, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    before = books.archiving(1, "task-1")
    set_machine(monkeypatch, step)
    after = books.archiving(1, "task-2")
    assert [claimed.row.ref for claimed in books.assets.claim(2)] == [before, after]
    assert before < after, "refs sort by time"
