"""The worker pool of the distributed engine: Procrastinate's workers, and what keeps them running.

A work queue is a queue of Procrastinate, a job of that queue is a notification. At a notification a
thread claims the row nearest to its deadline. Each piece of work has its own daemon thread, so that
long work blocks neither the event loop nor a stop.
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

# Seconds without a heartbeat after which a process counts as dead.
HEARTBEAT_TIMEOUT = 30.0
# Connections of a process for its notifications, beside the one that listens; each is needed for
# milliseconds.
CONNECTIONS = 4
# Seconds to wait for a connection before that is logged and tried again.
CONNECT_TIMEOUT = 5.0
# Seconds after which a free thread looks for notifications that it missed.
FETCH_INTERVAL = 5.0

# The queue of the periodic tasks, by the name under which earlier releases stored it.
_PERIODIC = "sweeps"


class WorkerPool:
    """Runs the work queues of one process until asked to stop."""

    def __init__(
        self,
        notify_due: Callable[[], int],
        leases: Leases,
        stopping: threading.Event,
        *,
        poll_interval: int,
        grace: float,
    ) -> None:
        self._notify_due = notify_due
        self._leases = leases
        self._stopping = stopping
        self._poll_interval = poll_interval
        self._grace = grace

    async def work(
        self, conninfo: str, work_queues: Sequence[WorkQueue], asked: asyncio.Event
    ) -> None:
        """Work until ``asked`` to stop, then drain."""
        check = AsyncConnectionPool.check_connection
        pool = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=CONNECTIONS,
            timeout=CONNECT_TIMEOUT,
            check=check,
            open=False,
        )
        await pool.open()  # without waiting for a connection: PostgreSQL may be unavailable
        connector = RetryingConnector()
        await connector.open_async(pool)
        queues = [*(queue_of(work_queue.name) for work_queue in work_queues), _PERIODIC]
        service = _started(connector.listen(get_channel_for_queues(queues)), self._keep_leases())
        workers = _started(
            self._run_periodic_tasks(App(connector=connector)),
            *(self._run_queue(work_queue, App(connector=connector)) for work_queue in work_queues),
        )
        await asked.wait()
        connector.stop_retrying()
        with suppress(TimeoutError):  # PostgreSQL may be unavailable
            await asyncio.wait_for(_ended(workers), self._grace + 1.0)
        await _in_thread(self._leases.release)
        await _ended(service)
        await pool.close()

    # The work queues.

    async def _run_queue(self, work_queue: WorkQueue, app: App) -> None:
        """Handle the notifications of a work queue."""

        async def work() -> None:
            await _in_thread(lambda: self._handle(work_queue))

        queue = queue_of(work_queue.name)
        app.task(name=queue, queue=queue)(work)
        await self._worker(app, queue, work_queue.concurrency)

    def _handle(self, work_queue: WorkQueue) -> None:
        """Handle one notification. If the claim fails, polling finds the row later."""
        try:
            self._leases.renew()
            while not self._stopping.is_set() and (claims := work_queue.claim(1)):
                self._leases.take(work_queue, claims)
                for claimed in claims:
                    self._leases.work(work_queue, claimed)
                if not work_queue.chained:
                    return
        except LedgerError as error:
            log.error("ledger unavailable, work waits", queue=work_queue.name, error=str(error))  # noqa: TRY400 - the text is enough
        except Exception:
            log.exception("claim failed unexpectedly", queue=work_queue.name)

    async def _worker(self, app: App, queue: str, concurrency: int) -> None:
        """Run a worker of Procrastinate, and restart it if it ends.

        After a network outage other processes may have taken this one for dead.
        """
        while True:
            try:
                await app.run_worker_async(
                    queues=[queue],
                    name=queue,
                    concurrency=concurrency,
                    delete_jobs=DeleteJobCondition.ALWAYS,
                    fetch_job_polling_interval=FETCH_INTERVAL,
                    shutdown_graceful_timeout=self._grace,
                    stalled_worker_timeout=HEARTBEAT_TIMEOUT,
                    install_signal_handlers=False,
                )
            except Exception as error:
                log.exception("queue worker ended, restarting it", queue=queue, error=str(error))
            await asyncio.sleep(PAUSE)

    # Periodic tasks, each run by one process of all.

    async def _run_periodic_tasks(self, app: App) -> None:
        """Poll for due rows, and retry the notifications of dead processes."""

        async def poll(timestamp: int) -> None:  # noqa: ARG001 - Procrastinate's interface
            await _in_thread(self._poll_once)

        async def revive(context: JobContext, timestamp: int) -> None:  # noqa: ARG001 - as above
            for job in await context.app.job_manager.get_stalled_jobs(
                seconds_since_heartbeat=HEARTBEAT_TIMEOUT
            ):
                await _revive(context.app, job)

        app.periodic(cron=f"* * * * * */{self._poll_interval}")(
            app.task(name="sweep", queue=_PERIODIC, queueing_lock="sweep")(poll)
        )
        app.periodic(cron="* * * * * */15")(
            app.task(name="revive", queue=_PERIODIC, queueing_lock="revive", pass_context=True)(
                revive
            )
        )
        await self._worker(app, _PERIODIC, 1)

    def _poll_once(self) -> None:
        try:
            if found := self._notify_due():
                log.debug("due rows without a notification", found=found)
        except LedgerError as error:
            log.error("ledger unavailable, due rows not polled", error=str(error))  # noqa: TRY400 - as above
        except Exception:
            log.exception("poll for due rows failed unexpectedly")

    async def _keep_leases(self) -> None:
        """Renew the leases of long work now and then."""
        while True:
            await _in_thread(self._renew)
            await asyncio.sleep(self._leases.next_renewal())

    def _renew(self) -> None:
        try:
            self._leases.renew()
        except LedgerError as error:
            log.error("ledger unavailable, leases not renewed", error=str(error))  # noqa: TRY400 - as above


async def _revive(app: App, job: Job) -> None:
    """Retry a notification of a dead process; drop it if a duplicate is queued."""
    log.warning(
        "notification of a dead worker retried", queue=job.queue, notification=job.queueing_lock
    )
    try:
        await app.job_manager.retry_job(job, retry_at=utcnow())
    except UniqueViolation:
        await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)


def _started(*work: Coroutine[Any, Any, None]) -> "list[asyncio.Task[None]]":
    return [asyncio.create_task(one) for one in work]


async def _ended(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _in_thread(work: Callable[[], None]) -> None:
    """Run ``work``, which raises nothing, in a daemon thread; it goes on if this is cancelled."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        work()
        with suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="worker", daemon=True).start()
    await done.wait()
