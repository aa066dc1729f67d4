"""What /metrics shows: what every process counted, and what the ledger says, asked no oftener than is worth it."""

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily

from receiver import clock
from receiver.ledger.queries.backlog import Backlog
from receiver.ledger.queries.events import DestinationStatus
from receiver.services import Services
from receiver.telemetry import metric_files

T = TypeVar("T")

# Seconds an answer of the ledger holds: of what waits, and of all jobs by state, which reads an index of all of them.
FRESH, STALE = 5.0, 60.0


def counted() -> bytes:
    """Return what the processes counted, in Prometheus' text format."""
    return generate_latest(metric_files.registry())


class LedgerMetrics:
    """What the ledger says of itself."""

    def __init__(self, services: Services) -> None:
        self._named = {destination.name for destination in services.settings.destinations}
        self._jobs = _Held(services.totals.counts, STALE)
        self._backlog = _Held(services.backlog.measure, FRESH)
        self._standing = _Held(services.events.destinations, FRESH)

    def text(self) -> bytes:
        """Return the figures in Prometheus' text format; raise LedgerError if the ledger cannot be read."""
        standing = [row for row in self._standing.value() if row.destination in self._named]
        registry = CollectorRegistry()
        registry.register(
            _Families(
                [
                    *_of_jobs(self._jobs.value()),
                    *_of_backlog(self._backlog.value()),
                    *_of_events(standing),
                ]
            )
        )
        return generate_latest(registry)


def _of_jobs(counts: Mapping[str, int]) -> Iterable[GaugeMetricFamily]:
    yield _by("receiver_jobs", "Jobs in the ledger, by state.", "state", counts)


def _of_backlog(found: Backlog) -> Iterable[GaugeMetricFamily]:
    yield _by(
        "receiver_backlog",
        "Rows that are due and that nobody has taken, by kind; 10000 means as many or more.",
        "kind",
        found.due,
    )
    yield _by(
        "receiver_oldest_due_seconds",
        "How long the oldest due row has been waiting, by kind.",
        "kind",
        found.oldest,
    )
    yield GaugeMetricFamily(
        "receiver_assets_pending",
        "Result files not archived yet; 10000 means as many or more.",
        found.pending,
    )
    yield GaugeMetricFamily(
        "receiver_assets_at_risk",
        "Pending files whose URL is in the last quarter of its life.",
        found.at_risk,
    )


def _of_events(standing: list[DestinationStatus]) -> Iterable[GaugeMetricFamily]:
    due = {
        row.destination: max(0.0, clock.now() - row.due_since) if row.due_since else 0.0
        for row in standing
    }
    yield _by(
        "receiver_events_waiting",
        "Events not told yet, by destination.",
        "destination",
        {s.destination: s.waiting for s in standing},
    )
    yield _by(
        "receiver_events_set_aside",
        "Events given up, by destination.",
        "destination",
        {s.destination: s.set_aside for s in standing},
    )
    yield _by(
        "receiver_events_oldest_due_seconds",
        "How long the oldest due event has been waiting.",
        "destination",
        due,
    )


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


class _Families:
    """A collector of what was read just now."""

    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily]:
        return self._families


class _Held(Generic[T]):
    """An answer that holds for some seconds, asked for by one thread at a time."""

    def __init__(self, ask: Callable[[], T], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._lock = Lock()
        self._asked_at = float("-inf")
        self._answer: T | None = None

    def value(self) -> T:
        with self._lock:
            if self._answer is None or time.monotonic() - self._asked_at > self._seconds:
                self._answer = self._ask()
                self._asked_at = time.monotonic()
            return self._answer
