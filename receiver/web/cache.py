"""A cached value with a lifetime, for values that are read often and expensive to compute.

Libraries such as cachetools keep values by key; none lets one thread compute while the others wait
or get the previous value.
"""

import time
from collections.abc import Callable
from threading import Lock, Thread
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

# Seconds a request may take longer because it computes the value for all.
SLOW = 0.1

T = TypeVar("T")


class CachedValue(Generic[T]):
    """A value that one thread at a time computes again once it is older than ``lifetime`` seconds.

    ``serve_stale``: while one thread computes, the others get the previous value and do not wait.
    If the last time took longer than ``SLOW`` seconds, a thread of its own computes, so that no
    request waits. ``cost_factor``: keep a value at least this many times as long as its computation
    took.
    """

    def __init__(
        self,
        compute: Callable[[], T],
        lifetime: float,
        *,
        serve_stale: bool = False,
        cost_factor: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._lifetime = lifetime
        self._serve_stale = serve_stale
        self._cost_factor = cost_factor
        self._clock = clock
        self._lock = Lock()
        self._value: T | None = None
        self._seconds = 0.0  # that the last computation took
        self._expires_at = float("-inf")

    def get(self) -> T:
        """Return the value; compute it if it is missing or too old. Raise what computing raises."""
        if self._is_expired():
            may_wait = self._value is None or not self._serve_stale
            if self._lock.acquire(blocking=may_wait) and (
                may_wait or self._seconds <= SLOW or not self._starts_refresh()
            ):
                self._refresh()
        value = self._value
        assert value is not None  # noqa: S101 - the first call waits until there is one
        return value

    def peek(self) -> T | None:
        """Return the last value, however old; None if there is none yet."""
        return self._value

    def _is_expired(self) -> bool:
        return self._clock() >= self._expires_at

    def _starts_refresh(self) -> bool:
        """Let a thread compute; return False if the process can start no thread now."""
        try:
            # A daemon, so that a slow question does not delay the end of the process.
            Thread(target=self._refresh_in_background, name="cached value", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _refresh_in_background(self) -> None:
        try:
            self._refresh()
        except Exception:
            # The old value is returned until the lifetime is over; then the next request tries
            # again.
            self._expires_at = self._clock() + self._lifetime
            log.exception("value not computed, the previous one is shown")

    def _refresh(self) -> None:
        """Compute and release the lock."""
        try:
            if self._is_expired():  # not if another thread computed it while this one waited
                began = self._clock()
                self._value = self._compute()
                ended = self._clock()
                self._seconds = ended - began
                self._expires_at = ended + max(self._lifetime, self._cost_factor * self._seconds)
        finally:
            self._lock.release()
