"""gunicorn's threaded worker with a time limit for requests and a stop that loses no connection.

A stopping worker of gunicorn accepts no more connections and closes its socket, so that those in
the socket's queue are reset (gunicorn's issues 2529 and 3397). Here the queue is emptied first and
the socket is closed at once: clients that come later are refused, and know it.
"""

import socket
import time
from contextlib import suppress
from ssl import SSLError
from typing import Any

from gunicorn.http.errors import InvalidHeader, ParseException, UnsupportedTransferCoding  # type: ignore[import-untyped]  # the package has no types
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # as above

from receiver.server.gunicorn_log import client_faults
from receiver.server.request_timeout import RequestTimeouts

# Seconds that a client has to close its side after we closed ours, and bytes read meanwhile.
CLOSE_TIMEOUT = 0.5
MAX_READ_AT_CLOSE = 1024 * 1024


def close_gracefully(connection: socket.socket, seconds: float = CLOSE_TIMEOUT) -> None:
    """Close our side of a connection, and read what the client still sends.

    Without this the client may get a reset instead of our last response. gunicorn does the same in
    its main loop, up to 2 s per connection: one client that does not close would block all others.
    Here it costs a thread, and the main loop has nothing left to wait for.
    """
    deadline = time.monotonic() + seconds
    left = MAX_READ_AT_CLOSE
    with suppress(OSError):  # closed already, or silent
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (remaining := deadline - time.monotonic()) > 0:
            connection.settimeout(remaining)
            received = connection.recv(65536)
            if not received:
                break
            left -= len(received)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)


class DrainingWorker(ThreadWorker):  # type: ignore[misc]  # the package has no types
    """Limits how long requests take to arrive; empties the queue of its sockets before closing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timeouts = RequestTimeouts()

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's own signature
        """Start or stop accepting; when this worker stops, first accept those that wait."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                self._accept_waiting(listener)
                listener.close()

    def _accept_waiting(self, listener: Any) -> None:
        listener.setblocking(False)
        accepted = -1
        # ``accept`` counts in nr_conns, and returns nothing that would say whether there was one.
        while accepted != self.nr_conns:
            accepted = self.nr_conns
            self.accept(listener)

    def handle(self, conn: Any) -> Any:
        """Handle what is waiting on a connection; runs in one of the threads."""
        with self._timeouts.limit(conn.sock):
            keep_open = super().handle(conn)
        if keep_open is False:
            close_gracefully(conn.sock)
        return keep_open

    def murder_pending(self) -> None:
        """Close connections that are late or idle for too long; called about every second."""
        super().murder_pending()
        self._timeouts.close_late()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer an unreadable request, never with a 5xx: the fault is the client's."""
        if isinstance(exc, UnsupportedTransferCoding):
            exc = InvalidHeader("TRANSFER-ENCODING", req=req)
        if isinstance(exc, (ParseException, SSLError)):
            client_faults.log(f"{type(exc).__name__}: this is not HTTP, or too large")
        super().handle_error(req, client, addr, exc)
