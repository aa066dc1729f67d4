"""gunicorn's threaded worker; here a client gets a thread only when its request has arrived.

gunicorn gives a connection a thread as soon as it is accepted. The thread then waits for the first
byte, the head, the body, and the close by the client. Here the main loop reads for all connections
at once. A request gets a thread when it has arrived completely, so that the thread need not wait. A
request may be answered without its body, so a few threads are for requests whose body has not come.
Usual callbacks get no thread: the main loop handles them itself, see ``greenlets``.

When gunicorn's worker stops, it closes its socket, and the connections in the socket's queue are
reset (gunicorn's issues 2529 and 3397). Here the queue is emptied first. Then the socket is closed
at once, so that later clients see that they are refused.
"""

import errno
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from ssl import SSLError
from typing import Any

from gunicorn.http import get_parser  # type: ignore[import-untyped]  # the package has no types
from gunicorn.http.errors import InvalidHeader, ParseException, UnsupportedTransferCoding  # type: ignore[import-untyped]  # as above
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker  # type: ignore[import-untyped]  # as above

from receiver.server import refusals
from receiver.server.arrivals import Arrival
from receiver.server.greenlets import Greenlets
from receiver.server.gunicorn_log import INCOMPLETE, client_faults
from receiver.server.handover import give_thread
from receiver.server.request_timeout import RequestTimeouts

# Seconds that a client has to close its side after we closed ours, and bytes read meanwhile.
CLOSE_TIMEOUT = 0.5
MAX_READ_AT_CLOSE = 1024 * 1024
# The part of the threads that may wait for bodies.
WAITING_SHARE = 4
# Seconds that a thread waits for the rest of a body that the application did not want.
DRAIN_TIMEOUT = 0.5
# Bytes of incomplete requests that are kept outside the threads.
MAX_KEPT = 32 * 1024 * 1024
# Seconds between two checks for late clients.
LOOK_INTERVAL = 0.25
_PIECE = 64 * 1024
# Requests that the main loop handles before it checks for other events.
MAX_READY = 64
_NO_MORE_SOCKETS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class DrainingWorker(ThreadWorker):  # type: ignore[misc]  # the package has no types
    """Reads requests outside its threads; empties the queue of its sockets before closing.

    Everything but ``handle`` runs in the main loop. There it must not wait for a client.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timeouts = RequestTimeouts()
        self._arrivals: dict[Any, Arrival] = {}  # requests that are read here
        self._kept = 0  # bytes of these requests
        self._queue: dict[Any, None] = {}  # requests that wait for one of the threads that may wait
        self._waiting: dict[Any, str] = {}  # connections in these threads, and their clients
        self._may_wait = max(1, self.cfg.threads // WAITING_SHARE)
        self._closing: dict[Any, tuple[float, int]] = {}  # our side is closed: until when, bytes
        self._next_look = 0.0
        self._taken = 0  # connections accepted
        self._ready: deque[Any] = deque()  # connections with a request to be handled here
        self._is_for_main_loop: Callable[[bytes], bool] = lambda _: False
        # TLS, HTTP/2 and the PROXY protocol begin with bytes of their own.
        self._is_plain = not (
            self.cfg.is_ssl
            or self.cfg.http2_cleartext in {"prior-knowledge", "both"}
            or self.cfg.proxy_protocol not in {False, "off"}
        )

    def get_thread_pool(self) -> Any:
        """Return the thread pool; greenlets have threads of their own."""
        self._greenlets = Greenlets(self.method_queue.defer)
        return super().get_thread_pool()

    def handle_in_main_loop(self, is_meant: Callable[[bytes], bool]) -> None:
        """Handle the requests here for which ``is_meant`` is true; they wait only for the ledger.

        ``is_meant`` gets the bytes of a request, head and body.
        """
        self._is_for_main_loop = is_meant

    # Connections.

    def accept(self, listener: Any) -> None:
        """Accept a connection. If there are too many, one that has sent no request is closed."""
        while self.nr_conns >= self.worker_connections - 1 and self._drop_oldest():
            pass
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _NO_MORE_SOCKETS:
                raise
            client_faults.log(f"no more connections: {error.strerror}")
            if not self._drop_oldest():
                time.sleep(LOOK_INTERVAL / 10)  # the socket stays readable: do not spin

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's own signature
        """Start or stop accepting; when this worker stops, first accept those that wait."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                self._accept_waiting(listener)
                listener.close()

    def _accept_waiting(self, listener: Any) -> None:
        listener.setblocking(False)
        taken = -1
        # ``accept`` returns nothing that would say whether there was one.
        while taken != self._taken:
            taken = self._taken
            self.accept(listener)

    def _drop_oldest(self) -> bool:
        """Close the oldest connection without a request; return False if there is none.

        It belongs to the client with the most connections, so that this client does not cost others
        their connections.
        """
        count: dict[str, int] = {}
        for arrival in self._arrivals.values():
            count[arrival.party] = count.get(arrival.party, 0) + 1
        if count:
            most = max(count, key=count.__getitem__)
            self._drop(next(one for one, its in self._arrivals.items() if its.party == most))
        elif self.keepalived_conns:
            conn = self.keepalived_conns.popleft()
            self._stop_reading(conn)
            self._close(conn)
        else:
            return False
        return True

    # Requests that arrive.

    def enqueue_req(self, conn: Any) -> None:
        """Read what there is of the next request; called when something may have arrived."""
        self._taken += not conn.initialized
        if not self._is_plain:
            give_thread(self, conn)
            return
        now = time.monotonic()
        arrival = self._arrivals[conn] = Arrival(_party(conn), now)
        if conn.parser is None:
            conn.parser = get_parser(self.cfg, conn.sock, conn.client)
        elif read_ahead := conn.parser.unreader.take_buffered():
            self._add(arrival, read_ahead, now)
        self._read(conn)
        if conn in self._arrivals and not arrival.has_ended and not arrival.is_too_much:
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._readable, conn))

    def _readable(self, conn: Any, _sock: Any) -> None:
        self._read(conn)

    def _read(self, conn: Any) -> None:
        """Read once from a connection without waiting, and give it a thread if it is time."""
        arrival = self._arrivals.get(conn)
        if arrival is None:  # an earlier event of this round closed it, or gave it a thread
            return
        try:
            piece = conn.sock.recv(_PIECE, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            piece = None
        except OSError:  # the connection is broken
            self._drop(conn)
            return
        if piece:
            self._add(arrival, piece, time.monotonic())
        elif piece is not None:
            arrival.has_ended = True
        if arrival.is_line_too_long:
            self._refuse(conn, refusals.too_long(bytes(arrival.data)))
        elif arrival.is_complete:
            self._begin(conn)
        elif arrival.needs_thread:
            self._await_thread(conn)
        elif arrival.has_ended:
            self._drop(conn)

    def _add(self, arrival: Arrival, piece: bytes, now: float) -> None:
        arrival.add(piece, now)
        self._kept += len(piece)
        if self._kept > MAX_KEPT and not arrival.is_complete:
            arrival.is_too_much = True

    def _await_thread(self, conn: Any) -> None:
        """Queue a connection for a thread that may wait; reading goes on here if it can."""
        arrival = self._arrivals[conn]
        if arrival.has_ended or arrival.is_too_much:
            self._stop_reading(conn)
        self._queue[conn] = None
        self._begin_queued()

    def _begin_queued(self) -> None:
        """Give free threads that may wait to the clients that have the fewest of them."""
        while self._queue and len(self._waiting) < self._may_wait:
            busy = list(self._waiting.values())
            conn = min(self._queue, key=lambda one: busy.count(self._arrivals[one].party))
            self._waiting[conn] = self._arrivals[conn].party
            self._begin(conn)

    def _begin(self, conn: Any) -> None:
        """Handle a request here if it waits for the ledger only, else give it a thread."""
        self._stop_reading(conn)
        arrival = self._forget(conn)
        data = bytes(arrival.data)
        conn.parser.unreader.unread(data)
        conn.data_ready = True
        if arrival.is_complete and self._is_for_main_loop(data) and _is_writable(conn.sock):
            self._ready.append(conn)
        else:
            give_thread(self, conn)

    def _start_ready(self) -> None:
        """Handle the requests that are ready, each in a greenlet."""
        for _ in range(min(len(self._ready), MAX_READY)):
            conn = self._ready.popleft()
            self._greenlets.start(
                partial(self._handle_here, conn), partial(self._finish_greenlet, conn)
            )
        self._greenlets.commit()

    def _handle_here(self, conn: Any) -> Any:
        """Handle a request in a greenlet; an error ends the connection, as in a thread."""
        try:
            return super().handle(conn)
        except Exception:
            self.log.exception("Error handling request")
            return False

    def _finish_greenlet(self, conn: Any, keepalive: Any) -> None:
        finished: Future[Any] = Future()
        finished.set_result(keepalive)
        self.finish_request(conn, finished)

    def _stop_reading(self, conn: Any) -> None:
        with suppress(KeyError, ValueError):  # not registered, or closed
            self.poller.unregister(conn.sock)

    def _forget(self, conn: Any) -> Arrival:
        self._queue.pop(conn, None)
        arrival = self._arrivals.pop(conn)
        self._kept -= len(arrival.data)
        return arrival

    def _refuse(self, conn: Any, response: bytes) -> None:
        """Answer a request that gunicorn would answer without a remedy."""
        self._stop_reading(conn)
        self._forget(conn)
        refusals.send(conn, response)
        self._close_gracefully(conn)

    def _drop(self, conn: Any) -> None:
        """Close a connection on which no request arrived."""
        self._stop_reading(conn)
        self._forget(conn)
        self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    # Requests that are handled.

    def handle(self, conn: Any) -> Any:
        """Handle the request on a connection in one of the threads."""
        with self._timeouts.limit(conn.sock):
            return super().handle(conn)

    def _keepalive_after(self, conn: Any, keepalive: Any) -> bool:
        """Return whether the connection can be reused; read an unwanted body for a moment only."""
        if not keepalive:
            return False
        return bool(conn.parser.finish_body(deadline=time.monotonic() + DRAIN_TIMEOUT))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keep a connection for its next request, or close it."""
        self._waiting.pop(conn, None)
        self._begin_queued()
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
        else:
            self._close_gracefully(conn)

    def _close_gracefully(self, conn: Any) -> None:
        """Close our side of a connection, and read what the client still sends.

        Without this the client may get a reset instead of our last response. gunicorn waits for the
        client in its main loop, so a client that does not close blocks all others.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._closing_read, conn))
        except (OSError, KeyError, ValueError):  # closed already
            self._close(conn)
            return
        self._closing[conn] = (time.monotonic() + CLOSE_TIMEOUT, MAX_READ_AT_CLOSE)

    def _closing_read(self, conn: Any, _sock: Any) -> None:
        if conn not in self._closing:  # an earlier event of this round ended it
            return
        until, left = self._closing[conn]
        piece = b""
        with suppress(BlockingIOError, InterruptedError, ConnectionError):
            piece = conn.sock.recv(_PIECE, socket.MSG_DONTWAIT)
        self._closing[conn] = (until, left - len(piece))
        if not piece or left <= len(piece):
            self._end_closing(conn)

    def _end_closing(self, conn: Any) -> None:
        del self._closing[conn]
        self._stop_reading(conn)
        self._close(conn)

    # Time limits.

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, at most until the next check for late clients."""
        if self._ready:
            timeout = 0
        elif self._arrivals or self._closing or self._greenlets.are_waiting:
            timeout = min(timeout, LOOK_INTERVAL)
        super().wait_for_and_dispatch_events(timeout)
        self._start_ready()

    def murder_pending(self) -> None:
        """Close connections that are late or idle for too long; called after all events."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        super().murder_pending()
        self._timeouts.close_late()
        self._greenlets.end_late()
        idle = self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER
        for conn, arrival in list(self._arrivals.items()):
            if not arrival.has_ended and arrival.is_late(now, idle):
                self._end_late(conn, arrival)
        for conn in [one for one, (until, _) in self._closing.items() if until <= now]:
            self._end_closing(conn)

    def _end_late(self, conn: Any, arrival: Arrival) -> None:
        """Close a late connection; a request whose head is there is handled with what has come."""
        if not arrival.needs_thread:
            if arrival.data:
                client_faults.log(INCOMPLETE)
            self._drop(conn)
            return
        arrival.has_ended = True
        with suppress(OSError):  # closed meanwhile
            conn.sock.shutdown(socket.SHUT_RD)
        self._await_thread(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer an unreadable request, never with a 5xx: the fault is the client's."""
        if isinstance(exc, UnsupportedTransferCoding):
            exc = InvalidHeader("TRANSFER-ENCODING", req=req)
        if isinstance(exc, (ParseException, SSLError)):
            client_faults.log(f"{type(exc).__name__}: this is not HTTP, or too large")
        super().handle_error(req, client, addr, exc)


def _is_writable(sock: socket.socket) -> bool:
    """Return whether a short response can be sent without waiting for the client to read."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))


def _party(conn: Any) -> str:
    """Return whose connection it is: the address of the client, "" on a Unix socket."""
    return str(conn.client[0]) if isinstance(conn.client, tuple) else ""
