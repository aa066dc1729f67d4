"""Ends jobs together with their last assets, many jobs at once.

This is the ordinary end of a job. If a job has changed since its end was prepared, it is left to
``Assets.finish``, which handles one asset after the other.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from receiver.ledger.claims import Claimed
from receiver.ledger.events import NewEvent, write_events_of_jobs
from receiver.ledger.jobs import end_event
from receiver.ledger.many_rows import LOCK_JOBS, ManyRows, select_each, sent_together
from receiver.ledger.rows import Asset, End, Job, StoredAsset, job_of, marks_text
from receiver.model import JobState


@dataclass(frozen=True, slots=True)
class Finish:
    """A claimed asset that is stored, its event and its time, and the prepared end of its job."""

    claimed: Claimed[Asset]
    stored: StoredAsset
    event: NewEvent
    at: float
    end: End | None

    @property
    def ref(self) -> str:
        """The job."""
        return self.claimed.row.ref


# Jobs are locked before their assets, as in every transaction.
_LOCK_PENDING = """
    SELECT ref, idx, claim FROM assets WHERE ref {of_refs} AND state = 'pending'
    ORDER BY ref, idx {locked}
"""
_END_ASSETS = ManyRows(
    """UPDATE assets SET state = 'archived', error = '', due_at = NULL, claim = NULL, doubt = NULL,
        key = new.column3, sha256 = new.column4, size = new.column5, content_type = new.column6,
        width = new.column7, height = new.column8, decoded = new.column9, defect = new.column10,
        marks = new.column11, finished_at = new.column12
    FROM ({values}) AS new WHERE assets.ref = new.column1 AND assets.idx = new.column2""",
    """UPDATE assets SET state = 'archived', error = '', due_at = NULL, claim = NULL, doubt = NULL,
        key = new.key, sha256 = new.sha256, size = new.size, content_type = new.content_type,
        width = new.width, height = new.height, decoded = new.decoded, defect = new.defect,
        marks = new.marks, finished_at = new.finished_at
    FROM unnest(%s::text[], %s::int[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::int[],
        %s::int[], %s::text[], %s::text[], %s::text[], %s::float8[])
        AS new (ref, idx, key, sha256, size, content_type, width, height, decoded, defect, marks,
            finished_at)
    WHERE assets.ref = new.ref AND assets.idx = new.idx""",
)
_END_JOBS = ManyRows(
    """UPDATE jobs SET due_at = NULL, claim = NULL, state = new.column2, reason = new.column3,
        message = new.column4, finished_at = new.column5
    FROM ({values}) AS new WHERE jobs.ref = new.column1""",
    """UPDATE jobs SET due_at = NULL, claim = NULL, state = new.state, reason = new.reason,
        message = new.message, finished_at = new.finished_at
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::float8[])
        AS new (ref, state, reason, message, finished_at)
    WHERE jobs.ref = new.ref""",
)


def end_jobs(connection: Connection, finishes: Sequence[Finish]) -> list[bool | None]:
    """End assets together with their jobs; return True for each that has ended, else None.

    None has three causes: the asset is not the last one of its job; it is no longer ours; or an
    operator reopened the job after its end was prepared.
    """
    refs = [one.ref for one in finishes if one.end]
    jobs, pending = select_each(connection, [LOCK_JOBS, _LOCK_PENDING], refs) if refs else ([], [])
    found = {job.ref: job for job in map(job_of, jobs)}
    claims: defaultdict[str, list[tuple[int, str | None]]] = defaultdict(list)
    for ref, idx, claim in pending:
        claims[ref].append((idx, claim))
    ending = [
        (one, job, one.end)
        for one in finishes
        if one.end
        and (job := found.get(one.ref))
        and (job.state, job.round) == (JobState.ARCHIVING, one.end.round)
        and claims[one.ref] == [(one.claimed.row.idx, one.claimed.token)]
    ]
    if ending:
        _end(connection, ending)
    ended = {id(one): True for one, _, _ in ending}
    return [ended.get(id(one)) for one in finishes]


def _end(connection: Connection, ending: Sequence[tuple[Finish, Job, End]]) -> None:
    events = [
        (job, one.at, event)
        for one, job, end in ending
        for event in (one.event, end_event(job, end.state, end.reason, end.message))
    ]
    with sent_together(connection):
        _END_ASSETS.run(connection, [_asset_values(one) for one, _, _ in ending])
        _END_JOBS.run(connection, [_job_values(one, end) for one, _, end in ending])
        # Last, because transactions that write events wait for each other until the commit.
        write_events_of_jobs(connection, events)


def _asset_values(one: Finish) -> tuple[object, ...]:
    asset, stored = one.claimed.row, one.stored
    return (
        *(asset.ref, asset.idx, stored.key, stored.sha256, stored.size, stored.content_type),
        *(stored.width, stored.height, stored.decoded, stored.defect, marks_text(stored.marks)),
        one.at,
    )


def _job_values(one: Finish, end: End) -> tuple[object, ...]:
    return one.ref, end.state.value, end.reason and end.reason.value, end.message, one.at
