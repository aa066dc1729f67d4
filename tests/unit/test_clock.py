"""The service's time, which the machine's clock does not change; and back-off."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from receiver import clock

STEPS = pytest.mark.parametrize("step", [3600.0, -3600.0, 86_400.0 * 365, -1_700_000_000.0])


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Make the clock read the machine's time again, before and after a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECEIVER_CLOCK", "")  # set, so that whatever is shared is undone
        clock._machine_started_at.cache_clear()
        yield
    clock._machine_started_at.cache_clear()


def set_machine(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """Set the machine's clock."""
    monkeypatch.setattr(time, "time", lambda: now)


def let_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the counter of passing time; return a function that advances it."""
    passed = [1000.0]
    monkeypatch.setattr(time, "clock_gettime", lambda _which: passed[0])

    def move(seconds: float) -> None:
        passed[0] += seconds

    return move


def test_at_first_it_is_what_the_machine_says() -> None:
    assert abs(clock.now() - time.time()) < 0.1


def test_it_passes_like_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    move = let_pass(monkeypatch)
    begun = clock.now()
    move(12.5)
    assert clock.now() == begun + 12.5


@STEPS
def test_a_step_of_the_machine_s_clock_changes_nothing_and_is_known(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    move, begun = let_pass(monkeypatch), clock.now()
    set_machine(monkeypatch, begun + step)
    assert clock.now() == begun
    assert clock.error() == pytest.approx(step)
    move(10.0)
    set_machine(monkeypatch, begun + step + 10.0)
    assert clock.now() == begun + 10.0
    assert clock.error() == pytest.approx(step)


def test_without_a_step_there_is_no_error() -> None:
    clock.now()
    assert abs(clock.error()) < 0.1


def test_a_sleep_of_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[int] = set()

    def counter(which: int) -> float:
        asked.add(which)
        return 5.0

    monkeypatch.setattr(time, "clock_gettime", counter)
    clock.now()
    assert asked == {time.CLOCK_BOOTTIME}, "CLOCK_MONOTONIC would stand still meanwhile"


@STEPS
def test_a_process_that_is_started_after_a_step_goes_by_the_same_time(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    let_pass(monkeypatch)
    begun = clock.now()
    clock.share()
    clock._machine_started_at.cache_clear()  # as in another process
    set_machine(monkeypatch, begun + step)
    assert clock.now() == begun


def test_what_is_shared_reaches_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time()
    set_machine(
        monkeypatch, real - 5000.0
    )  # set back, say, when the service was started, and right again since
    clock.share()
    printed = subprocess.run(
        [sys.executable, "-c", "from receiver import clock; print(clock.now())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(printed.stdout) == pytest.approx(real - 5000.0, abs=20)


def test_without_a_share_each_process_reads_the_machine_s_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_pass(monkeypatch)
    begun = clock.now()
    clock._machine_started_at.cache_clear()
    set_machine(monkeypatch, begun + 60.0)
    assert clock.now() == begun + 60.0


@pytest.mark.parametrize("attempt", [-1, 0, 1, 2, 3, 4, 5, 1000])
def test_a_back_off_follows_its_waits_and_then_repeats_the_last(attempt: int) -> None:
    meant = {2: 5.0, 3: 30.0}.get(attempt, 1.0 if attempt < 2 else 60.0)
    waits = (1.0, 5.0, 30.0, 60.0)
    assert clock.back_off(attempt, waits, jitter=0) == meant
    spread = [clock.back_off(attempt, waits) for _ in range(200)]
    assert 0.75 * meant <= min(spread) < 0.9 * meant
    assert 1.1 * meant < max(spread) <= 1.25 * meant


@pytest.mark.parametrize(
    ("first", "longest", "waits"),
    [(1.0, 8.0, (1.0, 2.0, 4.0, 8.0)), (1.0, 5.0, (1.0, 2.0, 4.0, 5.0)), (30.0, 30.0, (30.0,))],
)
def test_doubled_waits_end_with_the_longest(
    first: float, longest: float, waits: tuple[float, ...]
) -> None:
    assert clock.doubling(first, longest) == waits
