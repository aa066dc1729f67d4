"""A local proxy in front of the real S3 server that can misbehave.

A *rule* gets each request and decides: pass it on (``forward``), changed or not; answer itself; or
return None to cut the connection. So it can imitate other servers and their faults.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from seaweed import S3Server

# Headers that belong to one connection or one signature; all others are passed on.
_HOP_HEADERS = {
    "authorization",
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "server",
    "transfer-encoding",
    "x-amz-content-sha256",
    "x-amz-date",
}


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """What the client sent; header names are lower-case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ProxyResponse:
    """What the client gets."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


Forward: TypeAlias = Callable[[ProxyRequest], ProxyResponse]
Rule: TypeAlias = Callable[[ProxyRequest, Forward], ProxyResponse | None]


def honest(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    """Pass everything on unchanged: the rule a proxy starts with."""
    return forward(request)


def s3_error(status: int, code: str, message: str = "planted", more: str = "") -> ProxyResponse:
    """Return an error response in S3's format; ``more`` is XML."""
    return ProxyResponse(
        status,
        {"content-type": "application/xml"},
        f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode(),
    )


def without(request: ProxyRequest, header: str) -> ProxyRequest:
    """Return the request without this header."""
    return replace(
        request, headers={name: value for name, value in request.headers.items() if name != header}
    )


@dataclass(slots=True)
class FaultProxy:
    """A running proxy. ``rule`` may be set at any time; ``seen`` has all methods and paths."""

    url: str
    rule: Rule = honest
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def fault_proxy(server: S3Server) -> Iterator[FaultProxy]:
    """Run a proxy before this server until the block ends."""
    with proxy_before(partial(_forward, server)) as proxy:
        yield proxy


@contextmanager
def proxy_before(forward: Forward) -> Iterator[FaultProxy]:
    """Run a proxy before anything that answers requests until the block ends."""
    proxy = FaultProxy("")
    with _ProxyServer(forward, proxy) as listener:
        proxy.url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown()
            thread.join()


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, forward: Forward, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _RequestHandler)
        self.forward = forward
        self.proxy = proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: in some tests the client gives up."""


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _ProxyServer

    def response(self) -> None:
        """Let the rule decide on one request; the connection ends with it."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = ProxyRequest(
            self.command, self.path, headers, self.rfile.read(int(headers.get("content-length", 0)))
        )
        self.server.proxy.seen.append((request.method, request.path))
        self.close_connection = True
        response = self.server.proxy.rule(request, self.server.forward)
        if response is None:
            return
        self.send_response_only(response.status)
        for name, value in {
            "content-length": str(len(response.body)),
            **response.headers,
            "connection": "close",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.body)

    do_GET = do_HEAD = do_PUT = do_DELETE = response  # noqa: N815 - the names http.server looks for


def _forward(server: S3Server, request: ProxyRequest) -> ProxyResponse:
    """Forward the request, signed again because a rule may have changed what the client signed."""
    signed = AWSRequest(
        request.method,
        server.url + request.path,
        {name: value for name, value in request.headers.items() if name not in _HOP_HEADERS},
        request.body,
    )
    S3SigV4Auth(Credentials(*server.writer), "s3", "us-east-1").add_auth(signed)
    with closing(HTTPConnection(urlsplit(server.url).netloc, timeout=20)) as connection:
        connection.request(request.method, request.path, request.body, dict(signed.headers.items()))
        response = connection.getresponse()
        headers = {
            name.lower(): value
            for name, value in response.getheaders()
            if name.lower() not in _HOP_HEADERS - {"content-length"}
        }
        return ProxyResponse(response.status, headers, response.read())
