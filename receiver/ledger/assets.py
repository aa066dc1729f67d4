"""Assets: the transactions in which a result file is claimed, archived, retried or ended."""

from collections.abc import Callable

from sqlalchemy import Connection, bindparam, func, insert, select, tuple_, update

from receiver.errors import ReceiverError
from receiver.ledger import claims
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.deliveries import find_reports
from receiver.ledger.events import NewEvent, write_events
from receiver.ledger.group_commit import Batch
from receiver.ledger.job_ends import Finish, end_jobs
from receiver.ledger.jobs import expedite_job, finish_job, lock_job
from receiver.ledger.notifications import QueueName, notify, notify_of_rows
from receiver.ledger.rows import Asset, End, Job, Rejected, StoredAsset, asset_of, marks_text
from receiver.ledger.tables import assets, attempts, jobs
from receiver.model import (
    FINAL_STATES,
    INLINE,
    AssetState,
    EventType,
    JobState,
    Provider,
    Timing,
)
from receiver.telemetry import metrics

_STORED = ("key", "sha256", "size", "content_type", "width", "height")


class Assets:
    """The transactions of assets. ``now`` returns seconds since the epoch."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    def claim(self, limit: int, *, suspects: bool = False) -> list[Claimed[Asset]]:
        """Claim up to ``limit`` due assets, nearest deadline first.

        With ``suspects`` only those that may have crashed workers, otherwise only the others.
        """
        statement = _CLAIM_SUSPECTS if suspects else _CLAIM

        def work(connection: Connection) -> list[Claimed[Asset]]:
            rows = claims.claim_rows(connection, statement, self._now(), limit)
            return sorted((Claimed(asset_of(row), row.claim) for row in rows), key=_by_deadline)

        return self._database.write(work)

    def reports(self, ref: str) -> list[tuple[Provider, bytes]]:
        """Return the reports that may contain a job's pictures, each with the job's provider."""
        return self._database.read(lambda connection: find_reports(connection, ref))

    def finish(self, claimed: Claimed[Asset], stored: StoredAsset, end: End | None = None) -> bool:
        """Record that an asset is archived; raise ClaimLostError if it is no longer ours.

        If it is the job's last one, end the job too, in the same transaction, provided that its
        ``end`` is prepared; otherwise the job becomes due. Return whether the job ended.
        """
        row = claimed.row
        event = _archived_event(row.ref, row.idx, stored)
        finish = Finish(claimed, stored, event, end.at if end else self._now(), end)
        ended = self._database.write_item(_FINISH, finish)
        metrics.ASSETS.labels(AssetState.ARCHIVED).inc()
        metrics.BYTES.inc(stored.size)
        metrics.TIME_LEFT.observe(max(0.0, row.expires_at - self._now()))
        return ended

    def next_untried(self) -> Asset | None:
        """Return an archived file that was not yet decoded as a test; it counts as tried.

        Return None if there is none, or if an asset is due to be archived: that has priority. If a
        file crashes this process, it is not tried again.
        """

        def work(connection: Connection) -> Asset | None:
            if connection.execute(_DUE, {"now": self._now()}).first():
                return None
            row = connection.execute(_TAKE_UNTRIED).first()
            return asset_of(row) if row else None

        return self._database.write(work)

    def record_doubt(self, asset: Asset, doubt: str | None) -> None:
        """Record why an archived file may be damaged; with None it is tried again."""
        values = {"of_ref": asset.ref, "of_idx": asset.idx, "new_doubt": doubt}
        self._database.write(lambda connection: connection.execute(_SET_DOUBT, values))

    def give_up(
        self,
        claimed: Claimed[Asset],
        state: AssetState,
        error: str,
        *,
        rejected: Rejected | None = None,
    ) -> None:
        """Record that an asset failed or expired, and why; ``rejected`` is its last bad file.

        Raise ClaimLostError if it is no longer ours.
        """
        changed = {"state": state, "error": error, **_rejected_columns(rejected)}

        def work(connection: Connection) -> None:
            now, ref = self._now(), claimed.row.ref
            lock_job(connection, ref)
            last = _end(connection, claimed, now, **changed)
            _insert_attempt(connection, claimed.row, now, error)
            _make_due_if_last(connection, ref, now, last=last)

        self._database.write(work)
        metrics.ASSETS.labels(state).inc()
        metrics.LOST.labels("asset").inc()

    def retry(
        self,
        claimed: Claimed[Asset],
        due_at: float,
        error: str,
        *,
        counted: bool = True,
        refresh_url: bool = False,
        rejected: Rejected | None = None,
    ) -> None:
        """Make an asset due again at ``due_at``, after an attempt that met ``error``.

        Without ``counted`` the attempt does not count, for example because the archive was
        unavailable. ``refresh_url``: poll the job now, because the provider may have a fresh URL.
        ``rejected``: the attempt brought this bad file.
        """

        def work(connection: Connection) -> None:
            job = lock_job(connection, claimed.row.ref)
            claims.update_claimed(
                connection,
                claimed,
                due_at=due_at,
                claim=None,
                error=error,
                attempts=claimed.row.attempts - (not counted),
                crashes=0,
                **_rejected_columns(rejected),
            )
            if claimed.row.crashes:  # it is not suspect any more, so it is in another work queue
                notify(connection, QueueName.ASSETS)
            if counted:
                _insert_attempt(connection, claimed.row, self._now(), error)
            if refresh_url:
                expedite_job(connection, job.ref, self._now())

        self._database.write(work)
        metrics.ASSETS.labels("retry").inc()

    def accept(self, ref: str, idx: int, stored: StoredAsset) -> Job:
        """Record that an operator accepted a rejected file, which is stored; return the job.

        The job is concluded again, in a new round: an end that a worker has prepared meanwhile is
        void, and a worker that has the asset loses its claim. Accepting the same file again changes
        nothing. Raise ReceiverError if the job is gone or another file is archived.
        """

        def work(connection: Connection) -> tuple[Job, bool]:
            job, now = lock_job(connection, ref), self._now()
            if not _accept(connection, ref, idx, stored, now):
                return job, False
            job = _begin_round(connection, job, now)
            _make_due_if_last(connection, ref, now, last=count_pending(connection, ref) == 0)
            event = _archived_event(ref, idx, stored, accepted=True)
            write_events(connection, job, now, [event])
            return job, True

        job, is_new = self._database.write(work)
        if is_new:
            metrics.ASSETS.labels(AssetState.ARCHIVED).inc()
            metrics.BYTES.inc(stored.size)
        return job


def _finish(connection: Connection, new: Finish) -> bool:
    """Record that an asset is archived, and end its job if possible; return whether it ended."""
    job = lock_job(connection, new.ref)
    # An operator's retry may have reopened the job after its end was prepared.
    end = new.end if new.end and new.end.round == job.round else None
    last = _end(connection, new.claimed, new.at, **_archived_columns(new.stored))
    if end is None or not last:
        _make_due_if_last(connection, new.ref, new.at, last=last)
        write_events(connection, job, new.at, [new.event])
        return False
    finish_job(
        *(connection, job, end.state, new.at),
        reason=end.reason,
        message=end.message,
        earlier=[new.event],
    )
    return True


_FINISH = Batch(one=_finish, many=end_jobs)


def _by_deadline(claimed: Claimed[Asset]) -> tuple[float, str, int]:
    return claimed.row.expires_at, claimed.row.ref, claimed.row.idx


# Statements.


# Built once: SQLAlchemy needs longer to build a statement than to run it.
_CLAIM, _CLAIM_SUSPECTS = (
    claims.claim_statement(
        assets, assets.c.expires_at, claims.suspected(assets, suspects=suspects), few=suspects
    )
    for suspects in (False, True)
)
_COUNT_PENDING = (
    select(func.count())
    .select_from(assets)
    .where(assets.c.ref == bindparam("ref"), assets.c.state == AssetState.PENDING)
)
_INSERT_ATTEMPT = insert(attempts)
# The columns that the end of a job has set.
_CONCLUDE_AGAIN: dict[str, object] = {
    "reason": None,
    "message": "",
    "finished_at": None,
    "attempts": 0,
    "crashes": 0,
}
_DUE = select(assets.c.ref).where(assets.c.due_at <= bindparam("now")).limit(1)
_UNTRIED = (
    select(assets.c.ref, assets.c.idx)
    .where(assets.c.doubt.is_(None))
    .order_by(assets.c.finished_at)
    .limit(1)
)
_TAKE_UNTRIED = (
    update(assets)
    # The second condition is false if another worker took the row meanwhile.
    .where(tuple_(assets.c.ref, assets.c.idx).in_(_UNTRIED), assets.c.doubt.is_(None))
    .values(doubt="")
    .returning(*assets.columns)
)
_SET_DOUBT = (
    update(assets)
    .where(assets.c.ref == bindparam("of_ref"), assets.c.idx == bindparam("of_idx"))
    .values(doubt=bindparam("new_doubt"))
)
_MAKE_JOB_DUE = (
    update(jobs)
    .where(jobs.c.ref == bindparam("of_ref"))
    .values(due_at=bindparam("now"), claim=None, crashes=0)
)


def _insert_attempt(connection: Connection, asset: Asset, now: float, error: str) -> None:
    values = {"ref": asset.ref, "idx": asset.idx, "at": now, "error": error}
    connection.execute(_INSERT_ATTEMPT, values)


def _end(connection: Connection, claimed: Claimed[Asset], now: float, **values: object) -> bool:
    """End a claimed asset, whose job is locked; return whether it was the job's last pending one.

    Raise ClaimLostError if it is no longer ours.
    """
    claims.update_claimed(connection, claimed, finished_at=now, due_at=None, claim=None, **values)
    return count_pending(connection, claimed.row.ref) == 0


def _archived_columns(stored: StoredAsset) -> dict[str, object]:
    """Return the columns of an archived asset."""
    return {
        **{name: getattr(stored, name) for name in _STORED},
        "state": AssetState.ARCHIVED,
        "error": "",
        "decoded": stored.decoded,
        "defect": stored.defect,
        "marks": marks_text(stored.marks),
        "doubt": None,  # whether it can be decoded is tried later
    }


def _archived_event(ref: str, idx: int, stored: StoredAsset, *, accepted: bool = False) -> NewEvent:
    payload = {"ref": ref, "index": idx, **{name: getattr(stored, name) for name in _STORED}}
    if accepted:
        payload["accepted"] = True
    return NewEvent(EventType.ASSET_ARCHIVED, payload, idx)


def _rejected_columns(rejected: Rejected | None) -> dict[str, object]:
    """Return the columns that record a rejected file; none if there was none in this attempt."""
    if rejected is None:
        return {}
    return {
        "rejected_sha256": rejected.sha256,
        "rejected_size": rejected.size,
        "rejected_type": rejected.content_type,
        "rejected_reason": rejected.reason,
        "quarantined_at": rejected.quarantined_at,
    }


def _accept(connection: Connection, ref: str, idx: int, stored: StoredAsset, now: float) -> bool:
    """Make an asset of a locked job archived; return False if this file was accepted before.

    Raise ReceiverError if another file is archived.
    """
    own = (assets.c.ref == ref) & (assets.c.idx == idx)
    state, sha256 = connection.execute(select(assets.c.state, assets.c.sha256).where(own)).one()
    if state == AssetState.ARCHIVED:
        if sha256 != stored.sha256:
            raise ReceiverError(f"asset {idx} of {ref} was archived meanwhile, with another file")
        return False
    values = _archived_columns(stored) | {"finished_at": now, "accepted_at": now}
    values |= {"due_at": None, "claim": None, "crashes": 0}
    connection.execute(update(assets).where(own).values(values))
    return True


def _begin_round(connection: Connection, job: Job, now: float) -> Job:
    """Start a new round of a locked job in which only its end is decided again; return the job."""
    values: dict[str, object] = {"round": job.round + 1}
    if job.state in FINAL_STATES:
        values |= _CONCLUDE_AGAIN | {"state": JobState.ARCHIVING, "due_at": now}
    connection.execute(update(jobs).where(jobs.c.ref == job.ref).values(values))
    return lock_job(connection, job.ref)


def _make_due_if_last(connection: Connection, ref: str, now: float, *, last: bool) -> None:
    """Make a job due whose last asset is final, even if a worker is polling it at this moment."""
    if last:
        connection.execute(_MAKE_JOB_DUE, {"of_ref": ref, "now": now})
        notify(connection, QueueName.COMPLETE_JOBS)


def count_pending(connection: Connection, ref: str) -> int:
    """Return how many assets of a job are not final."""
    return int(connection.execute(_COUNT_PENDING, {"ref": ref}).scalar_one())


def has_inline_losses(connection: Connection, ref: str) -> bool:
    """Return whether assets of a job are not archived although the ledger has their bytes."""
    lost = (
        (assets.c.ref == ref)
        & (assets.c.state != AssetState.ARCHIVED)
        & assets.c.url.startswith(INLINE)
    )
    return connection.execute(select(assets.c.idx).where(lost).limit(1)).first() is not None


def expedite_assets(connection: Connection, ref: str, now: float) -> None:
    """Make a job's waiting assets due now, except those that a worker has claimed."""
    waiting = (assets.c.ref == ref) & assets.c.claim.is_(None) & (assets.c.due_at > now)
    change = update(assets).where(waiting).values(due_at=now).returning(assets.c.crashes)
    notify_of_rows(connection, QueueName.ASSETS, connection.execute(change).scalars().all())


def reopen_job(connection: Connection, job: Job, timing: Timing, now: float) -> None:
    """Start a new round of a final job.

    Its lost assets become pending again. A job without assets waits for a result again. A job whose
    assets are all archived is only concluded again.
    """
    reopened = _reopen_assets(connection, job.ref, now, now + timing.lifetime(job.provider))
    is_complete = job.state is JobState.ARCHIVED and not reopened
    notify(connection, QueueName.COMPLETE_JOBS if is_complete else QueueName.JOBS)
    values = _CONCLUDE_AGAIN | {"round": job.round + 1, "due_at": now}
    if reopened or job.state is JobState.ARCHIVED:
        values |= {"state": JobState.ARCHIVING}
    else:
        values |= {
            "state": JobState.WAITING,
            "outcome": None,
            "ended_at": None,
            "deadline_at": now + timing.job_timeout,
        }
    connection.execute(update(jobs).where(jobs.c.ref == job.ref).values(values))


def _reopen_assets(connection: Connection, ref: str, now: float, expires_at: float) -> bool:
    lost = (assets.c.ref == ref) & assets.c.state.in_([AssetState.FAILED, AssetState.EXPIRED])
    values = {
        "state": AssetState.PENDING,
        "due_at": now,
        "finished_at": None,
        "attempts": 0,
        "crashes": 0,
        "expires_at": expires_at,
    }
    reopen = update(assets).where(lost).values(values).returning(assets.c.idx)
    indexes = connection.execute(reopen).scalars().all()
    if indexes:
        notify(connection, QueueName.ASSETS)
    return bool(indexes)
