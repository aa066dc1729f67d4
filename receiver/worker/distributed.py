"""The engine of many machines: Procrastinate, on the PostgreSQL that holds the ledger."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from receiver.ledger.claims import Claims
from receiver.ledger.postgres import conninfo
from receiver.worker.engine import WorkQueue
from receiver.worker.leases import Leases

# Seconds between sweeps, by one process of all; a whole part of a minute.
SWEEP = 2
# Seconds a drain waits for work in hand before it gives the claims back; then Procrastinate needs a moment to leave too.
GRACE = 7.0


class DistributedEngine:
    """Works in threads of this process; woken by what other processes, on whatever machine, commit to the ledger at ``url``."""

    def __init__(
        self,
        claims: Claims,
        notify_due: Callable[[], int],
        url: str,
        *,
        sweep: int = SWEEP,
        grace: float = GRACE,
    ) -> None:
        self._notify_due = notify_due
        self._held = Leases(claims)
        self._conninfo = conninfo(url)
        self._sweep = sweep
        self._grace = grace
        self._stopping = threading.Event()
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def notify(self) -> None:
        """Do nothing: the wake was committed with the work."""

    def stop(self) -> None:
        """Take no more work; ``run`` returns after its drain."""
        self._stopping.set()
        if self._loop is not None:
            with suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._asked.set)

    def run(self, work_queues: Sequence[WorkQueue]) -> None:
        """Work until stopped, then drain; an outage of PostgreSQL is sat out."""
        asyncio.run(self._run(work_queues))

    async def _run(self, work_queues: Sequence[WorkQueue]) -> None:
        from receiver.worker.pool import WorkerPool  # noqa: PLC0415 - web processes only ring, and need nothing of Procrastinate

        self._loop = asyncio.get_running_loop()
        if not self._stopping.is_set():
            await WorkerPool(
                self._notify_due, self._held, self._stopping, sweep=self._sweep, grace=self._grace
            ).work(self._conninfo, work_queues, self._asked)
