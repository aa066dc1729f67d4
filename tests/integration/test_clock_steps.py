"""Changes of the machine's clock, by an administrator or NTP, while the service works."""

import time
from collections.abc import Iterator

import pytest
from ledgers import LedgerHarness, opened, stored

from receiver import clock
from receiver.model import AssetState

STEPS = pytest.mark.parametrize("step", [7 * 3600.0, -7 * 3600.0], ids=["forwards", "backwards"])


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    """Open a ledger that goes by the service's own clock, read just now."""
    clock._machine_started_at.cache_clear()
    with opened(sqlite_url) as ledger:
        ledger.clock.follow(clock.now)
        yield ledger
    clock._machine_started_at.cache_clear()


def set_machine(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Set the machine's clock forward by this many seconds, or back."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step)


@STEPS
def test_running_work_does_not_look_abandoned_and_is_finished(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    ref = ledger.archiving(2)
    claims = ledger.assets.claim(2)
    set_machine(monkeypatch, step)
    assert ledger.assets.claim(2) == []
    for claimed in claims:
        ledger.assets.finish(claimed, stored(claimed))
    assert {asset.state for asset in ledger.assets_of(ref)} == {AssetState.ARCHIVED}


@STEPS
def test_what_was_due_before_is_due_afterwards_and_nothing_else(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    ledger.archiving()
    waiting = ledger.waiting("task-2")
    set_machine(monkeypatch, step)
    assert ledger.jobs.claim(10) == [], "no poll is due, no URL at risk"
    (claimed,) = ledger.assets.claim(2)
    left = claimed.row.expires_at - ledger.clock()
    assert ledger.timing.url_lifetime - 60 < left <= ledger.timing.url_lifetime
    assert ledger.job(waiting).deadline_at - ledger.clock() > ledger.timing.job_timeout - 60


@STEPS
def test_what_comes_after_the_step_takes_its_place_in_line_behind_what_came_before(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    before = ledger.archiving(1, "task-1")
    set_machine(monkeypatch, step)
    after = ledger.archiving(1, "task-2")
    assert [claimed.row.ref for claimed in ledger.assets.claim(2)] == [before, after]
    assert before < after, "refs sort by time"
