"""How a caller waits for the ledger: its thread sleeps, or its greenlet is suspended.

The main loop of a web worker handles callbacks in greenlets (``server.greenlets``) and must not
sleep: while one of them waits for its commit, the loop goes on with the others.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Signal(Protocol):
    """Ends the wait of one caller."""

    def lead(self, commit: Callable[[], None]) -> None:
        """Call ``commit``, which blocks, where this caller may block."""

    def notify(self) -> None:
        """End the wait of the caller, or its next one; called in any thread."""

    def wait(self, seconds: float) -> bool:
        """Wait until notified; return False after ``seconds``."""


class ThreadSignal:
    """Notifies a thread. Cheaper than ``threading.Event``, which makes a lock for every wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def lead(self, commit: Callable[[], None]) -> None:
        """Call ``commit`` in this thread."""
        commit()

    def notify(self) -> None:
        """End the wait of the thread, or its next one."""
        with suppress(RuntimeError):  # notified already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Sleep until notified; return False after ``seconds``."""
        return self._lock.acquire(timeout=seconds)


class Suspender(Protocol):
    """Suspends the greenlet that calls it."""

    def signal(self) -> Signal:
        """Return a signal on which the calling greenlet can wait."""

    def call(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread; return its value when it is there, or raise its error."""


# Set in greenlets only.
SUSPENDER: ContextVar[Suspender | None] = ContextVar("SUSPENDER", default=None)


def signal() -> Signal:
    """Return a signal for the caller, whatever it runs in."""
    suspender = SUSPENDER.get()
    return suspender.signal() if suspender else ThreadSignal()


def blocking(function: Callable[[], T]) -> T:
    """Call a function that blocks, where the caller may block."""
    suspender = SUSPENDER.get()
    return suspender.call(function) if suspender else function()
