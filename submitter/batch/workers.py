"""Threads that process the items of one iterator, and the limit on submits per second."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class SubmitRate:
    """A rate limiter: at most ``rate`` submits a second, evenly spaced; None means no limit."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stopping: threading.Event) -> bool:
        """Wait until the next submit is allowed; return False if ``stopping`` was set first."""
        with self._lock:
            due = max(self._next, time.monotonic())
            self._next = due + self._interval
        return not stopping.wait(max(0.0, due - time.monotonic()))


class Workers(Generic[T]):
    """``count`` threads that process items until there are no more or ``stopping`` is set.

    An exception in one thread stops all. The threads are daemons: a submit may take a minute, and
    a user who presses Ctrl-C twice does not wait for it.
    """

    def __init__(
        self,
        count: int,
        items: Iterable[T],
        process: Callable[[T], object],
        stopping: threading.Event,
    ) -> None:
        self._items = iter(items)
        self._process = process
        self._stopping = stopping
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._running = count
        # Thread.join is not used: after a Ctrl-C that interrupts it, Python 3.11 treats the thread
        # as ended (bpo-45274).
        self._all_ended = threading.Event()
        for number in range(count):
            threading.Thread(target=self._work, name=f"batch-worker-{number}", daemon=True).start()

    def done(self, within: float) -> bool:
        """Wait up to ``within`` seconds and return whether all threads have ended.

        Raise the exception that stopped them, if there was one.
        """
        ended = self._all_ended.wait(within)
        if ended and self._error is not None:
            raise self._error
        return ended

    def _work(self) -> None:
        try:
            while not self._stopping.is_set() and (item := self._next_item()) is not None:
                self._process(item)
        except Exception as error:  # noqa: BLE001 - raised again by done(), in the waiting thread
            self._error = self._error or error
            self._stopping.set()
        finally:
            self._thread_ended()

    def _thread_ended(self) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._all_ended.set()

    def _next_item(self) -> T | None:
        with self._lock:
            return next(self._items, None)
