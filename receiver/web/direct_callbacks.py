"""The usual callback, without Flask's handling of requests.

Most requests of this service are reports of GRSAI with a valid ticket, and Flask's contexts, routes
and response objects cost more than all that we do for one. So a web worker's main loop handles them
here. Whatever is unusual goes to ``callback``, whose decisions and answers are the same.
"""

import re
import time
from collections.abc import Callable, Iterable
from random import getrandbits
from typing import Any

from flask import Flask
from structlog.contextvars import bind_contextvars

from receiver import clock
from receiver.errors import ReceiverError
from receiver.ingest.tickets import CANARY
from receiver.ledger.waiting import SUSPENDER
from receiver.model import Delivery, Proof, Provider, Source
from receiver.web import callback
from receiver.web.state import services_of

StartResponse = Callable[..., Any]
WsgiApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

REQUEST_ID_HEADER = "X-Request-Id"
# A proxy may have set the request id; a value of any other form is not repeated.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)
# Of the whole request. It is handled between those of other clients, so it must be short.
MAX_SIZE = 64 * 1024
_USUAL = re.compile(
    rb"POST /callback/[0-7][0-9A-HJKMNP-TV-Z]{25}\.[A-Za-z0-9_-]{43} HTTP/1\.[01]\r\n"
)


_STATUS = {200: "200 OK", 400: "400 BAD REQUEST", 503: "503 SERVICE UNAVAILABLE"}


def is_usual(request: bytes) -> bool:
    """Return whether a request, head and body, looks like a callback of GRSAI of usual size."""
    return len(request) <= MAX_SIZE and _USUAL.match(request) is not None


def request_id(given: str) -> str:
    """Return the id of a request: the one that was given with it, or a new one."""
    if _REQUEST_ID.fullmatch(given):
        return given
    return f"{getrandbits(64):016x}"  # no secret; the system's random numbers cost a call


class DirectCallbacks:
    """WSGI middleware before an application; it takes usual callbacks in the main loop."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._flask = app.wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Handle a request, or give it to Flask."""
        if SUSPENDER.get() is None or (delivery := self._read(environ)) is None:
            return self._flask(environ, start_response)
        arrived = time.perf_counter()
        number = request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        bind_contextvars(request=number)
        answer = callback.store(services_of(self._app), delivery)
        body = callback.counted(answer, arrived)
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            (REQUEST_ID_HEADER, number),
        ]
        if answer.status == callback.UNAVAILABLE:
            headers.append(("Retry-After", str(callback.RETRY_AFTER)))
        start_response(_STATUS[answer.status], headers)
        return [body]

    def _read(self, environ: dict[str, Any]) -> Delivery | None:
        """Return the delivery of a usual callback, None for any other request."""
        services = services_of(self._app)
        length = environ.get("CONTENT_LENGTH", "")
        if not length or "HTTP_CONTENT_ENCODING" in environ:
            return None
        if int(length) > services.settings.callback_max_bytes:
            return None
        try:
            ref, provider = services.tickets.read(environ["PATH_INFO"][len("/callback/") :])
        except ReceiverError:
            return None
        if provider is not Provider.GRSAI or ref == CANARY:
            return None
        body = environ["wsgi.input"].read(int(length))
        return Delivery(ref, Source.CALLBACK, body, clock.now(), provider, Proof.TASK)
