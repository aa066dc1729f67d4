"""What an engine is, and the work queues that it runs.

The rows of the ledger are the queue. An engine only receives notifications and runs worker threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from receiver.ledger.claims import Claimed
from receiver.telemetry.metrics import TAKEN_OVER


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """One kind of work: how it is claimed, how one claim is done, and by how many threads.

    ``next_due`` returns when the next row is due (seconds since the epoch) or None; ``claim``
    claims at most the given number of rows. ``relieve`` is called now and then while no thread is
    free.
    """

    name: str
    concurrency: int
    next_due: Callable[[], float | None]
    claim: Callable[[int], list[Claimed[Any]]]
    run: Callable[[Claimed[Any]], None]
    relieve: Callable[[], None] | None = None


class Engine(Protocol):
    """Runs the work queues until it is stopped."""

    def notify(self) -> None:
        """Announce new work; cheap, never blocks. If it gets lost, polling finds the work."""

    def run(self, work_queues: Sequence[WorkQueue]) -> None:
        """Work until ``stop`` is called; then wait a while for running work, release the rest."""

    def stop(self) -> None:
        """Claim no more work; safe to call from a signal handler."""


def instrumented(queue: WorkQueue) -> WorkQueue:
    """Return the same queue; its log lines name queue and claim, and it counts take-overs."""

    def claim(limit: int) -> list[Claimed[Any]]:
        claims = queue.claim(limit)
        # The row counts crashes until an attempt ends without one.
        if taken_over := sum(getattr(claimed.row, "crashes", 0) > 0 for claimed in claims):
            TAKEN_OVER.inc(taken_over)
        return claims

    def run(claimed: Claimed[Any]) -> None:
        with structlog.contextvars.bound_contextvars(queue=queue.name, claim=claimed.token):
            queue.run(claimed)

    return replace(queue, claim=claim, run=run)
