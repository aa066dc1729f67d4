"""The engine of one machine: a dispatcher that claims due rows, nearest deadline first, for as many hands as are free.

One thread dispatches; each claim is worked on by a thread of its own, at most ``concurrency`` to a lane. Only free hands claim, so a row is
never held by somebody who is busy with another.
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

# Seconds after which rows are looked for though no bell has rung.
SWEEP = 5.0
# Seconds a drain waits for work in hand before it gives the claims back.
GRACE = 8.0


class EmbeddedEngine:
    """Works in threads of this process; woken by the bell, and by the sweep when the bell was lost."""

    def __init__(
        self,
        claims: Claims,
        notifier: Notifier,
        now: Callable[[], float],
        *,
        sweep: float = SWEEP,
        grace: float = GRACE,
    ) -> None:
        self._now = now
        self._held = Leases(claims)
        self._bell = notifier
        self._sweep = sweep
        self._grace = grace
        self._stopping = threading.Event()

    def notify(self) -> None:
        """Wake the worker, in whatever process of this machine it is."""
        self._bell.notify()

    def stop(self) -> None:
        """Take no more work; ``run`` returns after its drain."""
        self._stopping.set()
        self._bell.notify()

    def run(self, work_queues: Sequence[WorkQueue]) -> None:
        """Dispatch until stopped, then drain."""
        with self._bell.listen() as listener:
            while not self._stopping.is_set():
                try:
                    self._held.renew()
                    wait = min(self._dispatch(queue) for queue in work_queues)
                except LedgerError as error:
                    log.error("ledger away, work waits", error=str(error))  # noqa: TRY400 - the text says it, a trace would not
                    wait = 1.0
                listener.wait(wait)
            self._drain(listener.wait)

    def _dispatch(self, queue: WorkQueue) -> float:
        """Give the lane's free hands what is due; return the seconds until it is worth looking again."""
        free = queue.concurrency - self._held.count(queue)
        due = queue.next_due() if free else None
        if due is None:
            return self._sweep
        wait = due - self._now()
        if wait > 0:
            return min(wait, self._sweep)
        claims = queue.claim(free)
        self._held.take(queue, claims)
        for claimed in claims:
            threading.Thread(
                target=self._work, args=(queue, claimed), name=f"{queue.name}-hand", daemon=True
            ).start()
        # A full lane is looked at when a hand gets free and rings; a lane that got less than it asked for has no more.
        return self._sweep if len(claims) == free or not claims else 0.0

    def _work(self, queue: WorkQueue, claimed: Claimed[Any]) -> None:
        self._held.work(queue, claimed)
        self._bell.notify()

    def _drain(self, wait: Callable[[float], None]) -> None:
        """Wait for the work in hand, then give back the claims of what is not done."""
        deadline = time.monotonic() + self._grace
        while self._held.all() and (left := deadline - time.monotonic()) > 0:
            wait(left)
        self._held.release()
