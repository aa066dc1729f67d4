"""A receiver of events: a local server that keeps every POST and answers as the test says."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from http_server import SAFETY, HttpServer
from standardwebhooks import Webhook

SECRET, OLD_SECRET = (
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
)


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One POST as it came."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        """The event's id."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The event as received."""
        event: dict[str, Any] = json.loads(self.body)
        return event

    def is_signed_by(self, secret: str) -> bool:
        """Return whether this secret signed it, by the Standard Webhooks library, at any time."""
        given = self.headers["webhook-signature"].split()
        moment = _Moment(self.headers["webhook-timestamp"])
        return Webhook(secret).sign(self.id, moment, self.body) in given  # type: ignore[arg-type]


class _Moment:
    """A time for ``Webhook.sign``, with the seconds of the header."""

    def __init__(self, seconds: str) -> None:
        self._seconds = float(seconds)

    def replace(self, **_: object) -> Self:
        return self

    def timestamp(self) -> float:
        return self._seconds


class EventServer(HttpServer):
    """Answers every POST with the next of ``statuses``, or with ``status`` if there are none left.

    While ``gate`` is cleared, all requests wait.
    """

    def __init__(self) -> None:
        self.received: list[ReceivedEvent] = []
        self.status = 204
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.waiting = 0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def __exit__(self, *error: object) -> None:
        """Stop, and release the waiting requests."""
        self.gate.set()
        super().__exit__(*error)

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://{self.address}/hook"

    def types(self, ref: str | None = None) -> list[str]:
        """Return the types of the received events, of one job or of all, in order of arrival."""
        events = [received.event for received in self.received]
        return [event["type"] for event in events if ref in (None, event["data"]["ref"])]

    def handle_post(self, request: BaseHTTPRequestHandler) -> None:
        """Keep a POST and answer it."""
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        with self._lock:
            self.received.append(
                ReceivedEvent(
                    request.path,
                    {name.lower(): value for name, value in request.headers.items()},
                    body,
                )
            )
            status = self.statuses.pop(0) if self.statuses else self.status
            self.waiting += 1
        self.gate.wait(SAFETY)
        with self._lock:
            self.waiting -= 1
        request.send_response(status)
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()
