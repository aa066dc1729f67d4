"""A local HTTP server for tests, with a thread for each connection."""

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SAFETY = 10.0  # seconds after which a connection of a broken test is closed


class HttpServer:
    """A server that runs until its ``with`` block ends. Subclasses answer the requests.

    ``connections`` is the number of connections so far.
    """

    connections = 0

    def __enter__(self) -> Self:
        """Start."""
        self._server = _ThreadedServer(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.01},
            name=type(self).__name__,
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(SAFETY)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def handle_post(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a POST."""
        request.send_error(501)

    def handle_get(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET."""
        request.send_error(501)


class _ThreadedServer(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, owner: HttpServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _RequestHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.connections += 1
        super().process_request(request, client_address)


class _RequestHandler(BaseHTTPRequestHandler):
    timeout = SAFETY
    server: _ThreadedServer

    def do_POST(self) -> None:
        with suppress(OSError):  # the client disconnected, which is often intended
            self.server.owner.handle_post(self)

    def do_GET(self) -> None:
        self.server.owner.handle_get(self)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
