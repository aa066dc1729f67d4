"""A time limit for requests to arrive.

A client that sends a byte now and then is never silent, and could occupy one of few threads for
hours. So every request has to arrive within a number of seconds; then its connection is closed for
reading, and the request is handled with what has arrived.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# Seconds for a request to arrive, head and body, from when a thread begins to read it.
REQUEST_TIMEOUT = 20.0


class RequestTimeouts:
    """The connections that are being served, each with its deadline."""

    def __init__(
        self, seconds: float = REQUEST_TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}

    @contextmanager
    def limit(self, connection: socket.socket) -> Iterator[None]:
        """Apply the time limit to a connection during the block."""
        with self._lock:
            self._deadlines[connection] = self._clock() + self._seconds
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.pop(connection, None)

    def close_late(self) -> None:
        """Close late connections for reading; to be called about every second.

        A response that is being sent is not affected, nor a request that has arrived completely.
        """
        with self._lock:
            now = self._clock()
            late = [one for one, deadline in self._deadlines.items() if deadline <= now]
            for connection in late:
                del self._deadlines[connection]
                with suppress(OSError):  # closed meanwhile
                    connection.shutdown(socket.SHUT_RD)
