"""A lane that is watched: its log lines name the work they belong to, and claims taken over from the dead are counted."""

from dataclasses import replace
from typing import Any

import structlog

from receiver.ledger.claims import Claimed
from receiver.telemetry.metrics import TAKEN_OVER
from receiver.worker.engine import WorkQueue


def instrumented(queue: WorkQueue) -> WorkQueue:
    """Return the same lane, watched."""

    def claim(limit: int) -> list[Claimed[Any]]:
        claims = queue.claim(limit)
        # A crash stands in the row until an attempt ends with a word.
        if taken := sum(getattr(claimed.row, "crashes", 0) > 0 for claimed in claims):
            TAKEN_OVER.inc(taken)
        return claims

    def run(claimed: Claimed[Any]) -> None:
        with structlog.contextvars.bound_contextvars(queue=queue.name, claim=claimed.token):
            queue.run(claimed)

    return replace(queue, claim=claim, run=run)
