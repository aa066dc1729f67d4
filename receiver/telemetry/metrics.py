"""What the service counts. ``docs/operations.md`` explains every metric.

Names follow the conventions of Prometheus: base units, and ``_total`` is added to counters.
Import this module only after ``metric_files.share`` in a process whose metrics are to be shared.
"""

from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram

from receiver.model import Decision, Proof, Provider, Source

Metric = TypeVar("Metric", Counter, Histogram)

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 700)


def shown_as_zero(metric: Metric, *label_values: tuple[str, ...]) -> Metric:
    """Return the metric after creating these labels, so that the first event shows as a rise."""
    for values in label_values:
        metric.labels(*values)
    return metric


CALLBACKS = shown_as_zero(
    Counter(
        "receiver_callbacks",
        "Callbacks answered, by outcome; forged: the ticket was not signed by us.",
        ["outcome"],
    ),
    ("ended",),
    ("forged",),
    ("unreadable",),
    ("unavailable",),
    ("turned_away",),
)
PROOFS = shown_as_zero(
    Counter(
        "receiver_proofs",
        "Callbacks of providers that sign, by what was proved: body, task (read back), none (a "
        "hint).",
        ["provider", "proof"],
    ),
    *(
        (provider.value, proof.value)
        for provider in Provider
        if provider not in {Provider.GRSAI, Provider.OPENAI}
        for proof in Proof
    ),
)
CALLBACK_SECONDS = Histogram(
    "receiver_callback_seconds",
    "Time from a callback's arrival to its response, when it is durable.",
    ["outcome"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 10),
)

DELIVERIES = shown_as_zero(
    Counter(
        "receiver_deliveries",
        "Reports about jobs that were stored, by source and by what they meant for the job.",
        ["source", "verdict"],
    ),
    *(
        (source.value, decision.value)
        for source in Source
        for decision in (Decision.ENDED, Decision.CONTRADICTION, Decision.UNREADABLE)
    ),
)

ASSETS = shown_as_zero(
    Counter(
        "receiver_assets",
        "Result files by how an attempt to archive them ended; retry: it is tried again.",
        ["outcome"],
    ),
    ("archived",),
    ("failed",),
    ("expired",),
    ("retry",),
)
REJECTED = shown_as_zero(
    Counter(
        "receiver_rejected_files",
        "Downloaded files that failed inspection: kept in the quarantine, not kept, removed from"
        " there, accepted by an operator.",
        ["outcome"],
    ),
    ("kept",),
    ("not_kept",),
    ("removed",),
    ("accepted",),
)
BYTES = Counter("receiver_archived_bytes", "Bytes of archived result files.")
STEP_SECONDS = shown_as_zero(
    Histogram(
        "receiver_archive_step_seconds",
        "Duration of one step of archiving a file.",
        ["step"],
        buckets=_SECONDS,
    ),
    ("fetch",),
    ("inspect",),
    ("put",),
)
TIME_LEFT = Histogram(
    "receiver_time_left_seconds",
    "Remaining lifetime of a URL when its file was archived; 0 if it had already ended.",
    buckets=(0, 60, 300, 900, 1800, 3600, 5400, 6600, 7000, 7200),
)
LOST = shown_as_zero(
    Counter(
        "receiver_lost",
        "Work that was lost although it may have been paid: jobs without a result in time, files"
        " whose URL expired or that were not a picture.",
        ["what"],
    ),
    ("job",),
    ("asset",),
)
AT_RISK = Counter("receiver_risks_announced", "Jobs announced to be at risk.")
TAKEN_OVER = Counter(
    "receiver_claims_taken_over", "Claims of workers that died, taken over by another worker."
)
INTERRUPTED = Counter(
    "receiver_downloads_interrupted", "Slow downloads stopped because other files waited."
)
DIFFERENCE = Gauge(
    "receiver_conservation_difference",
    "Jobs unaccounted for: submitted less archived, failed, expired and in flight.",
    multiprocess_mode="mostrecent",
)
LAWS_BROKEN = Gauge(
    "receiver_laws_broken",
    "Invariants of the ledger that did not hold at the last audit.",
    multiprocess_mode="mostrecent",
)
AUDITED_AT = Gauge(
    "receiver_audit_timestamp_seconds",
    "Time of the last audit by the worker.",
    multiprocess_mode="mostrecent",
)
AUDIT_SECONDS = Gauge(
    "receiver_audit_seconds", "Duration of the last audit.", multiprocess_mode="mostrecent"
)

EVENTS = Counter(
    "receiver_event_attempts",
    "Attempts to deliver an event, by destination and outcome.",
    ["destination", "outcome"],
)
EVENT_SECONDS = Histogram(
    "receiver_event_seconds",
    "Time a destination took to respond to an event.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15),
)
