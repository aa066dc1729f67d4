"""The engine: claims due rows, nearest deadline first, and has a thread for each.

At most ``concurrency`` threads work for a work queue. A thread that ends its work claims the next
due rows itself, for all threads that are free. Only as many rows are claimed as can be started at
once, so no row waits while it is claimed. A work queue is checked when it is notified, when its
next row is due, and every ``poll_interval`` seconds.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import structlog

from receiver.errors import LedgerError
from receiver.ledger.claims import Claimed, Claims
from receiver.ledger.notifications import is_named
from receiver.worker.engine import WorkQueue
from receiver.worker.leases import Leases
from receiver.worker.notifier import ALL, Listener

log = structlog.get_logger(__name__)

# Seconds after which due rows are polled without a notification: on one machine, and on many, where
# the engine does not ask when the next row is due.
POLL_INTERVAL, CLAIM_INTERVAL = 5.0, 2.0
# Seconds that a stop waits for running work before it releases the claims.
GRACE = 8.0
# Seconds between the beginnings of two rounds. One that follows a pause is not delayed.
_BETWEEN_ROUNDS = 0.02
# Seconds between two checks of a work queue whose threads are all busy, if it has ``relieve``; and
# between two checks of one that has due rows but can claim none.
AGAIN_INTERVAL = 1.0
# Seconds until the next attempt after an error.
_PAUSE = 1.0


class EngineNotifier(Protocol):
    """Notifies the engine; ``listen`` returns the engine's end."""

    is_listening: bool

    def notify(self, name: str = ALL, /) -> None:
        """Notify the engine of a work queue; never blocks."""

    def listen(self) -> AbstractContextManager[Listener]:
        """Open the engine's end."""


class _Turn:
    """Whose turn it is to claim rows of a work queue, and whether they are wanted again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_wanted = False


class EmbeddedEngine:
    """Runs work in threads of this process, at a notification or when a row becomes due.

    Every transaction notifies the work queues that it feeds. ``claim_first`` is for PostgreSQL: it
    claims without asking first when the next row is due.
    """

    def __init__(
        self,
        claims: Claims,
        notifier: EngineNotifier,
        now: Callable[[], float],
        *,
        poll_interval: float = POLL_INTERVAL,
        grace: float = GRACE,
        claim_first: bool = False,
    ) -> None:
        self._now = now
        self._leases = Leases(claims)
        self._notifier = notifier
        self._poll_interval = poll_interval
        self._grace = grace
        self._claim_first = claim_first
        self._stopping = False  # no Event: a signal handler must not wait for its lock
        self._turns: dict[str, _Turn] = {}

    def notify(self) -> None:
        """Notify the worker, on one machine in any process."""
        self._notifier.notify()

    def stop(self) -> None:
        """Claim no more work; ``run`` returns when running work is done."""
        self._stopping = True
        self._notifier.notify()

    def run(self, work_queues: Sequence[WorkQueue]) -> None:
        """Start due work until stopped, then drain."""
        next_look = {queue.name: 0.0 for queue in work_queues}  # by the monotonic clock
        self._turns = {queue.name: _Turn() for queue in work_queues}
        with self._notifier.listen() as listener:
            while not self._stopping:
                began = time.monotonic()
                names = listener.wait(self._round(work_queues, next_look))
                # Threads that end their work claim the next row themselves. Under load, a round for
                # each of them would find little.
                time.sleep(max(0.0, began + _BETWEEN_ROUNDS - time.monotonic()))
                for queue in next_look:
                    if ALL in names or is_named(queue, names):
                        next_look[queue] = 0.0
            self._drain(listener)

    def _round(self, work_queues: Sequence[WorkQueue], next_look: dict[str, float]) -> float:
        """Look at the work queues whose time has come; return the seconds until the next round."""
        try:
            self._leases.renew()
            for queue in work_queues:
                if time.monotonic() >= next_look[queue.name]:
                    next_look[queue.name] = time.monotonic() + self._look(queue)
        except LedgerError as error:
            log.error("ledger unavailable, work waits", error=str(error))  # noqa: TRY400 - the text is enough
            return _PAUSE
        return max(0.0, min(next_look.values()) - time.monotonic())

    def _look(self, queue: WorkQueue) -> float:
        """Start due work of a queue; return the seconds until its next check."""
        try:
            return self._dispatch(queue)
        except LedgerError:
            raise
        except Exception:  # a mistake in one claim must not stop the other work queues
            log.exception("claim failed", queue=queue.name)
            return _PAUSE

    def _dispatch(self, queue: WorkQueue) -> float:
        free = queue.concurrency - self._leases.count(queue)
        if free <= 0:  # the first thread that ends notifies
            if queue.relieve is None:
                return self._poll_interval
            queue.relieve()
            return AGAIN_INTERVAL
        if not self._claim_first:
            due = queue.next_due()
            wait = self._poll_interval if due is None else due - self._now()
            if due is None or wait > 0:
                return min(wait, self._poll_interval)
        claims = self._claim(queue)
        self._start(queue, claims)
        if self._claim_first or len(claims) >= free:
            return self._poll_interval
        # A queue that returned fewer rows than requested has no more due rows, so check at once
        # when the next one is due. A queue that returned none may have due rows that must wait,
        # such as suspects; then the time of the next due row is not known.
        return 0.0 if claims else min(AGAIN_INTERVAL, self._poll_interval)

    def _claim(self, queue: WorkQueue) -> list[Claimed[Any]]:
        """Claim due rows for all free threads of a queue; none if another thread claims them.

        That thread then claims again. So threads that become free while one claims share the next
        claim, and none of them waits.
        """
        turn, claims = self._turns[queue.name], list[Claimed[Any]]()
        turn.is_wanted = True
        while turn.is_wanted and turn.lock.acquire(blocking=False):
            try:
                turn.is_wanted = False
                self._start(queue, claims)
                free = queue.concurrency - self._leases.count(queue)
                claims = queue.claim(free) if free > 0 else []
                self._leases.take(queue, claims)
            finally:
                turn.lock.release()
        return claims

    def _start(self, queue: WorkQueue, claims: Sequence[Claimed[Any]]) -> None:
        """Start a thread for each claim."""
        for claimed in claims:
            threading.Thread(
                target=self._work, args=(queue, claimed), name=f"{queue.name}-worker", daemon=True
            ).start()

    def _work(self, queue: WorkQueue, claimed: Claimed[Any]) -> None:
        """Work on a claim, and then on what is due in the same queue."""
        claims = [claimed]
        while claims:
            mine, *others = claims
            self._start(queue, others)
            finished = self._leases.work(queue, mine)
            # Without claim_first the engine asks when the next row is due, which has changed. Its
            # thread also waits for running work during a drain, and releases interrupted work.
            if not self._claim_first or not finished or self._stopping:
                self._notifier.notify(queue.name)
            claims = self._claim_next(queue)

    def _claim_next(self, queue: WorkQueue) -> list[Claimed[Any]]:
        """Claim rows for the threads that are free; errors are left to the engine's next round."""
        if self._stopping:
            return []
        try:
            return self._claim(queue)
        except Exception:  # noqa: BLE001 - the engine's own claim raises the same, and logs it
            self._notifier.notify(queue.name)
            return []

    def _drain(self, listener: Listener) -> None:
        """Wait for running work, then release the claims of what is not done."""
        deadline = time.monotonic() + self._grace
        while self._leases.all() and (left := deadline - time.monotonic()) > 0:
            listener.wait(left)
        self._leases.release()
