"""Connect to a checked address: the only way this service reaches places that others name.

Each address a host resolves to is checked, and the connection is made to that very address, so a name that changes its answer in between
gains nothing. TLS is verified against the name. No proxy of the environment is used.
"""

import http.client
import io
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from receiver.errors import FetchError
from receiver.net.policy import AddressPolicy, Target

MAX_HEAD = 256 * 1024  # bytes before a body and, with chunks, behind it
MIN_RATE = 1024  # bytes a second, on average; less than that is given up …
MIN_RATE_AFTER = 60.0  # … but only judged after so many seconds of a connection
CONNECT_TIMEOUT = 10.0  # seconds for one address, so that a dead first one leaves time for the next

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[tuple[str, int], float], socket.socket]


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the system's order of preference; OSError if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


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
    """A connected socket, as HTTPResponse wants it, whose reads keep to the watch and fail after ``limit`` bytes.

    The socket stays its owner's to close.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, limit: int = MAX_HEAD) -> None:
        self._sock = sock
        self._deadline = deadline
        self._begun = deadline.now()
        self._received = 0
        self._socket_timeout: float | None = None
        self._limit = limit

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the reader HTTPResponse asks its socket for."""
        return io.BufferedReader(self, 64 * 1024)

    def allow(self, more: int) -> None:
        """Let so many bytes more pass."""
        self._limit = self._received + more

    def readable(self) -> bool:
        """Tell BufferedReader that this is for reading."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # the buffer type of typeshed exists for checkers only
        """Read what has come, at least one byte unless it is the end; TimeoutError when the watch says so."""
        remaining = self._deadline.remaining()
        if (
            remaining != self._socket_timeout
        ):  # two system calls saved on nearly every read: it is the stall until the end is near
            self._sock.settimeout(remaining)
            self._socket_timeout = remaining
        try:
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            self._deadline.remaining()  # was it the whole fetch that ran out of time?
            raise TimeoutError(f"not a byte for {remaining:g} s") from None
        self._received += count
        if self._received > self._limit:
            raise OSError(f"more than {self._limit} bytes around what was asked for")
        elapsed = self._deadline.now() - self._begun
        if elapsed > MIN_RATE_AFTER and self._received < elapsed * MIN_RATE:
            raise TimeoutError(f"too slow, {self._received} bytes in {elapsed:.0f} s")
        return count


class SafeConnector:
    """Makes connections that the policy allows; safe to share between threads.

    ``resolve``, ``connect`` and ``ssl_context`` are for tests: the outside network.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolve: Resolve = resolve_host,
        connect: Connect = socket.create_connection,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = policy
        self._resolve = resolve
        self._connect = connect
        self._ssl_context = ssl_context or ssl.create_default_context()

    def connect(self, target: Target, deadline: Deadline) -> socket.socket:
        """Connect to a checked address of the target; one address that may not be connected to refuses them all.

        Raise AddressRefusedError, or what sockets raise: see ``translate_network_errors``.
        """
        addresses = self._addresses(target, deadline)
        for ip in addresses:
            self.policy.check_address(ip, target.port, target.host)
        sock = self._connect_to_first(addresses, target.port, deadline)
        if target.scheme == "http":
            return sock
        try:
            sock.settimeout(deadline.remaining())
            return self._ssl_context.wrap_socket(sock, server_hostname=target.host)
        except BaseException:
            sock.close()
            raise

    def _addresses(self, target: Target, deadline: Deadline) -> Sequence[str]:
        """Resolve the target's host within the wall clock: getaddrinfo has no timeout, so it is left behind in a thread if it is late."""
        if target.is_literal:
            return [target.host]
        answer: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self._resolve(target.host, target.port))
            except OSError as error:
                answer.put(error)

        threading.Thread(target=ask, name=f"look-up {target.host}", daemon=True).start()
        try:
            found = answer.get(timeout=deadline.remaining())
        except queue.Empty:
            raise TimeoutError("no answer from the name server") from None
        if isinstance(found, OSError):
            raise found
        if not found:
            raise OSError("the name has no address")
        return found

    def _connect_to_first(
        self, addresses: Sequence[str], port: int, deadline: Deadline
    ) -> socket.socket:
        failure = OSError("no address")
        for ip in addresses:
            try:
                return self._connect((ip, port), min(CONNECT_TIMEOUT, deadline.remaining()))
            except OSError as error:
                failure = error
        raise failure


@contextmanager
def translate_network_errors(host: str) -> Iterator[None]:
    """Be the seam: what the network's libraries raise becomes a FetchError that names the host."""
    try:
        yield
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or error.strerror
        raise FetchError(f"{host}: TLS failed, {reason}") from error
    except OSError as error:
        raise FetchError(f"{host}: {error.strerror or error}") from error
    except (
        http.client.HTTPException
    ) as error:  # its text may repeat what the server sent, and that the query
        raise FetchError(f"{host}: broken HTTP answer, {type(error).__name__}") from error
