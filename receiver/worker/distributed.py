"""The engine of several machines: Procrastinate, in the PostgreSQL database of the ledger."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from receiver.ledger.claims import Claims
from receiver.ledger.postgres import conninfo
from receiver.worker.engine import WorkQueue
from receiver.worker.leases import Leases

# Seconds between polls for due rows, by one process of all; must divide 60.
POLL_INTERVAL = 2
# Seconds that a stop waits for running work before it releases the claims; then Procrastinate
# needs a moment to stop too.
GRACE = 7.0


class DistributedEngine:
    """Runs work in threads of this process, at notifications through the ledger at ``url``."""

    def __init__(
        self,
        claims: Claims,
        notify_due: Callable[[], int],
        url: str,
        *,
        poll_interval: int = POLL_INTERVAL,
        grace: float = GRACE,
    ) -> None:
        self._notify_due = notify_due
        self._leases = Leases(claims)
        self._conninfo = conninfo(url)
        self._poll_interval = poll_interval
        self._grace = grace
        self._stopping = threading.Event()
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def notify(self) -> None:
        """Do nothing: the notification was committed with the work."""

    def stop(self) -> None:
        """Claim no more work; ``run`` returns when running work is done."""
        self._stopping.set()
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._asked.set)

    def run(self, work_queues: Sequence[WorkQueue]) -> None:
        """Work until stopped, then drain; during an outage of PostgreSQL wait."""
        asyncio.run(self._run(work_queues))

    async def _run(self, work_queues: Sequence[WorkQueue]) -> None:
        from receiver.worker.pool import WorkerPool  # noqa: PLC0415 - web processes need nothing of Procrastinate

        self._loop = asyncio.get_running_loop()
        if not self._stopping.is_set():
            await WorkerPool(
                self._notify_due,
                self._leases,
                self._stopping,
                poll_interval=self._poll_interval,
                grace=self._grace,
            ).work(self._conninfo, work_queues, self._asked)
