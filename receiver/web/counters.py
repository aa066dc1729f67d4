"""What the web side counts; see ``receiver.telemetry.metrics``."""

from prometheus_client import Counter, Histogram

from receiver.telemetry.metrics import shown_as_zero

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
CALLBACK_SECONDS = Histogram(
    "receiver_callback_seconds",
    "Time from a callback's arrival to its response, when it is durable.",
    ["outcome"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 10),
)
