"""The proxies of infra/proxies, as they are shipped, in front of a server that notes what comes.

Only ports, certificates and the public name are replaced. Traefik is not among Debian's packages:
tests/unit/test_platforms.py reads its rules.
"""

import re
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from caddy import caddy
from http_server import HttpServer
from outside_network import certificate
from processes import ROOT, free_port, running
from real_parts import missing
from waiting import until

PROXIES = ROOT / "infra/proxies"
NAME = "pictures.example"
# A callback at the limit of the service, and one that no proxy needs to pass on.
LARGE, TOO_LARGE = 1024 * 1024 + 1000, 1_400_000


class Upstream(HttpServer):
    """Stands for web: answers 200 and notes method, path and size."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def handle_post(self, request: BaseHTTPRequestHandler) -> None:
        size = len(request.rfile.read(int(request.headers["Content-Length"])))
        self._answer(request, size)

    def handle_get(self, request: BaseHTTPRequestHandler) -> None:
        self._answer(request, 0)

    def _answer(self, request: BaseHTTPRequestHandler, size: int) -> None:
        self.seen.append((request.command, request.path, size))
        request.send_response(200)
        request.send_header("Content-Length", "0")
        request.end_headers()


@dataclass
class Proxy:
    """A running proxy and what stands behind it."""

    upstream: Upstream
    certificates: Path
    http: int = field(default_factory=free_port)
    https: int = field(default_factory=free_port)

    def ask(self, scheme: str, method: str, path: str, size: int = 0) -> HTTPResponse:
        """Send a request with a body of ``size`` bytes; return the answer."""
        connection = HTTPConnection(NAME)
        connection.sock = self._connect(scheme)
        with closing(connection):
            with suppress(BrokenPipeError, ConnectionResetError):  # answered before the end
                connection.request(method, path, b"x" * size if method == "POST" else None)
            answer = connection.getresponse()
            answer.read()
            return answer

    def is_ready(self) -> bool:
        """Return whether both ports answer."""
        with suppress(OSError, HTTPException):
            return all(
                self.ask(scheme, "GET", "/").status in {308, 404} for scheme in ("http", "https")
            )
        return False

    def _connect(self, scheme: str) -> socket.socket:
        port = self.http if scheme == "http" else self.https
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        if scheme == "http":
            return connection
        context = ssl.create_default_context(cafile=str(self.certificates))
        return context.wrap_socket(connection, server_hostname=NAME)


@contextmanager
def _nginx(folder: Path) -> Iterator[Proxy]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        missing("nginx (Debian: nginx-light)")
    with Upstream() as upstream:
        proxy = Proxy(upstream, certificate(folder))
        site = (PROXIES / "nginx.conf").read_text(encoding="utf-8")
        for pattern, text in (
            (r"listen \[::\].*\n", ""),
            (r"listen 80\b", f"listen 127.0.0.1:{proxy.http}"),
            (r"listen 443\b", f"listen 127.0.0.1:{proxy.https}"),
            (r"/etc/letsencrypt/\S+(?=;)", str(proxy.certificates)),
            (r"/var/log/nginx", str(folder)),
            (r"pictures\.example\.com", NAME),
            (r"127\.0\.0\.1:8787", upstream.address),
        ):
            site, found = re.subn(pattern, text, site)
            assert found, pattern
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = folder / "main.conf"
        main.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
            f"events {{}} http {{ {temporary}\n{site} }}"
        )
        with running([program, "-c", str(main), "-e", f"{folder}/error.log"], {}, folder):
            yield proxy


@contextmanager
def _caddy(folder: Path) -> Iterator[Proxy]:
    with Upstream() as upstream, caddy(folder, NAME, upstream.address) as server:
        yield Proxy(upstream, server.root, server.http, server.https)


@pytest.fixture(scope="module", params=[_nginx, _caddy], ids=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with request.param(tmp_path_factory.mktemp("proxy")) as started:
        until(started.is_ready, what="that the proxy answers")
        yield started


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("method", "path", "size"),
    [
        ("POST", "/callback", 30),
        ("POST", "/callback/01K0.x-y_z", LARGE),
        ("POST", "/callback//ticket/?again=%2F", 30),
        ("POST", "/callback/a%2Fb", 30),
        ("GET", "/callback/ticket", 0),
        ("GET", "/healthz", 0),
    ],
)
def test_callbacks_reach_the_service_as_they_are(
    proxy: Proxy, scheme: str, method: str, path: str, size: int
) -> None:
    assert proxy.ask(scheme, method, path, size).status == 200
    assert proxy.upstream.seen[-1] == (method, path, size)


@pytest.mark.parametrize(
    ("scheme", "method", "path", "status"),
    [
        ("http", "GET", "/jobs?state=failed", 308),
        ("http", "POST", "/api/jobs", 426),
        ("https", "GET", "/", 404),
        ("https", "GET", "/metrics", 404),
        ("https", "GET", "/callbackish", 404),
        ("https", "POST", "/api/jobs", 404),
    ],
)
def test_nothing_else_does(proxy: Proxy, scheme: str, method: str, path: str, status: int) -> None:
    before = len(proxy.upstream.seen)
    answer = proxy.ask(scheme, method, path, 3)
    assert answer.status == status
    expected = f"https://{NAME}{path}" if status == 308 else None
    assert answer.headers["Location"] == expected
    assert len(proxy.upstream.seen) == before


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_body_far_above_the_limit_is_not_passed_on_whole(proxy: Proxy, scheme: str) -> None:
    # 503 is what the Caddy of Debian 12 makes of it.
    assert proxy.ask(scheme, "POST", "/callback/ticket", TOO_LARGE).status in {413, 503}
    assert max(size for _, _, size in proxy.upstream.seen) < TOO_LARGE
