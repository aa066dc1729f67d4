"""Hands that work side by side on what comes from one iterator, and the pace they keep."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pace:
    """At most ``rate`` turns a second, evenly spaced; None is no limit."""

    def __init__(self, rate: float | None) -> None:
        self._space = 1 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stopping: threading.Event) -> bool:
        """Wait for a turn; False where ``stopping`` was set meanwhile."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._space
        return not stopping.wait(max(0.0, turn - time.monotonic()))


class Hands(Generic[T]):
    """``count`` threads that take things one by one, until there are no more or ``stopping`` is set; an error of one stops all.

    The threads do not keep the process alive: what they wait for may take a minute, and may be left.
    """

    def __init__(
        self, count: int, things: Iterable[T], act: Callable[[T], None], stopping: threading.Event
    ) -> None:
        self._things = iter(things)
        self._act = act
        self._stopping = stopping
        self._taking = threading.Lock()
        self._error: Exception | None = None
        self._left = count
        # Not Thread.join: after a Ctrl-C that interrupts it, Python 3.11 takes the thread for ended (bpo-45274).
        self._over = threading.Event()
        for number in range(count):
            threading.Thread(target=self._work, name=f"batch-hand-{number}", daemon=True).start()

    def done(self, within: float) -> bool:
        """Say whether all have ended, waiting up to so many seconds for it; then raise the error that stopped them, if any."""
        over = self._over.wait(within)
        if over and self._error is not None:
            raise self._error
        return over

    def _work(self) -> None:
        try:
            while not self._stopping.is_set() and (thing := self._take()) is not None:
                self._act(thing)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits for us
            self._error = self._error or error
            self._stopping.set()
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._taking:
            self._left -= 1
            if not self._left:
                self._over.set()

    def _take(self) -> T | None:
        with self._taking:
            return next(self._things, None)
