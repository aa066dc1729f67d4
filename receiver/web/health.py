"""Is the process alive, is the service ready, what are the figures."""

import os
import threading
import time

import structlog
from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from receiver.errors import LedgerError, ReceiverError
from receiver.web.state import services

log = structlog.get_logger(__name__)

blueprint = Blueprint("health", __name__)

# Seconds an answer about the archive holds: a probe writes an object, and strangers may ask as often as they like.
PROBE_LIFETIME = 10.0


@blueprint.get("/healthz")
def healthz() -> Response:
    """Say that this process answers."""
    return jsonify(ok=True)


@blueprint.get("/readyz")
def readyz() -> Response:
    """Say whether callbacks can be stored and pictures archived, and how long (seconds) the oldest due work has been waiting."""
    ledger, archive, age = "ok", _probe.archive(), None
    try:
        services().ledger.require_writable()
        due = services().reports.oldest_due(time.time())
        age = round(max(time.time() - due, 0.0), 3) if due is not None else 0.0
    except LedgerError as error:
        log.error("ledger not usable", error=str(error))  # noqa: TRY400 - the text says it
        ledger = "the ledger cannot be used now; the log says why"
    response = jsonify(ok=ledger == archive == "ok", ledger=ledger, archive=archive, oldest_due_seconds=age)
    response.status_code = 200 if ledger == archive == "ok" else 503
    return response


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the figures in Prometheus' text format."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the package has no types here
    of_ledger = CollectorRegistry()
    try:
        of_ledger.register(_Once(_jobs()))
    except LedgerError as error:
        # The counters say how bad it is, so they are shown all the same.
        log.error("ledger not usable", error=str(error))  # noqa: TRY400 - the text says it
    return Response(generate_latest(registry) + generate_latest(of_ledger), content_type=CONTENT_TYPE_LATEST)


def _jobs() -> GaugeMetricFamily:
    jobs = GaugeMetricFamily("receiver_jobs", "Jobs in the ledger, by state.", labels=["state"])
    for state, number in services().reports.counts().items():
        jobs.add_metric([state], number)
    return jobs


class _Once:
    """A collector of one family that was read just now."""

    def __init__(self, family: GaugeMetricFamily) -> None:
        self._family = family

    def collect(self) -> list[GaugeMetricFamily]:
        return [self._family]


class _Probe:
    """The last answer about the archive, asked for by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._answer = "ok"

    def archive(self) -> str:
        with self._lock:
            if time.monotonic() - self._asked_at > PROBE_LIFETIME:
                self._answer = _check_archive()
                self._asked_at = time.monotonic()
            return self._answer


def _check_archive() -> str:
    try:
        services().store.check()
    except ReceiverError as error:
        return str(error)
    return "ok"


_probe = _Probe()
