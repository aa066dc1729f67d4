"""The callback endpoints. 200 is sent only after the callback is on disk; nothing is redirected.

With a valid ticket every body is stored, even an unreadable one. Without a ticket a body may only
name a task; only the provider's own answer about that task counts.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import structlog
from flask import Blueprint, Flask, Response, g, request
from structlog.contextvars import bind_contextvars
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from receiver import clock
from receiver.errors import ReceiverError, TicketError, TicketExpiredError, UnreadableError
from receiver.ingest.tickets import CANARY
from receiver.ledger.waiting import SUSPENDER
from receiver.model import Decision, Delivery, Proof, Provider, Source
from receiver.providers.grsai.reports import read_report
from receiver.services import Services
from receiver.telemetry.metrics import CALLBACK_SECONDS, CALLBACKS
from receiver.web.body import CutShortError, read_body
from receiver.web.rate_limit import RateLimiter
from receiver.web.request_id import REQUEST_ID_HEADER, request_id
from receiver.web.state import per_app, services, services_of

log = structlog.get_logger(__name__)

blueprint = Blueprint("callback", __name__)

# Kept, because looking up the metric of a label costs more than counting.
_callbacks, _callback_seconds = cache(CALLBACKS.labels), cache(CALLBACK_SECONDS.labels)

_as_json = json.JSONEncoder(separators=(",", ":")).encode

# Seconds after which a sender may try again when a callback cannot be stored.
RETRY_AFTER = 5
UNAVAILABLE = 503
# Per minute and process: callbacks without a ticket (each reads the ledger), and new task ids in
# them (the provider is asked about each; ``hints.MOST_A_MINUTE`` bounds them for all processes).
REQUESTS_A_MINUTE = 1200
TASKS_A_MINUTE = 60

# Bytes of a request, head and body, that is handled in the main loop, between those of others.
MAX_USUAL = 64 * 1024
_USUAL = re.compile(
    rb"POST /callback/[0-7][0-9A-HJKMNP-TV-Z]{25}\.[A-Za-z0-9_-]{43} HTTP/1\.[01]\r\n"
)
_STATUS = {200: "200 OK", 400: "400 BAD REQUEST", UNAVAILABLE: "503 SERVICE UNAVAILABLE"}

StartResponse = Callable[..., Any]


@blueprint.post("/callback/<path:ticket>")
def receive(ticket: str) -> Response:
    """Store a report about the job the ticket was made for."""
    try:
        found = _read(ticket)
    except TicketExpiredError as error:
        log.warning("callback refused, its ticket is too old", ref=error.ref)
        return _respond("expired", 404, error=str(error))
    if found is None:
        return _invalid_ticket()
    ref, provider = found
    if ref == CANARY:  # a call of ours that tests the public address; there is no such job
        ledger = services().ledger_id  # shows a submit whether this service would know its job
        return _respond("canary", 200, ref=ref, size=len(_body()), ledger=ledger)
    try:
        body = _body()
    except CutShortError as cut:
        if cut.body:
            services().inbox.keep_unreadable(_delivery(ref, provider, cut.body))
        raise
    answer = store(services(), _delivery(ref, provider, body))
    return _respond(answer.outcome, answer.status, **answer.content)


class CallbackAnswer(NamedTuple):
    """The answer to a callback: an outcome to count, an HTTP status, and the JSON."""

    outcome: str
    status: int
    content: dict[str, object]


def store(services: Services, delivery: Delivery) -> CallbackAnswer:
    """Store a callback and return the answer; after 200 or 400 it is on disk."""
    ref = delivery.ref
    try:
        decision = services.inbox.accept(delivery)
    except UnreadableError as error:
        log.warning("callback unreadable, body stored", ref=ref, error=str(error))
        return CallbackAnswer("unreadable", 400, {"ref": ref, "error": str(error)})
    except Exception as error:  # noqa: BLE001 - after any error the sender may try again
        return _unavailable(error)
    # Reports of progress come every few seconds for every job; in the log they would hide the rest.
    (log.debug if decision is Decision.PROGRESS else log.info)(
        "callback accepted", ref=ref, verdict=decision
    )
    return CallbackAnswer(decision, 200, {"ref": ref})


def _unavailable(error: Exception) -> CallbackAnswer:
    """Return the answer to a callback that was not stored.

    The sender may repeat it; if it does not, the job is polled.
    """
    # Our own errors explain themselves; any other is a bug and needs its traceback.
    log.error(
        "callback not stored",
        error=str(error),
        exc_info=None if isinstance(error, ReceiverError) else error,
    )
    return CallbackAnswer("unavailable", 503, {"error": "this callback cannot be stored now"})


@blueprint.post("/callback")
@blueprint.post("/callback/")  # as in a PUBLIC_URL/callback that is written by hand
def receive_hint() -> Response:
    """Take the task id from a callback without a ticket; the provider is asked about the task."""
    if not services().clients.can_ask(Provider.GRSAI):
        return _respond(
            "no_key",
            401,
            error="a callback without a ticket is confirmed with GRSAI, which needs GRSAI_API_KEY",
        )
    if not _request_limiter().allows(request.remote_addr):
        return _rate_limited()
    try:
        provider_id = read_report(body := _body()).provider_id
    except UnreadableError as error:
        return _respond("unreadable", 400, error=str(error))
    if provider_id is None:
        return _respond("unreadable", 400, error="the body has no task id")
    ref = services().hints.find_ref(provider_id)
    if ref is not None:
        hint = Delivery(ref, Source.CALLBACK, body, clock.now(), callback_proof=Proof.NONE)
        services().inbox.accept(hint, unsigned=True)
    elif _task_limiter().allows(request.remote_addr) and services().hints.add(provider_id, body):
        services().engine.notify()
    else:
        return _rate_limited()
    return _respond("hint", 202, message="to be confirmed with GRSAI")


def _body() -> bytes:
    return read_body(services().settings.callback_max_bytes)


@per_app
def _request_limiter() -> RateLimiter:
    return RateLimiter(REQUESTS_A_MINUTE)


@per_app
def _task_limiter() -> RateLimiter:
    return RateLimiter(TASKS_A_MINUTE)


@blueprint.before_request
def _begin() -> Response | None:
    """Record the arrival. Refuse a path with two slashes together, which werkzeug would correct."""
    g.arrived = time.perf_counter()
    return _invalid_ticket() if "//" in request.environ["PATH_INFO"] else None


def _delivery(ref: str, provider: Provider, body: bytes) -> Delivery:
    """Return a callback as a delivery, with what its signature proves; GRSAI does not sign."""
    proof = (
        Proof.TASK
        if provider is Provider.GRSAI
        else services().proofs.of(provider, ref, request.headers, body)
    )
    return Delivery(ref, Source.CALLBACK, body, clock.now(), provider, proof)


def _read(ticket: str) -> tuple[str, Provider] | None:
    """Return the ticket's ref, and the provider that may call it; None if we did not sign it.

    Raise TicketExpiredError.

    A ticket needs no percent escapes, so a path with escapes is not ours.
    """
    if "%" in request.environ.get("RAW_URI", "").partition("?")[0]:
        ticket = ""  # still verified, so that the response takes the same time
    try:
        return services().tickets.read(ticket)
    except TicketExpiredError:
        raise
    except TicketError:
        return None


# Responses.


def _respond(outcome: str, status: int, **content: object) -> Response:
    """Count the outcome and return a JSON response."""
    body = counted(CallbackAnswer(outcome, status, content), g.get("arrived", time.perf_counter()))
    return Response(body, status, _headers(status))


def _headers(status: int) -> list[tuple[str, str]]:
    """Return the headers of an answer, except its length and the id of its request."""
    again = [("Retry-After", str(RETRY_AFTER))] if status == UNAVAILABLE else []
    return [("Content-Type", "application/json"), *again]


def counted(answer: CallbackAnswer, arrived: float) -> bytes:
    """Count an answer to a request that ``arrived`` then (monotonic seconds); return its body."""
    _callbacks(answer.outcome).inc()
    _callback_seconds(answer.outcome).observe(time.perf_counter() - arrived)
    return f"{_as_json({'ok': answer.status < 400, **answer.content})}\n".encode()  # noqa: PLR2004 - HTTP's first error


def _invalid_ticket() -> Response:
    return _respond("forged", 404, error="no such callback")


def not_understood() -> Response:
    """Return the response to a malformed request, such as one with a wrong Host."""
    return _respond("unreadable", 400, error="this request is not understood")


def _rate_limited() -> Response:
    return _respond(
        "turned_away",
        503,
        error="too many callbacks without a ticket; try again later, or use tickets",
    )


@blueprint.app_errorhandler(NotFound)
def _not_found(error: NotFound) -> Response | NotFound:
    """Respond to a callback path that matches no route in the same way as to an invalid ticket."""
    is_callback = request.path.startswith("/callback/")
    return _invalid_ticket() if is_callback and _read("") is None else error


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> Response:
    limit = services().settings.callback_max_bytes
    return _respond("too_large", 413, error=f"a callback may have at most {limit} bytes")


@blueprint.errorhandler(HTTPException)
def _cut_short(error: HTTPException) -> Response:
    return _respond("cut_short", error.code or 400, error=error.description)


@blueprint.errorhandler(Exception)
def _failed(error: Exception) -> Response:
    """Respond to a callback that was not stored because of an unexpected error."""
    answer = _unavailable(error)
    return _respond(answer.outcome, answer.status, **answer.content)


# Without Flask.


def is_usual(request: bytes) -> bool:
    """Return whether a request, head and body, looks like a callback of GRSAI of usual size."""
    return len(request) <= MAX_USUAL and _USUAL.match(request) is not None


class DirectCallbacks:
    """WSGI middleware: usual callbacks in a worker's main loop, without Flask.

    Most requests of this service are reports of GRSAI with a valid ticket. Flask's contexts, routes
    and response objects cost more than all our own work for such a request. Any unusual request
    goes to Flask, with the same decisions and answers.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._flask = app.wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Handle a request, or give it to Flask."""
        arrived = time.perf_counter()
        # The header is removed, as RFC 9110, 7.8 allows. Flask would find no route for a websocket
        # and answer 400, and the report would be lost.
        environ.pop("HTTP_UPGRADE", None)
        if SUSPENDER.get() is None or (delivery := self._read(environ)) is None:
            return self._flask(environ, start_response)
        number = request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        bind_contextvars(request=number)
        answer = store(services_of(self._app), delivery)
        body = counted(answer, arrived)
        ours = [("Content-Length", str(len(body))), (REQUEST_ID_HEADER, number)]
        start_response(_STATUS[answer.status], [*_headers(answer.status), *ours])
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
        except Exception:  # noqa: BLE001 - Flask gets the same error again, and answers it
            return None
        if provider is not Provider.GRSAI or ref == CANARY:
            return None
        body = environ["wsgi.input"].read(int(length))
        return Delivery(ref, Source.CALLBACK, body, clock.now(), provider, Proof.TASK)
