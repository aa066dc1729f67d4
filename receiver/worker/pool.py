"""The hands of the distributed engine: workers of Procrastinate's, and what keeps them going.

A lane is a queue of Procrastinate's, and its width the number of wakes a process works on side by side. Whoever hears a wake claims the
row nearest to its deadline. Each piece of work has a daemon thread of its own, so that its length neither holds up the loop nor a stop.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import structlog
from procrastinate import App, JobContext
from procrastinate.exceptions import UniqueViolation
from procrastinate.jobs import DeleteJobCondition, Job, Status
from procrastinate.manager import get_channel_for_queues
from procrastinate.utils import utcnow
from psycopg_pool import AsyncConnectionPool

from receiver.errors import LedgerError
from receiver.ledger.notifications import queue_of
from receiver.worker.connector import PAUSE, RetryingConnector
from receiver.worker.engine import WorkQueue
from receiver.worker.leases import Leases

log = structlog.get_logger(__name__)

# Seconds without a sign of life after which a process counts as dead, and its wakes are given to others.
SILENCE = 30.0
# Connections with which a process hears and ends its wakes, beside the one that listens; each is needed for some milliseconds.
CONNECTIONS = 4
# Seconds until a connection that cannot be had is told of, and asked for again.
PATIENCE = 5.0
# Seconds after which a free hand looks for a wake although nothing was heard.
LOOK = 5.0

_SWEEPS = "sweeps"


class WorkerPool:
    """Works on the lanes of one process until asked to stop."""

    def __init__(
        self,
        notify_due: Callable[[], int],
        held: Leases,
        stopping: threading.Event,
        *,
        sweep: int,
        grace: float,
    ) -> None:
        self._notify_due = notify_due
        self._held = held
        self._stopping = stopping
        self._sweep = sweep
        self._grace = grace

    async def work(
        self, conninfo: str, work_queues: Sequence[WorkQueue], asked: asyncio.Event
    ) -> None:
        """Work until ``asked`` to stop, then drain."""
        check = AsyncConnectionPool.check_connection
        pool = AsyncConnectionPool(
            conninfo, min_size=1, max_size=CONNECTIONS, timeout=PATIENCE, check=check, open=False
        )
        await pool.open()  # without waiting for a connection: PostgreSQL may be away now
        connector = RetryingConnector()
        await connector.open_async(pool)
        queues = [*(queue_of(work_queue.name) for work_queue in work_queues), _SWEEPS]
        service = _started(connector.listen(get_channel_for_queues(queues)), self._keep_leases())
        workers = _started(
            self._keep_watch(App(connector=connector)),
            *(self._man(work_queue, App(connector=connector)) for work_queue in work_queues),
        )
        await asked.wait()
        connector.stop_retrying()
        with suppress(TimeoutError):  # PostgreSQL is away, and may take its time to say so
            await asyncio.wait_for(_ended(workers), self._grace + 1.0)
        await _in_thread(self._held.release)
        await _ended(service)
        await pool.close()

    # The lanes.

    async def _man(self, work_queue: WorkQueue, app: App) -> None:
        """Work on a lane's wakes."""

        async def work() -> None:
            await _in_thread(lambda: self._hand(work_queue))

        queue = queue_of(work_queue.name)
        app.task(name=queue, queue=queue)(work)
        await self._worker(app, queue, work_queue.concurrency)

    def _hand(self, work_queue: WorkQueue) -> None:
        """Do what one wake asks for. A wake whose claim fails is lost, and the sweep finds its row."""
        try:
            self._held.renew()
            while not self._stopping.is_set() and (claims := work_queue.claim(1)):
                self._held.take(work_queue, claims)
                for claimed in claims:
                    self._held.work(work_queue, claimed)
                if not work_queue.chained:
                    return
        except LedgerError as error:
            log.error("ledger away, work waits", work_queue=work_queue.name, error=str(error))  # noqa: TRY400 - the text says it, a trace would not
        except Exception:
            log.exception("claim broke off", work_queue=work_queue.name)

    async def _worker(self, app: App, queue: str, concurrency: int) -> None:
        """Run a worker of Procrastinate's, and another one if it ends: others may have taken us for dead while we were cut off."""
        while True:
            try:
                await app.run_worker_async(
                    queues=[queue],
                    name=queue,
                    concurrency=concurrency,
                    delete_jobs=DeleteJobCondition.ALWAYS,
                    fetch_job_polling_interval=LOOK,
                    shutdown_graceful_timeout=self._grace,
                    stalled_worker_timeout=SILENCE,
                    install_signal_handlers=False,
                )
            except Exception as error:
                log.exception("worker ended, starting it again", queue=queue, error=str(error))
            await asyncio.sleep(PAUSE)

    # What is done now and then, by one process of all.

    async def _keep_watch(self, app: App) -> None:
        """Sweep, and give the wakes of dead processes to the living; whichever process hears of it first does it."""

        async def sweep(timestamp: int) -> None:  # noqa: ARG001 - Procrastinate's way of saying when
            await _in_thread(self._sweep_once)

        async def revive(context: JobContext, timestamp: int) -> None:  # noqa: ARG001 - as above
            for job in await context.app.job_manager.get_stalled_jobs(
                seconds_since_heartbeat=SILENCE
            ):
                await _revive(context.app, job)

        app.periodic(cron=f"* * * * * */{self._sweep}")(
            app.task(name="sweep", queue=_SWEEPS, queueing_lock="sweep")(sweep)
        )
        app.periodic(cron="* * * * * */15")(
            app.task(name="revive", queue=_SWEEPS, queueing_lock="revive", pass_context=True)(
                revive
            )
        )
        await self._worker(app, _SWEEPS, 1)

    def _sweep_once(self) -> None:
        try:
            if found := self._notify_due():
                log.debug("rows without a wake", found=found)
        except LedgerError as error:
            log.error("ledger away, sweep left out", error=str(error))  # noqa: TRY400 - as above
        except Exception:
            log.exception("sweep broke off")

    async def _keep_leases(self) -> None:
        """Renew the leases of long work."""
        while True:
            await _in_thread(self._renew)
            await asyncio.sleep(self._held.next_renewal())

    def _renew(self) -> None:
        try:
            self._held.renew()
        except LedgerError as error:
            log.error("ledger away, leases not renewed", error=str(error))  # noqa: TRY400 - as above


async def _revive(app: App, job: Job) -> None:
    """Have a dead process's wake heard again; one that has a twin is let go."""
    log.warning("wake of a dead worker", queue=job.queue, notification=job.queueing_lock)
    try:
        await app.job_manager.retry_job(job, retry_at=utcnow())
    except UniqueViolation:
        await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)


def _started(*work: Coroutine[Any, Any, None]) -> "list[asyncio.Task[None]]":
    return [asyncio.create_task(each) for each in work]


async def _ended(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _in_thread(work: Callable[[], None]) -> None:
    """Run ``work``, which raises nothing, in a daemon thread; who stops waiting for it leaves it to itself."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        work()
        with suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="hand", daemon=True).start()
    await done.wait()
