"""The HTTP/1.1 client of downloads and events, which keeps connections for the next request.

A TLS handshake costs more than a small picture. Every request resolves and checks the host's
addresses again. A kept connection is used again only for the same host and to one of these
addresses. A kept connection on which anything arrives is closed: the server has ended it, or sends
an answer to no request.
"""

import http.client
import select
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from receiver.net.connection import MAX_HEAD, Deadline, DeadlineSocket, SafeConnector
from receiver.net.policy import Target
from receiver.net.response import Response

# Most connections that one process keeps, and seconds after which a connection is too old.
IDLE_CONNECTIONS = 32
IDLE_SECONDS = 15.0
# Bytes of an unwanted body that are read so that its connection can be kept.
SMALL_BODY = 16 * 1024


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request; the target has been checked by the policy, and so have the headers."""

    method: str
    target: Target
    headers: Mapping[str, str]
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes to send."""
        lines = [f"{self.method} {self.target.path} HTTP/1.1", f"Host: {self.target.authority}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.body


@dataclass(frozen=True, slots=True)
class _Key:
    """What a connection may be used for again: the same host at the same checked address."""

    scheme: str
    host: str
    port: int
    ip: str


@dataclass(slots=True)
class _IdleConnections:
    """Connections that wait for the next request, the oldest first. Threads share them."""

    now: Callable[[], float]
    limit: int
    kept: deque[tuple[_Key, socket.socket, float]] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_closed: bool = False

    def take(self, keys: Sequence[_Key]) -> tuple[_Key, socket.socket] | None:
        """Return the newest connection that may be used, if there is one."""
        while True:
            with self.lock:
                self._drop_old()
                found = next((one for one in reversed(self.kept) if one[0] in keys), None)
                if found is None:
                    return None
                self.kept.remove(found)
            if _is_silent(found[1]):
                return found[0], found[1]
            found[1].close()

    def put(self, key: _Key, sock: socket.socket) -> None:
        """Keep a connection, or close it if something arrives on it already."""
        is_silent = _is_silent(sock)
        with self.lock:
            if self.is_closed or not is_silent:
                sock.close()
                return
            self.kept.append((key, sock, self.now() + IDLE_SECONDS))
            self._drop_old()

    def close(self) -> None:
        """Close all, and keep none from now on."""
        with self.lock:
            self.is_closed = True
            while self.kept:
                self.kept.popleft()[1].close()

    def _drop_old(self) -> None:
        while self.kept and (len(self.kept) > self.limit or self.kept[0][2] <= self.now()):
            self.kept.popleft()[1].close()


class HttpClient:
    """Sends requests over checked connections. Threads may share it."""

    def __init__(
        self,
        connector: SafeConnector,
        *,
        clock: Callable[[], float] = time.monotonic,
        idle_connections: int = IDLE_CONNECTIONS,
    ) -> None:
        self.policy = connector.policy
        self._connector = connector
        self._idle = _IdleConnections(clock, idle_connections)
        weakref.finalize(self, self._idle.close)  # for a client that is never closed

    @contextmanager
    def exchange(
        self, request: HttpRequest, deadline: Deadline, *, max_body: int
    ) -> Iterator[Response]:
        """Send a request; yield the response when its head has come.

        At most ``max_body`` bytes of body and its framing may follow. A small body that is left is
        read, so that the connection can be kept. Raise AddressRefusedError, or what sockets and
        http.client raise (see ``translate_network_errors``).
        """
        key, sock, stream, response = self._send(request, deadline)
        try:
            stream.allow(MAX_HEAD + max_body)
            yield response
            _discard_small_body(response)
        except BaseException:
            sock.close()
            raise
        if response.leaves_clean_connection():
            self._idle.put(key, sock)
        else:
            sock.close()

    def close(self) -> None:
        """Close the kept connections. The client can still be used, but keeps none any more."""
        self._idle.close()

    def _send(
        self, request: HttpRequest, deadline: Deadline
    ) -> tuple[_Key, socket.socket, DeadlineSocket, Response]:
        """Send the request over a kept connection or a new one and read the head of the response.

        If a kept connection ends without one byte of a response, the server had closed it before it
        saw the request. Then the request is sent once more over a new connection.
        """
        target = request.target
        addresses = self._connector.addresses(target, deadline)
        keys = [_Key(target.scheme, target.host, target.port, ip) for ip in addresses]
        if kept := self._idle.take(keys):
            stream = DeadlineSocket(kept[1], deadline)
            try:
                return *kept, stream, _begin(kept[1], stream, request, deadline)
            except (ConnectionError, ssl.SSLError):
                if stream.received:
                    raise
        ip, sock = self._connector.connect(target, addresses, deadline)
        stream = DeadlineSocket(sock, deadline)
        key = _Key(target.scheme, target.host, target.port, ip)
        return key, sock, stream, _begin(sock, stream, request, deadline)


def _begin(
    sock: socket.socket, stream: DeadlineSocket, request: HttpRequest, deadline: Deadline
) -> Response:
    """Send the request and read the head of the response; close the socket after any error."""
    try:
        sock.settimeout(deadline.remaining())
        sock.sendall(request.encode())
        return Response(stream, request.method)
    except BaseException:
        sock.close()
        raise


def _discard_small_body(response: Response) -> None:
    """Read what is left of a body if it is small. If it breaks off, the connection is not kept."""
    if response.length and response.length <= SMALL_BODY:
        with suppress(OSError, http.client.HTTPException):
            response.read()


def _is_silent(sock: socket.socket) -> bool:
    """Return whether nothing has arrived, not even the end of the stream."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)
