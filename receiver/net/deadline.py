"""A connection that looks at the clock: what keeps a slow or silent source from holding a worker.

A socket's own timeout is per read, so a server that sends a byte now and then would last for ever. Here every read is given no more than
what is left of the whole fetch, and the average is watched; no second thread is needed.
"""

import io
import socket
from collections.abc import Callable

LONGEST_HEAD = 256 * 1024  # bytes before a body and, with chunks, behind it
SLOWEST = 1024  # bytes a second, on average; less than that is given up …
SLOWEST_AFTER = 60.0  # … but only judged after so many seconds of a connection


class Deadline:
    """The wall clock of one fetch: ``timeout`` seconds for all of it, ``stall`` seconds for one wait."""

    def __init__(self, clock: Callable[[], float], timeout: float, stall: float) -> None:
        self.now = clock
        self._end = clock() + timeout
        self._timeout = timeout
        self._stall = stall

    def remaining(self) -> float:
        """Return how many seconds the next wait may take; TimeoutError if there are none left."""
        left = self._end - self.now()
        if left <= 0:
            raise TimeoutError(f"not done within {self._timeout:g} s")
        return min(left, self._stall)


class DeadlineSocket(io.RawIOBase):
    """A connected socket, as HTTPResponse wants it, whose reads keep to the watch and fail after ``most`` bytes.

    The socket stays its owner's to close.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, most: int = LONGEST_HEAD) -> None:
        self._sock = sock
        self._watch = deadline
        self._begun = deadline.now()
        self._received = 0
        self._set: float | None = None
        self._most = most

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the reader HTTPResponse asks its socket for."""
        return io.BufferedReader(self, 64 * 1024)

    def allow(self, more: int) -> None:
        """Let so many bytes more pass."""
        self._most = self._received + more

    def readable(self) -> bool:
        """Tell BufferedReader that this is for reading."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # the buffer type of typeshed exists for checkers only
        """Read what has come, at least one byte unless it is the end; TimeoutError when the watch says so."""
        remaining = self._watch.remaining()
        if (
            remaining != self._set
        ):  # two system calls saved on nearly every read: it is the stall until the end is near
            self._sock.settimeout(remaining)
            self._set = remaining
        try:
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            self._watch.remaining()  # was it the whole fetch that ran out of time?
            raise TimeoutError(f"not a byte for {remaining:g} s") from None
        self._received += count
        if self._received > self._most:
            raise OSError(f"more than {self._most} bytes around what was asked for")
        elapsed = self._watch.now() - self._begun
        if elapsed > SLOWEST_AFTER and self._received < elapsed * SLOWEST:
            raise TimeoutError(f"too slow, {self._received} bytes in {elapsed:.0f} s")
        return count
