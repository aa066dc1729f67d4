"""A cached value: how often it is computed, by how many threads, and when it may be stale."""

from threading import Event, Thread

import pytest
from side_by_side import side_by_side
from waiting import until

from receiver.web.cache import CachedValue


class Computation:
    """A clock and a computation that counts its calls and takes ``seconds`` on that clock."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.now = 100.0
        self.calls = 0
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def __call__(self) -> int:
        self.calls += 1
        self.now += self._seconds
        return self.calls


def test_a_value_is_computed_again_when_its_lifetime_is_over() -> None:
    compute = Computation()
    value = CachedValue(compute, 10.0, clock=compute.clock)
    assert value.peek() is None
    assert [value.get(), value.get()] == [1, 1]
    compute.now += 9.9
    assert value.get() == 1
    compute.now += 0.1
    assert (value.peek(), value.get(), value.peek()) == (1, 2, 2)


def test_a_lifetime_of_zero_computes_every_time() -> None:
    compute = Computation()
    value = CachedValue(compute, 0.0, clock=compute.clock)
    assert [value.get(), value.get()] == [1, 2]


def test_a_costly_value_is_kept_longer() -> None:
    compute = Computation(seconds=2.0)
    value = CachedValue(compute, 1.0, cost_factor=20.0, clock=compute.clock)
    value.get()
    compute.now += 39.9
    assert value.get() == 1
    compute.now += 0.1
    assert value.get() == 2


def test_an_error_is_raised_and_not_cached() -> None:
    compute = iter([1, 0])
    value = CachedValue(lambda: 1 // next(compute, 1), 0.0)
    assert value.get() == 1
    with pytest.raises(ZeroDivisionError):
        value.get()
    assert (value.peek(), value.get()) == (1, 1)


def test_threads_that_come_together_compute_once() -> None:
    compute = Computation()
    value = CachedValue(compute, 10.0, clock=compute.clock)
    assert side_by_side([value.get] * 8) == [1] * 8


def test_with_serve_stale_a_thread_gets_the_previous_value_while_another_computes() -> None:
    computing, may_end = Event(), Event()
    calls = 0

    def compute() -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            computing.set()
            assert may_end.wait(20)
        return calls

    def read_meanwhile() -> int:
        assert computing.wait(20)
        found = value.get()
        may_end.set()
        return found

    value = CachedValue(compute, 0.0, serve_stale=True)
    value.get()
    assert side_by_side([value.get, read_meanwhile]) == [2, 1]


def test_a_value_that_took_long_is_computed_in_a_thread_of_its_own() -> None:
    compute = Computation(seconds=1.0)
    may_end = Event()

    def wait_and_compute() -> int:
        assert compute.calls == 0 or may_end.wait(20)
        return compute()

    value = CachedValue(wait_and_compute, 10.0, serve_stale=True, clock=compute.clock)
    assert value.get() == 1
    compute.now += 11
    assert [value.get(), value.get()] == [1, 1]  # no call waits
    may_end.set()
    until(lambda: value.peek() == 2, what="the new value")


def test_the_previous_value_is_shown_if_it_cannot_be_computed_in_the_background() -> None:
    compute, ended = Computation(seconds=1.0), Event()

    def fail_once() -> int:
        if compute.calls == 1 and not ended.is_set():
            ended.set()
            raise OSError("away")
        return compute()

    value = CachedValue(fail_once, 10.0, serve_stale=True, clock=compute.clock)
    value.get()
    compute.now += 11
    assert value.get() == 1
    assert ended.wait(20)

    def is_new() -> bool:
        compute.now += 11
        return value.get() >= 2  # a thread may be quicker than this one

    until(is_new, what="the new value")


def test_a_slow_value_is_computed_by_the_request_if_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = Computation(seconds=2.0)
    value = CachedValue(compute, 1.0, serve_stale=True, clock=compute.clock)
    value.get()
    compute.now += 1.0

    def refuse(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    assert value.get() == 2
    compute.now += 1.0
    assert value.get() == 3  # no thread that never ran keeps the lock
