"""A wall clock for requests on their way in.

Whoever sends a byte now and then never falls silent, and would keep one of few threads for hours: as long as the longest header, or the
largest callback, has bytes. Here every request has so many seconds to arrive; then its connection is closed for reading, and what came
is all there is.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# Seconds for a request to arrive, head and body, from when a thread began to read it.
ARRIVAL = 20.0


class Arrivals:
    """The connections being served, each with its deadline; ``cut_late`` is to be called every second or so."""

    def __init__(
        self, within: float = ARRIVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._within = within
        self._clock = clock
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}

    @contextmanager
    def expect(self, connection: socket.socket) -> Iterator[None]:
        """Watch a connection during the block."""
        with self._lock:
            self._deadlines[connection] = self._clock() + self._within
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.pop(connection, None)

    def cut_late(self) -> None:
        """Close for reading what is late. An answer on its way out is not touched, nor a request that came whole."""
        with self._lock:
            now = self._clock()
            for connection in [
                connection for connection, deadline in self._deadlines.items() if deadline <= now
            ]:
                del self._deadlines[connection]
                with suppress(OSError):  # gone meanwhile
                    connection.shutdown(socket.SHUT_RD)
