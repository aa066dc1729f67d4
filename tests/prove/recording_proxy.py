"""The witness between provider and service: passes every callback on and writes down what was acknowledged.

The service's PUBLIC_URL leads here. A delivery counts as acknowledged when the whole answer came: 200, and the job's own ref in it.
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

_PATIENCE = (
    30.0  # seconds for one answer; the service itself gives up waiting for its ledger after 10
)
_REF = 26  # characters at the beginning of a ticket


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A delivery that was answered 200, with the seconds (since the epoch) between which that happened."""

    ref: str
    digest: str
    began: float
    ended: float


@dataclass(slots=True)
class Witness:
    """What was seen so far; ``refused`` counts the answers other than 200 by status, ``cut`` are the moments of those that never came."""

    port: int  # where the service listens
    url: str = ""
    acknowledged: list[Acknowledgement] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    cut: list[tuple[float, str]] = field(default_factory=list)

    def deliver(self, path: str, body: bytes) -> tuple[int, bytes] | None:
        """Post a callback to the service; return status and body of the answer, None where none came."""
        began = time.time()
        try:
            with closing(HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)) as connection:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                status, answer = response.status, response.read()
        except (OSError, HTTPException) as error:
            self.cut.append((began, f"{type(error).__name__}: {error}"))
            return None
        self.note(path, status, answer, hashlib.sha256(body).hexdigest(), began)
        return status, answer

    def note(self, path: str, status: int, answer: bytes, digest: str, began: float) -> None:
        """Write down one answer."""
        ref = path.rpartition("/")[2][:_REF]
        if status == 200 and json.loads(answer) == {"ok": True, "ref": ref}:
            self.acknowledged.append(Acknowledgement(ref, digest, began, time.time()))
        else:
            self.refused[status] = self.refused.get(status, 0) + 1


@contextmanager
def witness(port: int) -> Iterator[Witness]:
    """Listen for the provider until the block ends, before a service that listens on ``port``."""
    seen = Witness(port)
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

    def __init__(self, seen: Witness) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.seen = seen

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a provider that goes away is no news."""


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_POST(self) -> None:
        """Pass one callback on. Where the service gave no answer the provider gets none."""
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
