"""The door for callbacks. Nothing is answered 200 before it is on disk, and nothing is ever redirected.

Behind a right ticket everything is kept, even a body we cannot read. Without one nothing is: a stranger may only name a task, and what
counts is then read back from the provider.
"""

import time

import structlog
from flask import Blueprint, Response, current_app, g, jsonify, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from receiver import clock
from receiver.errors import ReceiverError, TicketError, UnreadableError
from receiver.ingest.tickets import CANARY
from receiver.model import Delivery, Source
from receiver.providers.grsai.protocol import read_report
from receiver.web.body import CutShortError, read_body
from receiver.web.counters import CALLBACK_SECONDS, CALLBACKS
from receiver.web.rate_limit import RateLimiter
from receiver.web.state import services

log = structlog.get_logger(__name__)

blueprint = Blueprint("callback", __name__)

# Seconds after which a sender may try again when the ledger cannot take a callback.
RETRY_AFTER = 5
# What one process lets strangers do in a minute: send callbacks without a ticket, each a look into the ledger, and name tasks nobody
# here has heard of, each to be asked about at the provider. The ledger bounds the latter for all processes: ``hints.MOST_A_MINUTE``.
REQUESTS_A_MINUTE = 1200
TASKS_A_MINUTE = 60


@blueprint.post("/callback/<path:ticket>")
def receive(ticket: str) -> Response:
    """Take in what the provider says about the job the ticket was made for."""
    ref = _ref(ticket)
    if ref is None:
        return _forged()
    if ref == CANARY:  # `receiver doctor` looks whether we can be reached; there is no such job
        return _answer("canary", 200, ref=ref, size=len(_body()))
    try:
        verdict = services().inbox.accept(Delivery(ref, Source.CALLBACK, _body(), clock.now()))
    except CutShortError as cut:
        if cut.body:
            services().inbox.keep_unreadable(Delivery(ref, Source.CALLBACK, cut.body, clock.now()))
        raise
    except UnreadableError as error:
        log.warning("callback unreadable, kept as evidence", ref=ref, error=str(error))
        return _answer("unreadable", 400, ref=ref, error=str(error))
    log.info("callback accepted", ref=ref, verdict=verdict)
    return _answer(verdict, 200, ref=ref)


@blueprint.post("/callback")
def confirm() -> Response:
    """Take a hint from a job posted by hand: its id is looked up at the provider, its body is not believed."""
    if services().grsai is None:
        return _answer(
            "no_key",
            401,
            error="a callback without a ticket is read back from GRSAI, which needs GRSAI_API_KEY",
        )
    if not _allowances()["requests"].take(request.remote_addr):
        return _turned_away()
    try:
        provider_id = read_report(body := _body()).provider_id
    except UnreadableError as error:
        return _answer("unreadable", 400, error=str(error))
    if provider_id is None:
        return _answer("unreadable", 400, error="the body has no id to be looked up")
    ref = services().hints.find_ref(provider_id)
    if ref is not None:
        services().inbox.accept(Delivery(ref, Source.CALLBACK, body, clock.now()), unsigned=True)
    elif _allowances()["tasks"].take(request.remote_addr) and services().hints.add(
        provider_id, body
    ):
        services().engine.notify()
    else:
        return _turned_away()
    return _answer("hint", 202, message="to be confirmed with GRSAI")


def _body() -> bytes:
    return read_body(services().settings.callback_max_bytes)


@blueprint.record
def _provide_allowances(setup: BlueprintSetupState) -> None:
    setup.app.extensions["strangers"] = {
        "requests": RateLimiter(REQUESTS_A_MINUTE),
        "tasks": RateLimiter(TASKS_A_MINUTE),
    }


def _allowances() -> dict[str, RateLimiter]:
    allowances: dict[str, RateLimiter] = current_app.extensions["strangers"]
    return allowances


def _turned_away() -> Response:
    return _answer(
        "turned_away",
        503,
        error="too many callbacks without a ticket; come again later, or use tickets",
    )


@blueprint.before_request
def _note_arrival() -> None:
    g.arrived = time.perf_counter()


@blueprint.before_request
def _refuse_other_spellings() -> Response | None:
    """Refuse the slashes that werkzeug would take away from the front of a path: it is not the one we gave out."""
    return _forged() if request.environ["PATH_INFO"].startswith("//") else None


def _forged() -> Response:
    return _answer("forged", 404, error="no such callback")


def _ref(ticket: str) -> str | None:
    """Return the ticket's ref, None for what we did not sign. A ticket needs no escapes, so one with escapes is not ours."""
    if "%" in request.environ.get("RAW_URI", "").partition("?")[0]:
        ticket = ""  # looked at like any other, so that the answer takes as long
    try:
        return services().tickets.ref(ticket)
    except TicketError:
        return None


def _answer(outcome: str, status: int, **content: object) -> Response:
    """Count and answer."""
    CALLBACKS.labels(outcome).inc()
    CALLBACK_SECONDS.labels(outcome).observe(
        time.perf_counter() - g.get("arrived", time.perf_counter())
    )
    response = jsonify(ok=status < 400, **content)  # noqa: PLR2004 - HTTP's first error
    response.status_code = status
    if status == 503:  # noqa: PLR2004 - HTTP's "unavailable"
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


@blueprint.app_errorhandler(NotFound)
def _no_route(error: NotFound) -> Response | NotFound:
    """Answer a callback with a slash too many, which no route takes, like any ticket that is not ours."""
    return _forged() if request.path.startswith("/callback/") and _ref("") is None else error


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> Response:
    return _answer(
        "too_large",
        413,
        error=f"a callback has at most {services().settings.callback_max_bytes} bytes",
    )


@blueprint.errorhandler(HTTPException)
def _cut_short(error: HTTPException) -> Response:
    return _answer("cut_short", error.code or 400, error=error.description)


@blueprint.errorhandler(Exception)
def _unavailable(error: Exception) -> Response:
    """Answer 503 to whatever kept us from storing: the sender may come again, and the poll covers the one that does not."""
    # What we raise on purpose says enough; anything else is a mistake of ours and needs its trace.
    log.error(
        "callback not stored",
        error=str(error),
        exc_info=None if isinstance(error, ReceiverError) else error,
    )
    return _answer("unavailable", 503, error="this callback cannot be stored now")
