"""Connections to hosts that other people name: checked addresses only, and with a deadline.

Each address of a host is checked, and the connection goes to exactly that address. So a name that
changes its address between check and connection does no harm (DNS rebinding). TLS is verified
against the name. Proxies from the environment are not used.
"""

import http.client
import io
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

from receiver.errors import FetchError
from receiver.net.policy import AddressPolicy, Target
from receiver.net.progress import Progress

# Bytes allowed around a body: the head before it and, with chunked encoding, the trailers after it.
MAX_HEAD = 256 * 1024
# Bytes per second on average. A slower connection is closed, but not in its first seconds.
MIN_RATE = 1024
MIN_RATE_AFTER = 60.0
# Seconds for one address, so that a dead first address leaves time for the next one.
CONNECT_TIMEOUT = 10.0
# Seconds of one wait, after which a download notices that it is to stop.
MAX_WAIT = 1.0
_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[tuple[str, int], float], socket.socket]


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the system's order of preference.

    Raise OSError if it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Deadline:
    """The time limit of one request: ``timeout`` seconds in all, ``stall`` seconds for one wait.

    A socket's own timeout counts for each read only, so a server that sends one byte now and then
    could hold a worker for ever. Every wait therefore gets at most what is left of the whole
    request. No second thread is needed.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        timeout: float,
        stall: float,
        progress: Progress | None = None,
    ) -> None:
        self.now = clock
        self.progress = progress or Progress(clock)
        self._end = clock() + timeout
        self._timeout = timeout
        self._stall = stall

    def remaining(self) -> float:
        """Return how many seconds the next wait may take.

        Raise TimeoutError if none are left, InterruptedFetchError if the request is to stop.
        """
        self.progress.require_wanted()
        left = self._end - self.now()
        if left <= 0:
            raise TimeoutError(f"not finished within {self._timeout:g} s")
        return min(left, self._stall)

    def waits(self) -> Iterator[float]:
        """Yield the seconds of short waits, one after the other, until one may last no longer.

        Raise what ``remaining`` raises.
        """
        left = self.remaining()
        yield min(left, MAX_WAIT)
        while (left := left - MAX_WAIT) > 0:
            left = min(left, self.remaining())
            yield min(left, MAX_WAIT)

    @property
    def min_rate(self) -> float:
        """Bytes per second below which a request is stopped after a while.

        It is half of the speed that is needed to end in time.
        """
        return max(MIN_RATE, (self.progress.announced or 0) / self._timeout / 2)


class DeadlineSocket(io.RawIOBase):
    """A connected socket for one response: reads obey the deadline and stop at ``limit`` bytes.

    ``received`` is their number so far. It does not close the socket; the caller does.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, limit: int = MAX_HEAD) -> None:
        self._sock = sock
        self._deadline = deadline
        self._begun = deadline.now()
        self.received = 0
        self._socket_timeout: float | None = None
        self._limit = limit
        self._finished = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the buffered reader that HTTPResponse asks its socket for."""
        return io.BufferedReader(self, 64 * 1024)

    def allow(self, more: int) -> None:
        """Allow this many more bytes."""
        self._limit = self.received + more

    def finish(self) -> None:
        """Read nothing more: from now on the stream is at its end."""
        self._finished = True

    def readable(self) -> bool:
        """Return True: BufferedReader checks it."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # the buffer type of typeshed exists for checkers only
        """Read what has arrived: at least one byte, or none at the end of the stream.

        Raise TimeoutError if the deadline has passed or the source is too slow.
        """
        if self._finished:
            return 0
        count = self._receive(buffer)
        self.received += count
        self._deadline.progress.received += count
        if self.received > self._limit:
            raise OSError(f"more than {self._limit} bytes around the body")
        elapsed = self._deadline.now() - self._begun
        if elapsed > MIN_RATE_AFTER and self.received < elapsed * self._deadline.min_rate:
            raise TimeoutError(f"too slow, {self.received} bytes in {elapsed:.0f} s")
        return count

    def _receive(self, buffer: bytearray | memoryview) -> int:
        waited = 0.0
        for wait in self._deadline.waits():
            if wait != self._socket_timeout:
                # The value rarely changes, and each settimeout costs two system calls.
                self._sock.settimeout(wait)
                self._socket_timeout = wait
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                waited += wait
        self._deadline.remaining()  # raises if the whole request ran out of time
        raise TimeoutError(f"no data for {waited:g} s")


@cache
def _default_context() -> ssl.SSLContext:
    """Return the settings of TLS; reading the machine's certificates takes 25 ms and 1 MB."""
    return ssl.create_default_context()


class SafeConnector:
    """Makes connections that the policy allows. Threads may share it.

    Tests replace ``resolve``, ``connect`` and ``ssl_context`` to simulate the outside network.
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
        self._ssl_context = ssl_context or _default_context()

    def addresses(self, target: Target, deadline: Deadline) -> Sequence[str]:
        """Return the addresses of the target's host as they are now, all of them checked.

        If the policy refuses one of them, all are refused. Raise AddressRefusedError, or what
        sockets raise (see ``translate_network_errors``).
        """
        addresses = self._addresses(target, deadline)
        for ip in addresses:
            self.policy.check_address(ip, target.port, target.host)
        return addresses

    def connect(
        self, target: Target, addresses: Sequence[str], deadline: Deadline
    ) -> tuple[str, socket.socket]:
        """Return the first of these addresses that answers, and a socket connected to it."""
        ip, sock = self._connect_to_first(addresses, target.port, deadline)
        if sock.family in _INTERNET:  # a request must not wait for the acknowledgement of another
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.scheme == "http":
            return ip, sock
        try:
            sock.settimeout(min(CONNECT_TIMEOUT, deadline.remaining()))
            return ip, self._ssl_context.wrap_socket(sock, server_hostname=target.host)
        except BaseException:
            sock.close()
            raise

    def _addresses(self, target: Target, deadline: Deadline) -> Sequence[str]:
        """Return the addresses of the target's host before the deadline.

        getaddrinfo has no timeout, so it runs in a thread. If the thread is late, nothing waits for
        it.
        """
        if target.is_literal:
            return [target.host]
        result: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

        def resolve() -> None:
            try:
                result.put(self._resolve(target.host, target.port))
            except OSError as error:
                result.put(error)

        threading.Thread(target=resolve, name=f"resolve {target.host}", daemon=True).start()
        for wait in deadline.waits():
            with suppress(queue.Empty):
                found = result.get(timeout=wait)
                break
        else:
            raise TimeoutError("no answer from the name server")
        if isinstance(found, OSError):
            raise found
        if not found:
            raise OSError("the name has no address")
        return found

    def _connect_to_first(
        self, addresses: Sequence[str], port: int, deadline: Deadline
    ) -> tuple[str, socket.socket]:
        failure = OSError("no address")
        for ip in addresses:
            try:
                return ip, self._connect((ip, port), min(CONNECT_TIMEOUT, deadline.remaining()))
            except OSError as error:
                failure = error
        raise failure


@contextmanager
def translate_network_errors(host: str) -> Iterator[None]:
    """Turn what the network libraries raise into a FetchError that names the host."""
    try:
        yield
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or error.strerror
        raise FetchError(f"{host}: TLS failed, {reason}") from error
    except OSError as error:
        raise FetchError(f"{host}: {error.strerror or error}") from error
    except http.client.HTTPException as error:
        # Only the type: the text may repeat what the server sent, which may repeat the query.
        raise FetchError(f"{host}: broken HTTP answer, {type(error).__name__}") from error
