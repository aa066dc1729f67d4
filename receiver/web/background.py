"""The last answer of a remote part, returned at once; a thread asks the question again.

A health check must never slow the service down. If the ledger or the archive hangs, the questions
of any number of probers must not occupy the threads that callbacks need.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

# Seconds that the caller which starts a question waits for its answer.
LIMIT = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LastAnswer(Generic[T]):
    """The last answer to a question: a value or an error, and its age in seconds.

    All three are None before the first answer. ``late``: the question was asked again, and has had
    no answer for ``LIMIT`` seconds.
    """

    value: T | None
    error: Exception | None
    age: float | None
    late: bool


class BackgroundValue(Generic[T]):
    """A value that a separate thread asks for when it is wanted and older than ``lifetime``.

    There is one such thread at a time. The caller that starts it waits up to ``limit`` seconds, all
    others get the last answer at once. So a question that hangs delays one caller, once. ``name``
    is for the log.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], T],
        lifetime: float,
        *,
        limit: float = LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._ask = ask
        self._lifetime = lifetime
        self._limit = limit
        self._clock = clock
        self._lock = Lock()
        self._asked_at: float | None = None  # while a thread asks
        self._answered_at: float | None = None
        self._value: T | None = None
        self._error: Exception | None = None

    def get(self) -> LastAnswer[T]:
        """Return the last answer; ask first if it is too old and no thread is asking."""
        return self.wait(self.start(), self._limit)

    def peek(self) -> LastAnswer[T]:
        """Return the last answer at once; ask in the background if it is too old."""
        self.start()
        return self.wait(None, 0.0)

    def start(self) -> Event | None:
        """Start to ask if it is time; return the Event that the answer sets, or None."""
        if not self._is_due():
            return None
        answered = Event()
        try:
            # A daemon, so that a question that hangs does not delay the end of the process.
            Thread(
                target=self._answer, args=(answered,), name="background value", daemon=True
            ).start()
        except RuntimeError as error:  # the process can start no thread now
            self._keep(None, error)
            return None
        return answered

    def wait(self, answered: Event | None, seconds: float) -> LastAnswer[T]:
        """Return the last answer; if this caller started to ask, wait for it up to ``seconds``."""
        if answered is not None and not answered.wait(seconds):
            log.warning("no answer in time", question=self._name, seconds=self._limit)
            return self._last(late=True)
        return self._last(late=self._is_late())

    def _is_due(self) -> bool:
        """Return whether the caller has to ask; then no other thread asks meanwhile."""
        with self._lock:
            now = self._clock()
            is_fresh = self._answered_at is not None and now - self._answered_at < self._lifetime
            if is_fresh or self._asked_at is not None:
                return False
            self._asked_at = now
            return True

    def _is_late(self) -> bool:
        with self._lock:
            return self._asked_at is not None and self._clock() - self._asked_at >= self._limit

    def _answer(self, answered: Event) -> None:
        try:
            self._keep(self._ask(), None)
        except Exception as error:  # noqa: BLE001 - the caller decides what it means
            self._keep(None, error)
        answered.set()

    def _keep(self, value: T | None, error: Exception | None) -> None:
        with self._lock:
            self._value, self._error = value, error
            self._asked_at, self._answered_at = None, self._clock()

    def _last(self, *, late: bool) -> LastAnswer[T]:
        with self._lock:
            age = None if self._answered_at is None else self._clock() - self._answered_at
            return LastAnswer(self._value, self._error, age, late)


def ask_all(values: Iterable[BackgroundValue[Any]], limit: float = LIMIT) -> list[LastAnswer[Any]]:
    """Return the answers to several questions, asked together, within ``limit`` seconds."""
    started = [(value, value.start()) for value in values]
    deadline = time.monotonic() + limit
    return [
        value.wait(answered, max(0.0, deadline - time.monotonic())) for value, answered in started
    ]
