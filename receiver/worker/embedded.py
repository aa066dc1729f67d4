"""The engine of one machine.

One thread claims due rows, nearest deadline first, and starts a thread for each claim, at most
``concurrency`` per work queue. It claims only as many rows as it can start at once, so no row waits
while it is claimed.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from receiver.errors import LedgerError
from receiver.ledger.claims import Claimed, Claims
from receiver.worker.engine import WorkQueue
from receiver.worker.leases import Leases
from receiver.worker.notifier import Notifier

log = structlog.get_logger(__name__)

# Seconds after which due rows are polled without a notification.
POLL_INTERVAL = 5.0
# Seconds that a stop waits for running work before it releases the claims.
GRACE = 8.0


class EmbeddedEngine:
    """Runs work in threads of this process, at a notification or when a row becomes due."""

    def __init__(
        self,
        claims: Claims,
        notifier: Notifier,
        now: Callable[[], float],
        *,
        poll_interval: float = POLL_INTERVAL,
        grace: float = GRACE,
    ) -> None:
        self._now = now
        self._leases = Leases(claims)
        self._notifier = notifier
        self._poll_interval = poll_interval
        self._grace = grace
        self._stopping = threading.Event()

    def notify(self) -> None:
        """Notify the worker, in any process of this machine."""
        self._notifier.notify()

    def stop(self) -> None:
        """Claim no more work; ``run`` returns when running work is done."""
        self._stopping.set()
        self._notifier.notify()

    def run(self, work_queues: Sequence[WorkQueue]) -> None:
        """Start due work until stopped, then drain."""
        with self._notifier.listen() as listener:
            while not self._stopping.is_set():
                try:
                    self._leases.renew()
                    wait = min(self._dispatch(queue) for queue in work_queues)
                except LedgerError as error:
                    log.error("ledger unavailable, work waits", error=str(error))  # noqa: TRY400 - the text is enough
                    wait = 1.0
                listener.wait(wait)
            self._drain(listener.wait)

    def _dispatch(self, queue: WorkQueue) -> float:
        """Start due work of a queue; return the seconds until the next look at it."""
        free = queue.concurrency - self._leases.count(queue)
        due = queue.next_due() if free else None
        if due is None:
            return self._poll_interval
        wait = due - self._now()
        if wait > 0:
            return min(wait, self._poll_interval)
        claims = queue.claim(free)
        self._leases.take(queue, claims)
        for claimed in claims:
            threading.Thread(
                target=self._work, args=(queue, claimed), name=f"{queue.name}-worker", daemon=True
            ).start()
        # When all threads are busy, the first that ends notifies. A queue that gave fewer rows than
        # asked for has no more due: look again at once for when the next one is due.
        return self._poll_interval if len(claims) == free or not claims else 0.0

    def _work(self, queue: WorkQueue, claimed: Claimed[Any]) -> None:
        self._leases.work(queue, claimed)
        self._notifier.notify()

    def _drain(self, wait: Callable[[float], None]) -> None:
        """Wait for running work, then release the claims of what is not done."""
        deadline = time.monotonic() + self._grace
        while self._leases.all() and (left := deadline - time.monotonic()) > 0:
            wait(left)
        self._leases.release()
