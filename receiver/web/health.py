"""Is the process alive, is the service ready, what are the figures."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from flask import Blueprint, Response, current_app, jsonify
from flask.blueprints import BlueprintSetupState
from prometheus_client import CONTENT_TYPE_LATEST

from receiver import clock
from receiver.errors import LedgerError, ReceiverError
from receiver.ledger.database import require_writable
from receiver.web.metrics import LedgerMetrics, counted
from receiver.web.state import services

log = structlog.get_logger(__name__)

blueprint = Blueprint("health", __name__)

# Seconds an answer holds: a probe writes an object, or to the ledger, and strangers may ask as often as they like.
PROBE_LIFETIMES = {"archive": 10.0, "ledger": 1.0}


@blueprint.get("/healthz")
def healthz() -> Response:
    """Say that this process answers."""
    return jsonify(ok=True)


@blueprint.get("/readyz")
def readyz() -> Response:
    """Say whether callbacks can be stored and pictures archived, and how long (seconds) the oldest due work has been waiting."""
    archive, ledger, age = _probed("archive"), _probed("ledger"), None
    with suppress(LedgerError):
        due = services().queries.oldest_due(clock.now())
        age = round(max(clock.now() - due, 0.0), 3) if due is not None else 0.0
    response = jsonify(
        ok=ledger == archive == "ok", ledger=ledger, archive=archive, oldest_due_seconds=age
    )
    response.status_code = 200 if ledger == archive == "ok" else 503
    return response


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the figures in Prometheus' text format."""
    of_ledger = b""
    try:
        of_ledger = _of_ledger().text()
    except LedgerError as error:
        # The counters say how bad it is, so they are shown all the same.
        log.error("ledger not usable", error=str(error))  # noqa: TRY400 - the text says it
    return Response(counted() + of_ledger, content_type=CONTENT_TYPE_LATEST)


def _of_ledger() -> LedgerMetrics:
    """Return what this application asks its ledger with."""
    found: LedgerMetrics | None = current_app.extensions.get("ledger figures")
    if found is None:
        found = current_app.extensions.setdefault("ledger figures", LedgerMetrics(services()))
    return found


class _Probe:
    """The last answer about a part of the service; asked for by one thread at a time."""

    def __init__(self, part: str, question: Callable[[], str]) -> None:
        self._part = part
        self._question = question
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._answer = ""

    def answer(self) -> str:
        with self._lock:
            if time.monotonic() - self._asked_at > PROBE_LIFETIMES[self._part]:
                self._answer = self._question()
                self._asked_at = time.monotonic()
            return self._answer


@blueprint.record
def _provide_probes(setup: BlueprintSetupState) -> None:
    questions = {"archive": _check_archive, "ledger": _check_ledger}
    setup.app.extensions["probes"] = {
        part: _Probe(part, question) for part, question in questions.items()
    }


def _probed(part: str) -> str:
    """Return "ok", or what is wrong with a part."""
    probe: _Probe = current_app.extensions["probes"][part]
    return probe.answer()


def _check_archive() -> str:
    try:
        services().store.check()
    except ReceiverError as error:
        return str(error)
    return "ok"


def _check_ledger() -> str:
    try:
        require_writable(services().database)
    except LedgerError as error:
        log.error("ledger not usable", error=str(error))  # noqa: TRY400 - the text says it
        return "the ledger cannot be used now; the log says why"
    return "ok"
