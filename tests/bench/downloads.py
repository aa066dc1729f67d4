"""Measure downloads over TLS: with connections that are kept, and with a new one for each.

The server is a process of its own on 127.0.0.1 with a P-256 certificate; it keeps connections. Both
ways download the same files in turn, in this process, one after the other, to a temporary folder.
Times are medians of the downloads' wall-clock times, processor time is this process's.

``python -m tests.bench.downloads PORT PEM`` serves ``/SIZE`` until it is ended.
"""

import ssl
import sys
import time
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

from outside_network import certificate

from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from tests.bench.measurements import MS, Amount, Line
from tests.bench.processes import environment, free_port, listens, running

SIZES = {"1 KB": 1024, "1 MB": 1_000_000}
_NOISE = bytes(range(256)) * 4000


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = memoryview(_NOISE)[: int(self.path.strip("/"))]
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Download in rounds; the yardstick closes its connection after each file."""
    pem, port = certificate(folder), free_port()
    trusting = ssl.create_default_context(cafile=str(pem))
    policy = AddressPolicy.parse([f"pictures.example:{port}"], ())

    def fetcher() -> Fetcher:
        return Fetcher(
            policy,
            max_bytes=10_000_000,
            timeout=30,
            resolve=lambda _host, _port: ["127.0.0.1"],
            ssl_context=trusting,
        )

    command = ["-m", "tests.bench.downloads", str(port), str(pem)]
    with running(command, environment(folder), folder / "tls.log", lambda: listens(port)):
        lines = []
        for name, size in SIZES.items():
            url, into = f"https://pictures.example:{port}/{size}", folder / "download"

            def once(one: Fetcher, url: str = url, into: Path = into) -> None:
                one.fetch(url, into)
                into.unlink()

            def apart(once: Callable[[Fetcher], None] = once) -> None:
                with closing(fetcher()) as one:
                    once(one)

            with closing(fetcher()) as kept:
                rounds = [
                    (_round(lambda: once(kept), amount.each), _round(apart, amount.each))
                    for _ in amount
                ]
            for place, what in enumerate(("time", "processor time")):
                lines.append(
                    Line(
                        f"{what}, {name} over TLS",
                        "ms",
                        [MS * ours[place] for ours, _ in rounds],
                        [MS * its[place] for _, its in rounds],
                    )
                )
        return lines


def _round(download: Callable[[], None], times: int) -> tuple[float, float]:
    """Return the median seconds, and the mean seconds of processor time, of a download."""
    taken, cpu = [], time.process_time()
    for _ in range(times):
        began = time.perf_counter()
        download()
        taken.append(time.perf_counter() - began)
    return median(taken), (time.process_time() - cpu) / times


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
