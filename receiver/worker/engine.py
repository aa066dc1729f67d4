"""What wakes workers and runs them. The rows are the queue; an engine is only a bell and a pool of hands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from receiver.ledger.claims import Claimed


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """One kind of work: how it is claimed, how one claim is done, and how many hands do it side by side.

    ``next_due`` returns when the next row is due (seconds since the epoch) or None; ``claim`` takes at most so many rows.
    Where a wake stands for one row a hand claims once; in a ``chained`` lane it stands for all that is due.
    """

    name: str
    concurrency: int
    next_due: Callable[[], float | None]
    claim: Callable[[int], list[Claimed[Any]]]
    run: Callable[[Claimed[Any]], None]
    chained: bool = False


class Engine(Protocol):
    """Runs the lanes until it is stopped."""

    def notify(self) -> None:
        """Say that there is work. Cheap, never blocks, may be lost: the sweep finds the work anyway."""

    def run(self, work_queues: Sequence[WorkQueue]) -> None:
        """Work until ``stop`` is called, then wait a while for work in hand and give back what is left."""

    def stop(self) -> None:
        """Take no more work; safe to call from a signal handler."""
