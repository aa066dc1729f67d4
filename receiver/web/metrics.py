"""What /metrics shows: the counters of all processes, and gauges that are read from the ledger."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily

from receiver import clock
from receiver.ledger.quarantine import Kept
from receiver.ledger.queries.backlog import Backlog
from receiver.ledger.queries.events import DestinationStatus
from receiver.ledger.workers import WorkerSeen
from receiver.services import Services
from receiver.telemetry import metric_files
from receiver.telemetry.disk_space import DiskSpace
from receiver.web.background import BackgroundValue, ask_all

Reader: TypeAlias = Callable[[Any], Iterable[GaugeMetricFamily]]

# Seconds a value from the ledger is kept. Counting all jobs by state reads an index of all of them.
BACKLOG_LIFETIME, JOBS_LIFETIME = 5.0, 60.0


def process_metrics() -> bytes:
    """Return the counters of all processes in Prometheus' text format."""
    return generate_latest(metric_files.registry())


class LedgerMetrics:
    """Gauges that are read from the ledger, at most once in their lifetime.

    A gauge that cannot be read now is left out: an old value would hide the failure.
    """

    def __init__(self, services: Services) -> None:
        self._served = services.settings.served
        self._jobs = BackgroundValue("job counts", services.totals.counts, JOBS_LIFETIME)
        self._quarantine = BackgroundValue(
            "quarantine", services.quarantine_records.total, JOBS_LIFETIME
        )
        self._backlog = BackgroundValue("backlog", services.backlog.measure, BACKLOG_LIFETIME)
        self._events = BackgroundValue("events", services.events.destinations, BACKLOG_LIFETIME)
        self._disks = BackgroundValue("disks", services.disk_space, BACKLOG_LIFETIME)
        self._workers = BackgroundValue("workers", services.workers.seen, BACKLOG_LIFETIME)

    def text(self) -> bytes:
        """Return the gauges in Prometheus' text format."""
        read_by: list[tuple[BackgroundValue[Any], Reader]] = [
            (self._jobs, _of_jobs),
            (self._quarantine, _of_quarantine),
            (self._backlog, _of_backlog),
            (self._events, self._of_events),
            (self._disks, _of_disks),
            (self._workers, _of_workers),
        ]
        answers = ask_all([value for value, _ in read_by])
        registry = CollectorRegistry()
        registry.register(
            _Families(
                [
                    family
                    for (_, read), answer in zip(read_by, answers, strict=True)
                    if answer.value is not None and not answer.late
                    for family in read(answer.value)
                ]
            )
        )
        return generate_latest(registry)

    def _of_events(self, rows: list[DestinationStatus]) -> Iterable[GaugeMetricFamily]:
        return _of_events([row for row in rows if row.destination in self._served])


def _of_jobs(counts: Mapping[str, int]) -> Iterable[GaugeMetricFamily]:
    yield _labelled("receiver_jobs", "Jobs in the ledger, by state.", "state", counts)


def _of_quarantine(kept: Kept) -> Iterable[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "receiver_quarantine_files", "Rejected files in the quarantine.", kept.files
    )
    yield GaugeMetricFamily(
        "receiver_quarantine_bytes", "Size of the rejected files in the quarantine.", kept.size
    )


def _of_backlog(backlog: Backlog) -> Iterable[GaugeMetricFamily]:
    yield _labelled(
        "receiver_backlog",
        "Rows that are due and not claimed, by kind; 10000 means as many or more.",
        "kind",
        backlog.due,
    )
    yield _labelled(
        "receiver_oldest_due_seconds",
        "How long the oldest due row has been waiting, by kind.",
        "kind",
        backlog.oldest,
    )
    yield GaugeMetricFamily(
        "receiver_assets_pending",
        "Result files not archived yet; 10000 means as many or more.",
        backlog.pending,
    )
    yield GaugeMetricFamily(
        "receiver_assets_at_risk",
        "Pending files whose URL is in the last quarter of its lifetime.",
        backlog.at_risk,
    )


def _of_events(rows: list[DestinationStatus]) -> Iterable[GaugeMetricFamily]:
    now = clock.now()
    ages = {
        row.destination: max(0.0, now - row.due_since) if row.due_since else 0.0 for row in rows
    }
    yield _labelled(
        "receiver_events_waiting",
        "Events not delivered yet, by destination.",
        "destination",
        {row.destination: row.waiting for row in rows},
    )
    yield _labelled(
        "receiver_events_set_aside",
        "Events whose delivery was set aside, by destination.",
        "destination",
        {row.destination: row.set_aside for row in rows},
    )
    yield _labelled(
        "receiver_events_oldest_due_seconds",
        "How long the oldest due event has been waiting, by destination.",
        "destination",
        ages,
    )
    yield _labelled(
        "receiver_events_failing",
        "Waiting events whose last attempt failed, by destination.",
        "destination",
        {row.destination: row.failing for row in rows},
    )
    yield _labelled(
        "receiver_events_oldest_seconds",
        "Age of the oldest event that is neither delivered nor set aside, by destination.",
        "destination",
        {row.destination: max(0.0, now - row.oldest_at) if row.oldest_at else 0.0 for row in rows},
    )


def _of_disks(disks: list[DiskSpace]) -> Iterable[GaugeMetricFamily]:
    yield _labelled(
        "receiver_disk_free_bytes",
        "Bytes that the service may still write, by place; places on one disk are one.",
        "place",
        {disk.place: disk.free for disk in disks},
    )
    yield _labelled(
        "receiver_disk_size_bytes",
        "Size of the disk of a place.",
        "place",
        {disk.place: disk.size for disk in disks},
    )


def _of_workers(workers: list[WorkerSeen]) -> Iterable[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "receiver_workers",
        "Workers of this ledger that sent a heartbeat lately.",
        sum(worker.is_alive for worker in workers),
    )


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


class _Families:
    """A Prometheus collector of values that were read just now."""

    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily]:
        return self._families
