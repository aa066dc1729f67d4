"""The work queues of a worker: what is claimed, by how many threads, and what is done with it."""

from functools import partial

from receiver.archive.archiver import Archiver
from receiver.events.dispatcher import Dispatcher
from receiver.jobs.reconcile import Reconciler
from receiver.ledger.assets import Assets
from receiver.ledger.hints import Hints
from receiver.ledger.jobs import Jobs
from receiver.ledger.notifications import QueueName, events_queue
from receiver.ledger.queries.jobs import JobQueries
from receiver.worker.engine import WorkQueue, instrumented

# Threads that poll and expire jobs, and as many that conclude them; they mostly wait for a
# provider or the archive.
JOB_THREADS = 8
HINT_THREADS = 1
# Work that may have crashed a worker runs one at a time, so that a crash has only one suspect.
SUSPECT_THREADS = 1
# Events that are sent to one destination in parallel.
EVENT_THREADS = 4


def make_work_queues(
    queries: JobQueries,
    assets: Assets,
    archiver: Archiver,
    jobs: Jobs,
    hints: Hints,
    reconciler: Reconciler,
    *,
    dispatchers: list[Dispatcher],
    asset_threads: int,
) -> list[WorkQueue]:
    """Return every work queue; ``asset_threads`` download at the same time."""
    hints_due, verify = partial(queries.next_due, "hints"), reconciler.verify_hint
    queues = [
        *_asset_queues(queries, assets, archiver, asset_threads),
        *_job_queues(queries, jobs, reconciler),
        WorkQueue(QueueName.HINTS, HINT_THREADS, hints_due, hints.claim, verify),
        *_event_queues(dispatchers),
    ]
    return [instrumented(queue) for queue in queues]


def _asset_queues(
    queries: JobQueries, assets: Assets, archiver: Archiver, threads: int
) -> list[WorkQueue]:
    due, claim, run = partial(queries.next_due, "assets"), assets.claim, archiver.archive
    suspects_due, suspects = partial(due, suspects=True), partial(claim, suspects=True)
    return [
        WorkQueue(QueueName.ASSETS, threads, due, claim, run),
        WorkQueue(QueueName.SUSPECT_ASSETS, SUSPECT_THREADS, suspects_due, suspects, run),
    ]


def _job_queues(queries: JobQueries, jobs: Jobs, reconciler: Reconciler) -> list[WorkQueue]:
    due, claim, run = partial(queries.next_due, "jobs"), jobs.claim, reconciler.reconcile_job
    complete, others = partial(claim, complete=True), partial(claim, complete=False)
    suspects_due = partial(due, suspects=True)
    return [
        WorkQueue(QueueName.COMPLETE_JOBS, JOB_THREADS, due, complete, run),
        WorkQueue(QueueName.JOBS, JOB_THREADS, due, others, run),
        WorkQueue(QueueName.SUSPECT_JOBS, SUSPECT_THREADS, suspects_due, jobs.claim_suspects, run),
    ]


def _event_queues(dispatchers: list[Dispatcher]) -> list[WorkQueue]:
    """Return one queue per destination, so that a slow one does not delay the others."""
    return [
        WorkQueue(events_queue(to.destination.name), EVENT_THREADS, to.next_due, to.claim, to.send)
        for to in dispatchers
    ]
