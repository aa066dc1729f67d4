"""A port for health checks and metrics of a process that serves no web, such as a worker."""

import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

# Seconds that a connection may be silent.
SILENCE = 5.0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client that disconnects is not our fault."""


class _RequestHandler(WSGIRequestHandler):
    timeout = SILENCE

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Print nothing: probes would fill the log."""


def serve(app: Callable[..., Any], host: str, port: int) -> int:
    """Serve a WSGI application at ``host`` and ``port``, in threads; return the port.

    Raise OSError if the port is taken.
    """
    server = make_server(host, port, app, server_class=_Server, handler_class=_RequestHandler)
    threading.Thread(target=server.serve_forever, name="health port", daemon=True).start()
    return server.server_port
