"""An HTTP/1.1 server for a WSGI application that keeps a list of its connections.

Werkzeug's development server closes every connection and waits ten milliseconds for remaining
input; that is too slow for hundreds of submits and downloads, and the faults need the raw socket.
Bodies are read completely, so that a connection can carry the next request.
"""

import contextlib
import io
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication

CONNECTION = "sandbox.connection"  # the key of the socket in the WSGI environ

_LARGEST_BODY = 64 * 2**20
_log = logging.getLogger(__name__)


class Connection(BaseHTTPRequestHandler):
    """One client's connection."""

    server: "Server"
    protocol_version = "HTTP/1.1"
    timeout = 75  # seconds without a byte, between requests too
    disable_nagle_algorithm = True  # else a body sent after its header waits 40 ms
    server_version, sys_version = "grsai-sandbox", ""

    def handle(self) -> None:
        """Serve requests until the connection ends or breaks."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Serve one request of any method."""
        body = self._body()
        if body is None:
            self.send_error(413)
            return
        try:
            self._respond(self._environ(body))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:  # noqa: BLE001 - one request must not end the server; the traceback is logged
            _log.exception("sandbox request failed")
            self.close_connection = True

    do_POST = do_HEAD = do_GET  # noqa: N815 - the names http.server looks for

    def log_message(self, *args: object) -> None:
        """Log nothing: /sandbox/tasks shows all requests."""

    def _body(self) -> bytes | None:
        """Return the request's body; None if it is too large or its length is unknown."""
        length = self.headers.get("Content-Length", "0")
        if (
            not length.isdecimal()
            or int(length) > _LARGEST_BODY
            or "Transfer-Encoding" in self.headers
        ):
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def _environ(self, body: bytes) -> dict[str, Any]:
        """Return the WSGI environ (PEP 3333) of the request."""
        path, _, query = self.path.partition("?")
        host, port = self.server.server_address[:2]
        environ = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": str(host),
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            CONNECTION: self.connection,
        }
        environ |= {
            f"HTTP_{name.upper().replace('-', '_')}": value for name, value in self.headers.items()
        }
        return environ

    def _respond(self, environ: dict[str, Any]) -> None:
        """Run the application and send its answer, the headers together with the first piece."""
        answered: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _exc_info: object = None
        ) -> Any:
            answered.append((status, headers))

        pieces = self.server.app(environ, start_response)
        try:
            self._send(answered, pieces)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def _send(
        self, answered: list[tuple[str, list[tuple[str, str]]]], pieces: Iterable[bytes]
    ) -> None:
        head, chunked = b"", False
        for piece in pieces:
            if not head:
                head, chunked = self._head(*answered[-1])
                self.wfile.write(head + (_chunk(piece) if chunked and piece else piece))
            elif piece:
                self.wfile.write(_chunk(piece) if chunked else piece)
        if not head:
            head, chunked = self._head(*answered[-1])
            self.wfile.write(head)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: str, headers: list[tuple[str, str]]) -> tuple[bytes, bool]:
        """Return status line and headers, and whether the body needs chunks: it has no length."""
        names = {name.lower() for name, _ in headers}
        chunked = "content-length" not in names and self.command != "HEAD"
        if chunked:
            headers = [*headers, ("Transfer-Encoding", "chunked")]
        lines = [
            f"{self.protocol_version} {status}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        lines += [f"Server: {self.server_version}", f"Date: {self.date_time_string()}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), chunked


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Server(socketserver.ThreadingTCPServer):
    """Listens at ``address`` from construction, one thread per connection; raises OSError."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024  # a batch of hundreds connects at once
    app: WSGIApplication

    def __init__(self, address: tuple[str, int]) -> None:
        self._open: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []
        self._lock = threading.Lock()
        super().__init__(address, Connection)
        self._accepting = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="sandbox-accept", daemon=True
        )

    def start(self, app: WSGIApplication) -> None:
        """Start to serve the application in a new thread."""
        self.app = app
        self._accepting.start()

    def cut(self) -> None:
        """Stop accepting and cut every connection; their threads may still wait for a task."""
        self.shutdown()
        self._accepting.join()
        with self._lock:
            for connection in self._open:
                # It may have closed a moment ago.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait for the threads of the connections, and close the listening socket."""
        for thread in self._serving:
            thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a new connection in a new thread."""
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._lock:
            self._open.add(request)
        self._serving = [*(one for one in self._serving if one.is_alive()), thread]
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and remove it from the list."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)
