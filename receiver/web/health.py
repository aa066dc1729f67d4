"""Health checks and metrics: /healthz, /readyz and /metrics."""

from contextlib import suppress

import structlog
from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST

from receiver import clock
from receiver.errors import LedgerError, ReceiverError
from receiver.ledger.database import require_writable
from receiver.web.cache import CachedValue
from receiver.web.metrics import LedgerMetrics, process_metrics
from receiver.web.state import per_app, services

log = structlog.get_logger(__name__)

blueprint = Blueprint("health", __name__)

# Seconds a result is kept. A probe writes an object or to the ledger, and needs no token.
PROBE_LIFETIMES = {"archive": 10.0, "ledger": 1.0}


@blueprint.get("/healthz")
def healthz() -> Response:
    """Return 200: this process runs."""
    return jsonify(ok=True)


@blueprint.get("/readyz")
def readyz() -> Response:
    """Return whether ledger and archive are writable, and the age of the oldest due work (s)."""
    archive, ledger, age = _archive_probe().get(), _ledger_probe().get(), None
    with suppress(LedgerError):
        due = services().queries.oldest_due(clock.now())
        age = round(max(clock.now() - due, 0.0), 3) if due is not None else 0.0
    ready = ledger == archive == "ok"
    response = jsonify(ok=ready, ledger=ledger, archive=archive, oldest_due_seconds=age)
    response.status_code = 200 if ready else 503
    return response


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the metrics in Prometheus' text format."""
    of_ledger = b""
    try:
        of_ledger = _ledger_metrics().text()
    except LedgerError as error:
        # The counters say how bad it is, so they are shown without the ledger's part.
        log.error("ledger not usable", error=str(error))  # noqa: TRY400 - the text says it
    return Response(process_metrics() + of_ledger, content_type=CONTENT_TYPE_LATEST)


@per_app
def _ledger_metrics() -> LedgerMetrics:
    return LedgerMetrics(services())


@per_app
def _archive_probe() -> CachedValue[str]:
    return CachedValue(_check_archive, PROBE_LIFETIMES["archive"])


@per_app
def _ledger_probe() -> CachedValue[str]:
    return CachedValue(_check_ledger, PROBE_LIFETIMES["ledger"])


def _check_archive() -> str:
    """Return "ok", or what is wrong with the archive."""
    try:
        services().store.check()
    except ReceiverError as error:
        return str(error)
    return "ok"


def _check_ledger() -> str:
    """Return "ok", or that the ledger cannot be used. /readyz is public: details are in the log."""
    try:
        require_writable(services().database)
    except LedgerError as error:
        log.error("ledger not usable", error=str(error))  # noqa: TRY400 - the text says it
        return "the ledger cannot be used now; the log says why"
    return "ok"
