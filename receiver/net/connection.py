"""Connect to a checked address: the only way this service reaches places that others name.

Each address a host resolves to is checked, and the connection is made to that very address, so a name that changes its answer in between
gains nothing. TLS is verified against the name. No proxy of the environment is used.
"""

import http.client
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from receiver.errors import FetchError
from receiver.net.deadline import Deadline
from receiver.net.policy import AddressPolicy, Target

CONNECT_PATIENCE = (
    10.0  # seconds for one address, so that a dead first one leaves time for the next
)

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[tuple[str, int], float], socket.socket]


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the system's order of preference; OSError if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class SafeConnector:
    """Makes connections that the policy allows; safe to share between threads.

    ``resolve``, ``connect`` and ``ssl_context`` are for tests: the outside network.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolve: Resolve = look_up,
        connect: Connect = socket.create_connection,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = policy
        self._resolve = resolve
        self._connect = connect
        self._ssl_context = ssl_context or ssl.create_default_context()

    def connect(self, target: Target, deadline: Deadline) -> socket.socket:
        """Connect to a checked address of the target; one address that may not be connected to refuses them all.

        Raise AddressRefusedError, or what sockets raise: see ``network_errors``.
        """
        addresses = self._addresses(target, deadline)
        for ip in addresses:
            self.policy.check_address(ip, target.port, target.host)
        sock = self._first_that_answers(addresses, target.port, deadline)
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

    def _first_that_answers(
        self, addresses: Sequence[str], port: int, deadline: Deadline
    ) -> socket.socket:
        failure = OSError("no address")
        for ip in addresses:
            try:
                return self._connect((ip, port), min(CONNECT_PATIENCE, deadline.remaining()))
            except OSError as error:
                failure = error
        raise failure


@contextmanager
def network_errors(host: str) -> Iterator[None]:
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
