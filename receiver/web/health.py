"""Health checks and metrics: /healthz, /readyz, /status and /metrics.

They need no token, so none of them waits for a remote part: see ``background``.
"""

from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST

from receiver.errors import LedgerError
from receiver.installation import version
from receiver.web import auth
from receiver.web.cache import CachedValue
from receiver.web.health_checks import HealthChecks
from receiver.web.metrics import LedgerMetrics, process_metrics
from receiver.web.state import per_app, services

blueprint = Blueprint("health", __name__)

# Seconds the text of /metrics is kept. Making it takes milliseconds, a hundred times as long as
# answering a probe, so many scrapers at once would slow callbacks down.
TEXT_LIFETIME = 0.1


@blueprint.get("/healthz")
def healthz() -> Response:
    """Return 200: this process runs. It asks no other part."""
    return jsonify(ok=True, version=version())


@blueprint.get("/readyz")
def readyz() -> Response:
    """Return whether callbacks can be stored: 200, or 503. Only the ledger counts."""
    ledger = health_checks().readiness()
    return _respond(
        ledger.ok, {"ok": ledger.ok, "ledger": ledger.public_text, "age_seconds": ledger.age}
    )


@blueprint.get("/status")
def status() -> Response:
    """Return the state of every part: 200 if all are well, else 503.

    Callers with ADMIN_TOKEN or a session see details; others see only which parts are well.
    """
    checks = health_checks().status()
    is_ok = all(check.ok for check in checks.values())
    try:
        # The ledger knows whether a session has ended, but this must not wait for the ledger.
        with_details = auth.has_bearer() or (checks["ledger"].ok and auth.is_logged_in())
    except (auth.TooManyGuessesError, LedgerError):
        with_details = False
    shown = {name: check.shown(details=with_details) for name, check in checks.items()}
    return _respond(is_ok, {"ok": is_ok, "version": version(), "checks": shown})


def _respond(is_ok: bool, content: dict[str, object]) -> Response:  # noqa: FBT001 - its only meaning
    response = jsonify(content)
    response.status_code = 200 if is_ok else 503
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the metrics in Prometheus' text format; without the ledger's if it does not answer."""
    text = _process_metrics().get() + _ledger_metrics().get()
    return Response(text, content_type=CONTENT_TYPE_LATEST)


@per_app
def health_checks() -> HealthChecks:
    """Return the checks of the current application."""
    return HealthChecks(services())


@per_app
def _process_metrics() -> CachedValue[bytes]:
    """Return the counters of all processes, read from their files."""
    return CachedValue(process_metrics, TEXT_LIFETIME, serve_stale=True)


@per_app
def _ledger_metrics() -> CachedValue[bytes]:
    """Return the gauges that are read from the ledger."""
    return CachedValue(LedgerMetrics(services()).text, TEXT_LIFETIME, serve_stale=True)
