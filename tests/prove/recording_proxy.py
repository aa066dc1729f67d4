"""A proxy between provider and service: forwards every callback, records what is acknowledged.

It is the service's PUBLIC_URL. A delivery is acknowledged when the whole answer came: 200 and the
job's ref.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ANSWERED_WITHIN = (
    30.0  # seconds for one answer; the service itself gives up waiting for its ledger after 10
)
_REF = 26  # characters at the beginning of a ticket


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A delivery that was answered 200, and when its request began and ended (epoch seconds)."""

    ref: str
    digest: str
    began: float
    ended: float


@dataclass(slots=True)
class RecordingProxy:
    """The answers so far: ``refused`` counts by status, ``cut`` has the requests without answer."""

    port: int  # where the service listens
    url: str = ""
    acknowledged: list[Acknowledgement] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    cut: list[tuple[float, str]] = field(default_factory=list)

    def deliver(self, path: str, body: bytes) -> tuple[int, bytes] | None:
        """Post a callback to the service; return the answer's status and body, or None."""
        began = time.time()
        try:
            with closing(
                HTTPConnection("127.0.0.1", self.port, timeout=_ANSWERED_WITHIN)
            ) as connection:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                status, answer = response.status, response.read()
        except (OSError, HTTPException) as error:
            self.cut.append((began, f"{type(error).__name__}: {error}"))
            return None
        self.note(path, status, answer, hashlib.sha256(body).hexdigest(), began)
        return status, answer

    def note(self, path: str, status: int, answer: bytes, digest: str, began: float) -> None:
        """Record one answer."""
        ref = path.rpartition("/")[2][:_REF]
        if status == 200 and json.loads(answer) == {"ok": True, "ref": ref}:
            self.acknowledged.append(Acknowledgement(ref, digest, began, time.time()))
        else:
            self.refused[status] = self.refused.get(status, 0) + 1


@contextmanager
def recording_proxy(port: int) -> Iterator[RecordingProxy]:
    """Run the proxy until the block ends; the service listens on ``port``."""
    seen = RecordingProxy(port)
    with _Listener(seen) as listener:
        seen.url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield seen
        finally:
            listener.shutdown()
            thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True  # the provider keeps its connections open
    block_on_close = False
    request_queue_size = 256

    def __init__(self, seen: RecordingProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.seen = seen

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a provider may close its connection."""


class _Forwarder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_POST(self) -> None:
        """Forward one callback. Without an answer of the service the provider gets none."""
        answer = self.server.seen.deliver(
            self.path, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        )
        if answer is None:
            self.close_connection = True
            return
        status, body = answer
        with suppress(OSError):
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
