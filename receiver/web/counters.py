"""What the web side counts, named by Prometheus' conventions. Several processes add up: see ``receiver.telemetry.metric_files``."""

from receiver.telemetry.metric_files import Counter, Histogram

CALLBACKS = Counter(
    "receiver_callbacks",
    "Callbacks answered, by what they were taken for; forged are those whose ticket was not ours.",
    ["outcome"],
    known=[("ended",), ("forged",), ("unreadable",), ("unavailable",), ("turned_away",)],
)
CALLBACK_SECONDS = Histogram(
    "receiver_callback_seconds",
    "Time from a callback's arrival to its answer, which is when it is durable.",
    ["outcome"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 10),
)
