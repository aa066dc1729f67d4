"""gunicorn's threaded worker, as this service needs it: requests must arrive in time, and a stop answers whoever was already waiting.

A stopping worker of gunicorn takes no more connections, and closes a socket in whose queue some may wait: those are reset (gunicorn's
issues 2529 and 3397). Here the queue is emptied first and the socket closed at once: whoever comes later is refused, and knows it.
"""

import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding  # type: ignore[import-untyped]  # the package has no types
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # as above

from receiver.server.request_timeout import Arrivals

# Seconds, and bytes, that the other side of a connection we end has to end its own.
PARTING = 0.5
MOST_DRAINED = 1024 * 1024


def part(connection: socket.socket, within: float = PARTING) -> None:
    """End our side of a connection, and read what the other still sends, so that it gets our last answer instead of a reset.

    gunicorn does the same in its main loop, up to 2 s for each: one stranger who does not hang up would keep everybody out. Here it
    costs a thread, and what comes to the main loop has nothing left to wait for.
    """
    deadline = time.monotonic() + within
    left = MOST_DRAINED
    with suppress(OSError):  # gone already, or silent
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (patience := deadline - time.monotonic()) > 0:
            connection.settimeout(patience)
            piece = connection.recv(65536)
            if not piece:
                break
            left -= len(piece)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)


class DrainingWorker(ThreadWorker):  # type: ignore[misc]  # the package has no types
    """Serves requests that arrive in time, and empties the queue of its sockets before it closes them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrivals = Arrivals()

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's own signature
        """Begin or end to take connections; when this worker ends, the waiting ones are taken first."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                self._take_waiting(listener)
                listener.close()

    def _take_waiting(self, listener: Any) -> None:
        listener.setblocking(False)
        taken = -1
        while (
            taken != self.nr_conns
        ):  # `accept` counts what it takes, and says nothing when there is none
            taken = self.nr_conns
            self.accept(listener)

    def handle(self, conn: Any) -> Any:
        """Handle what is waiting on a connection; runs in one of the threads."""
        with self._arrivals.expect(conn.sock):
            goes_on = super().handle(conn)
        if goes_on is False:
            part(conn.sock)
        return goes_on

    def murder_pending(self) -> None:
        """End what waits too long; the main loop calls this every second."""
        super().murder_pending()
        self._arrivals.cut_late()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what cannot be read as a request; that it cannot is never our failure, so never a 5xx."""
        if isinstance(exc, UnsupportedTransferCoding):
            exc = InvalidHeader("TRANSFER-ENCODING", req=req)
        super().handle_error(req, client, addr, exc)
