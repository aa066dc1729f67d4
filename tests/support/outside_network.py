"""A simulated outside network for tests of downloads: local servers that follow a script.

``OutsideNetwork`` maps names and public addresses to these servers, so that no exemption is needed.
It records connections and checks that the test leaves no thread and no open file behind.
"""

import errno
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

from waiting import until

from receiver.net.download import NO_HEADERS, Fetched, Fetcher
from receiver.net.policy import AddressPolicy
from receiver.net.progress import Progress

Script = Callable[[socket.socket], None]

PICTURE = bytes(range(256)) * 4096  # 1 MiB
URL = "http://pictures.example/x.png?sig=hunter2"
OUTSIDE = "93.184.216.34"  # a public address, that of pictures.example
WEB = (OUTSIDE, 80)
TLS = (OUTSIDE, 443)
OK = b"HTTP/1.1 200 OK\r\n"

_TIMEOUT = 10.0  # seconds after which a server of a broken test stops waiting
DEFAULT_TLS = (
    ssl.create_default_context()
)  # made once: reading the system's certificates takes longer than a fetch


class ScriptedServer:
    """Plays one script for each connection, repeats the last one, and records the requests.

    Each connection has a thread, because clients keep connections.
    """

    def __init__(self, scripts: tuple[Script, ...], tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._scripts = scripts
        self._tls = tls
        self._players: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="outside server")
        self._thread.start()

    def close(self) -> None:
        """Stop; the script that plays ends when its client hangs up."""
        self._listener.shutdown(socket.SHUT_RDWR)  # ends accept
        self._thread.join(2 * _TIMEOUT)
        for thread in self._players:
            thread.join(2 * _TIMEOUT)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            player = threading.Thread(
                target=self._serve, args=(script, connection), name="outside connection"
            )
            self._players.append(player)
            player.start()

    def _serve(self, script: Script, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client disconnected, which is often intended
            self._play(script, connection)

    def _play(self, script: Script, connection: socket.socket) -> None:
        connection.settimeout(_TIMEOUT)
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection:
            self.requests.append(read_request(connection))
            script(connection)


class OutsideNetwork:
    """The names and servers of the network, and a record of resolved names and connections."""

    def __init__(self, picture: Path) -> None:
        self.picture = picture
        self.names = {"pictures.example": [OUTSIDE]}
        self.servers: dict[tuple[str, int], ScriptedServer] = {}
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        """Remember the threads and open files there are."""
        self._threads = set(threading.enumerate())
        self._files = _open_files()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all servers; nothing may be left."""
        for server in set(self.servers.values()):
            server.close()
        until(
            lambda: not set(threading.enumerate()) - self._threads, what="the end of every thread"
        )
        until(lambda: not _open_files() - self._files, what="every file and socket closed")

    def fetch(
        self,
        url: str = URL,
        policy: AddressPolicy | None = None,
        progress: Progress | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        **options: Any,
    ) -> Fetched:
        """Fetch a URL through this network into the file ``picture``."""
        defaults: dict[str, Any] = {
            "max_bytes": 2 * len(PICTURE),
            "timeout": 10.0,
            "resolve": self.resolve,
            "connect": self.connect,
            "ssl_context": DEFAULT_TLS,
        }
        with closing(Fetcher(policy or AddressPolicy(), **(defaults | options))) as fetcher:
            return fetcher.fetch(url, self.picture, progress, headers=headers)

    def serve(
        self, *scripts: Script, at: tuple[str, int], tls: ssl.SSLContext | None = None
    ) -> ScriptedServer:
        """Start a server at an address and port of this network."""
        self.servers[at] = ScriptedServer(scripts, tls)
        return self.servers[at]

    def resolve(self, host: str, _port: int) -> list[str]:
        """Replace the name server."""
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[host]

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """Replace ``socket.create_connection``."""
        self.connected.append(address)
        if address not in self.servers:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return socket.create_connection(("127.0.0.1", self.servers[address].port), timeout)


class FastClock:
    """A clock that moves ``step`` seconds each time it is read."""

    def __init__(self, step: float) -> None:
        self._now = 0.0
        self._step = step

    def __call__(self) -> float:
        """Return the time."""
        self._now += self._step
        return self._now


def read_request(connection: socket.socket) -> bytes:
    """Return a request without a body; at the end of the stream what has come, and a blank line."""
    request = b""
    # TLS may be spoken to a server without.
    while not request.endswith(b"\r\n\r\n") and not request.startswith(b"\x16"):
        request += connection.recv(4096) or b"\r\n\r\n"
    return request


def keep(*scripts: Script) -> Script:
    """Script: play these for one request after the other, on one connection."""

    def play(connection: socket.socket) -> None:
        for number, script in enumerate(scripts):
            if number and not read_request(connection).strip():
                return
            script(connection)
        connection.recv(1)  # until the client hangs up

    return play


def send(*parts: bytes) -> Script:
    """Script: send these bytes and hang up."""
    return lambda connection: connection.sendall(b"".join(parts))


def answer(*head: str, body: bytes = PICTURE, status: str = "200 OK") -> Script:
    """Script: answer and hang up. Content-Length is added unless ``head`` has a length."""
    lines = [f"HTTP/1.1 {status}", *head]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in head):
        lines.append(f"Content-Length: {len(body)}")
    return send("\r\n".join([*lines, "", ""]).encode(), body)


def redirect(location: str, status: int = 302) -> Script:
    """Script: redirect to another URL."""
    return answer(f"Location: {location}", status=f"{status} Elsewhere", body=b"")


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", head: str = "X: y") -> Script:
    """Script: answer in these chunks, with an extension each, which has no meaning."""
    body = b"".join(b"%x;extension=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return answer("Transfer-Encoding: chunked", head, body=body + end)


def silence(head: bytes = b"") -> Script:
    """Script: send a beginning, then nothing until the client hangs up."""

    def play(connection: socket.socket) -> None:
        connection.sendall(head)
        connection.recv(1)

    return play


def drip(head: bytes, every: float) -> Script:
    """Script: send a beginning, then a byte every ``every`` seconds until the client hangs up."""

    def play(connection: socket.socket) -> None:
        connection.sendall(head)
        connection.settimeout(every)
        while True:
            try:
                connection.recv(1)
            except TimeoutError:
                connection.sendall(b"x")
            else:
                return

    return play


def pour(total: int) -> Script:
    """Script: answer with ``total`` bytes that are made while they are sent."""

    def play(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        block = bytes(1 << 20)
        for _ in range(total >> 20):
            connection.sendall(block)

    return play


def certificate(folder: Path) -> Path:
    """Make a self-signed certificate for pictures.example; return a file with it and its key."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is needed"
    path = folder / "both.pem"
    subject = [
        "-subj",
        "/CN=pictures.example",
        "-addext",
        "subjectAltName=DNS:pictures.example",
        "-days",
        "2",
    ]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]
    made = subprocess.run(
        [openssl, "req", "-x509", *key, *subject], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes() + made.stdout)
    return path


def _open_files() -> set[str]:
    """Return what this process has open: paths, and sockets by their numbers."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that was open for this list
            found.add(str(link.readlink()))
    return found
