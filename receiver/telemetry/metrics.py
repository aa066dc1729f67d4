"""What the service counts, named by Prometheus' conventions: base units, ``_total`` behind counters. See ``docs/operations.md``."""

from receiver.model import Decision, Source
from receiver.telemetry.metric_files import Counter, Gauge, Histogram

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 700)

DELIVERIES = Counter(
    "receiver_deliveries",
    "Deliveries taken in, by where they came from and what they were taken for.",
    ["source", "verdict"],
    known=[
        (source.value, verdict.value)
        for source in Source
        for verdict in (Decision.ENDED, Decision.CONTRADICTION, Decision.UNREADABLE)
    ],
)

ASSETS = Counter(
    "receiver_assets",
    "Result files that came to their end, by how; retry counts attempts that are to be repeated.",
    ["outcome"],
    known=[("archived",), ("failed",), ("expired",), ("retry",)],
)
BYTES = Counter("receiver_archived_bytes", "Bytes of result files archived.")
STEP_SECONDS = Histogram(
    "receiver_archive_step_seconds",
    "Time of one step of archiving a file.",
    ["step"],
    known=[("fetch",), ("inspect",), ("put",)],
    buckets=_SECONDS,
)
TIME_LEFT = Histogram(
    "receiver_time_left_seconds",
    "Time a URL had left to live when its file was safe; 0 for one that outlived its promise.",
    buckets=(0, 60, 300, 900, 1800, 3600, 5400, 6600, 7000, 7200),
)
LOST = Counter(
    "receiver_lost",
    "What was given up although it may have been paid: jobs without a result in time, files whose URL died or that were no picture.",
    ["what"],
    known=[("job",), ("asset",)],
)
AT_RISK = Counter("receiver_risks_announced", "Jobs announced to be at risk.")
TAKEN_OVER = Counter(
    "receiver_claims_taken_over", "Claims whose holder ended without a word, taken by another."
)
DIFFERENCE = Gauge(
    "receiver_conservation_difference",
    "Jobs that are nowhere: submitted less archived, failed, expired and in flight.",
)
LAWS_BROKEN = Gauge(
    "receiver_laws_broken", "Laws of the ledger that did not hold at the last audit."
)
AUDITED_AT = Gauge("receiver_audit_timestamp_seconds", "When the worker last audited the ledger.")
AUDIT_SECONDS = Gauge("receiver_audit_seconds", "How long the last audit took.")

EVENTS = Counter(
    "receiver_event_attempts",
    "Attempts to tell an event to others, by what came of them.",
    ["destination", "outcome"],
)
EVENT_SECONDS = Histogram(
    "receiver_event_seconds",
    "Time a destination took to answer.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15),
)
