"""How far a download is. Other threads read it, and may ask it to stop."""

import time
from collections.abc import Callable

from receiver.errors import InterruptedFetchError

# ``pace`` is measured over at least this many calls of ``look``, and this many seconds.
_LOOKS, _MIN_SECONDS = 5, 2.0


class Progress:
    """The progress of one download, in bytes and in seconds of ``clock``.

    ``hosts`` are those of its URL and its redirects so far, with their ports if they are not usual.
    ``announced`` is the size that the server announced, None if it did not. ``is_running`` between
    its beginning and its last byte.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self.is_running = False
        self.hosts: list[str] = []
        self.announced: int | None = None
        self.received = 0
        self.reason = ""  # why it is to stop; "": it is not
        self._looks: tuple[tuple[float, int], ...] = ()  # when, and how much was received

    def begin(self) -> None:
        """Record that the download begins."""
        self._began, self._ended = self._clock(), None
        self._looks = ()
        self.is_running = True

    def end(self) -> None:
        """Record that nothing more is downloaded."""
        self._ended = self._clock()
        self.is_running = False

    def stop(self, reason: str) -> None:
        """Ask the download to stop. It stops within about one second, or ten while it connects."""
        self.reason = reason

    def require_wanted(self) -> None:
        """Raise InterruptedFetchError if the download is to stop."""
        if self.reason:
            raise InterruptedFetchError(f"interrupted: {self.reason}")

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return (self._clock() if self._ended is None else self._ended) - self._began

    @property
    def speed(self) -> float:
        """Bytes in a second on average, from the beginning, connecting included."""
        return self.received / max(self.seconds, 0.001)

    def look(self) -> None:
        """Note how far the download is; called about once a second, always by the same thread."""
        self._looks = (*self._looks[-_LOOKS:], (self._clock(), self.received))

    @property
    def pace(self) -> float:
        """Bytes in a second over the last few calls of ``look``, or on average if that is less.

        A server that sends nearly everything at once and then hardly anything keeps a good average
        for long.
        """
        at, before = self._looks[0] if self._looks else (self._clock(), 0)
        seconds = self._clock() - at
        recent = (self.received - before) / seconds if seconds >= _MIN_SECONDS else self.speed
        return min(self.speed, recent)

    def seconds_left(self) -> float:
        """Return how long it will last at its pace; infinite if that cannot be known."""
        if self.announced is None or not self.pace:
            return float("inf")
        return max(0, self.announced - self.received) / self.pace
