"""Time limits for every request to a bucket, whatever its operation.

botocore limits each wait for data only, so a server that sends one byte now and then could hold a
thread for hours. Here the waits of one request count together, as sockets see them: a caller who
takes the bytes of a download slowly is not the server's fault.
"""

import io
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from _typeshed import WriteableBuffer
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request: seconds to connect, of one wait, and of all its waits.

    After ``rate_after`` seconds of waiting, ``rate`` bytes per second must have passed.
    """

    connect: float = 5.0
    stall: float = 60.0
    total: float = 1800.0
    rate: int = 1024
    rate_after: float = 60.0


LIMITS = Limits()
_HEAD = 1024  # bytes of a short answer


def limit_time(client: "S3Client", limits: Limits) -> None:
    """Make all connections of this client obey the limits."""
    pools = client._endpoint.http_session._pool_classes_by_scheme  # type: ignore[attr-defined] # noqa: SLF001 - botocore has no public way to replace its connections
    for scheme, pool in list(pools.items()):
        connection = type("TimedConnection", (_Timed, pool.ConnectionCls), {"limits": limits})
        pools[scheme] = type("TimedPool", (pool,), {"ConnectionCls": connection})


class _Pace:
    """The waits of one request."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waited = 0.0
        self._moved = 0

    def add(self, seconds: float, count: int) -> None:
        """Count a wait and its bytes. Raise TimeoutError beyond the limits."""
        self._waited += seconds
        self._moved += count
        if self._waited > self._limits.total:
            raise TimeoutError(f"not finished within {self._limits.total:g} s")
        if (
            self._waited > self._limits.rate_after
            and self._moved < self._waited * self._limits.rate
        ):
            raise TimeoutError(f"too slow, {self._moved} bytes in {self._waited:.0f} s")


class _Timed:
    """Part of a connection class of botocore: each request has a pace of its own."""

    limits: Limits
    sock: Any

    def connect(self) -> None:
        """Connect, and watch the socket from now on."""
        super().connect()  # type: ignore[misc] # the other base class has it
        self.sock = _TimedSocket(self.sock, _Pace(self.limits))

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request; see http.client."""
        if self.sock is not None:
            self.sock.pace = _Pace(self.limits)
        return super().request(*args, **kwargs)  # type: ignore[misc] # as above


class _TimedSocket:
    """A connected socket whose reads and writes are counted."""

    def __init__(self, sock: socket.socket, pace: _Pace) -> None:
        self._sock = sock
        self.pace = pace

    def __getattr__(self, name: str) -> Any:
        """Return what the socket has."""
        return getattr(self._sock, name)

    def sendall(self, data: "bytes | memoryview") -> None:
        """Send the bytes."""
        began = time.monotonic()
        self._sock.sendall(data)
        self.pace.add(time.monotonic() - began, len(data))

    def makefile(self, _mode: str, buffering: int = -1) -> io.RawIOBase | io.BufferedReader:
        """Return a stream of what is received."""
        stream = _TimedStream(self._sock, self.pace.add)
        return stream if buffering == 0 else io.BufferedReader(stream)


class _TimedStream(io.RawIOBase):
    def __init__(self, sock: socket.socket, count: Callable[[float, int], None]) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        began = time.monotonic()
        received = self._raw.readinto(buffer) or 0
        self._count(time.monotonic() - began, received)
        return received

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line; raise RemoteDisconnected at the end.

        botocore reads the lines after ``100 Continue`` until an empty one: after the end, for ever.
        """
        if line := super().readline(size):
            return line
        raise RemoteDisconnected("the server closed the connection instead of an answer")

    def peek(self, size: int) -> bytes:
        """Return what has come, and leave it there, so that ``readline`` takes a line at once.

        Without it that reads single bytes, as with TLS, whose sockets (also urllib3's own, to a
        proxy with TLS) cannot do this.
        """
        if type(self._sock) is not socket.socket:
            return b""
        began = time.monotonic()
        seen = self._sock.recv(max(size, _HEAD), socket.MSG_PEEK)
        self._count(time.monotonic() - began, 0)
        return seen

    def close(self) -> None:
        self._raw.close()
        super().close()
