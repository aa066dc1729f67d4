"""Reads: what the API, the commands and the audit see of the ledger. Nothing here writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select

from receiver.ledger import claims, writes
from receiver.ledger.database import Database
from receiver.ledger.rows import Asset, DeliveryEntry, DeliveryRow, Job
from receiver.ledger.tables import assets, deliveries, events, hints, job_columns, jobs
from receiver.model import FINAL_STATES, AssetState, JobState, Reason

T = TypeVar("T")


# Failures of the provider's, which it refunds.
REFUNDED = (
    Reason.PROVIDER_ERROR,
    Reason.INPUT_MODERATION,
    Reason.OUTPUT_MODERATION,
    Reason.VIOLATION,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What became of a model's jobs; each of them is counted once beside ``submitted``. The model is "" where we never saw the request."""

    provider: str
    model: str
    submitted: int
    archived: int
    refunded: int  # failed at the provider, moderated ones too
    refused: int  # never taken, nothing owed
    failed: int  # paid, but the result was missing or was no picture
    expired: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Audit:
    """The conservation law with its figures, and every law that does not hold with the refs that break it (at most 20 each)."""

    submitted: int
    archived: int
    failed: int
    expired: int
    in_flight: int
    broken: dict[str, list[str]]

    @property
    def difference(self) -> int:
        """Jobs that are nowhere: submitted less all that are accounted for. Zero, or something is lost."""
        return self.submitted - self.archived - self.failed - self.expired - self.in_flight

    @property
    def ok(self) -> bool:
        """Whether every law holds."""
        return self.difference == 0 and not self.broken


class Queries:
    """Questions to the ledger; each answer is one snapshot."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    def job(self, ref: str) -> Job | None:
        """Return one job."""
        return next(iter(self.jobs_named([ref])), None)

    def params(self, ref: str) -> str:
        """Return what else was asked for in a job's request, a JSON object; "{}" if there is no such job."""
        question = select(jobs.c.params).where(jobs.c.ref == ref)
        return self._read(lambda connection: connection.execute(question).scalar()) or "{}"

    def jobs_named(self, refs: list[str]) -> list[Job]:
        """Return the jobs of these refs, in the order of their refs; unknown refs are passed over."""
        question = select(*job_columns).where(jobs.c.ref.in_(refs)).order_by(jobs.c.ref)
        return self._read(
            lambda connection: [writes.job_of(row) for row in connection.execute(question)]
        )

    def jobs(
        self, *, state: JobState | None = None, search: str = "", after: str = "", limit: int = 50
    ) -> list[Job]:
        """Return up to ``limit`` jobs, newest first, that come after the ref ``after`` in that order.

        ``search`` is looked for in ref, provider id, model and prompt.
        """
        wanted: list[ColumnElement[bool]] = []
        if state:
            wanted.append(jobs.c.state == state)
        if search:
            columns = (jobs.c.ref, jobs.c.provider_id, jobs.c.model, jobs.c.prompt)
            wanted.append(or_(*(column.icontains(search, autoescape=True) for column in columns)))
        if after:
            wanted.append(jobs.c.ref < after)
        question = (
            select(*job_columns).where(and_(True, *wanted)).order_by(jobs.c.ref.desc()).limit(limit)
        )
        return self._read(
            lambda connection: [writes.job_of(row) for row in connection.execute(question)]
        )

    def assets(self, refs: list[str]) -> dict[str, list[Asset]]:
        """Return the assets of each of these jobs, in order."""
        question = select(assets).where(assets.c.ref.in_(refs)).order_by(assets.c.ref, assets.c.idx)
        found: dict[str, list[Asset]] = {ref: [] for ref in refs}
        for asset in self._read(
            lambda connection: [writes.asset_of(row) for row in connection.execute(question)]
        ):
            found[asset.ref].append(asset)
        return found

    def delivery_log(self, ref: str) -> list[DeliveryEntry]:
        """Return what was reported about a job, in the order of arrival, without the bodies."""
        shown = [
            deliveries.c[name] for name in ("id", "source", "verdict", "received_at", "digest")
        ]
        question = (
            select(*shown, func.length(deliveries.c.body).label("size"))
            .where(deliveries.c.ref == ref)
            .order_by(deliveries.c.id)
        )
        return self._read(
            lambda connection: [
                DeliveryEntry(**row._mapping)  # noqa: SLF001 - documented
                for row in connection.execute(question)
            ]
        )

    def deliveries(self, ref: str) -> list[DeliveryRow]:
        """Return everything that was ever reported about a job, in the order of arrival."""
        return self._deliveries(
            select(deliveries).where(deliveries.c.ref == ref).order_by(deliveries.c.id)
        )

    def delivery(self, number: int) -> DeliveryRow | None:
        """Return one delivery by its number."""
        return next(
            iter(self._deliveries(select(deliveries).where(deliveries.c.id == number))), None
        )

    def _deliveries(self, question: Select[Any]) -> list[DeliveryRow]:
        return self._read(
            lambda connection: [DeliveryRow(**row._mapping) for row in connection.execute(question)]  # noqa: SLF001 - documented
        )

    def events(self, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return up to ``limit`` events after the one numbered ``after``, oldest first."""
        question = select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
        return self._read(
            lambda connection: [dict(row._mapping) for row in connection.execute(question)]  # noqa: SLF001 - documented
        )

    def counts(self) -> dict[str, int]:
        """Count the jobs in each state; states without jobs count zero."""
        question = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        counted = self._read(
            lambda connection: {
                state: int(number) for state, number in connection.execute(question)
            }
        )
        return {state.value: counted.get(state.value, 0) for state in JobState}

    def standing(self, refs: Sequence[str]) -> dict[str, tuple[JobState, Reason | None]]:
        """Return state and reason of each of these jobs, of some hundreds at a time; unknown refs are left out."""
        question = select(jobs.c.ref, jobs.c.state, jobs.c.reason).where(jobs.c.ref.in_(refs))
        found = self._read(lambda connection: connection.execute(question).all())
        return {ref: (JobState(state), Reason(why) if why else None) for ref, state, why in found}

    def usage(self) -> list[Usage]:
        """Count what became of each model's jobs, the most used model first."""
        failed, refunded = jobs.c.state == JobState.FAILED, jobs.c.reason.in_(REFUNDED)
        kinds = {
            "archived": jobs.c.state == JobState.ARCHIVED,
            "refunded": and_(failed, refunded),
            "refused": and_(failed, jobs.c.reason == Reason.REFUSED),
            "failed": and_(failed, ~refunded, jobs.c.reason != Reason.REFUSED),
            "expired": jobs.c.state == JobState.EXPIRED,
            "in_flight": jobs.c.state.not_in(FINAL_STATES),
        }
        counted = [
            func.count(case((condition, 1))).label(kind) for kind, condition in kinds.items()
        ]
        question = select(
            jobs.c.provider, jobs.c.model, func.count().label("submitted"), *counted
        ).group_by(jobs.c.provider, jobs.c.model)
        question = question.order_by(func.count().desc(), jobs.c.model)
        return self._read(
            lambda connection: [Usage(**row._mapping) for row in connection.execute(question)]  # noqa: SLF001 - documented
        )

    def oldest_due(self, now: float) -> float | None:
        """Return since when (seconds since the epoch) the oldest due work waits for a hand; None when nothing waits."""
        return self._read(lambda connection: claims.oldest_due(connection, now))

    def next_due(self, table_name: str) -> float | None:
        """Return when the next row of ``assets``, ``jobs`` or ``hints`` is due; None when nothing is."""
        table = {"assets": assets, "jobs": jobs, "hints": hints}[table_name]
        return self._read(lambda connection: claims.next_due(connection, table))

    def audit(self) -> Audit:
        """Check every law of the ledger in one snapshot."""
        return self._read(_audit)


def _audit(connection: Connection) -> Audit:
    """Count the jobs one way and what became of them another: the ends by the events that announced them, the rest by what is due."""
    submitted = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    ends = {state: _count(connection, _announced(state)) for state in FINAL_STATES}
    in_flight = _count(connection, jobs.c.due_at.isnot(None))
    broken = {
        law: refs for law, broken_by in _laws().items() if (refs := _refs(connection, broken_by))
    }
    archived, failed, expired = (
        ends[JobState.ARCHIVED],
        ends[JobState.FAILED],
        ends[JobState.EXPIRED],
    )
    return Audit(submitted, archived, failed, expired, in_flight, broken)


def _announced(state: JobState) -> ColumnElement[bool]:
    """Jobs whose end in ``state`` was written to the outbox in their present round."""
    told = select(events.c.id).where(
        events.c.ref == jobs.c.ref, events.c.type == f"job.{state}", events.c.round == jobs.c.round
    )
    return told.exists()


def _laws() -> dict[str, ColumnElement[bool]]:
    """Return each law's name with the condition under which a job breaks it."""
    own = assets.c.ref == jobs.c.ref
    any_asset = select(assets.c.idx).where(own).exists()
    unsafe = select(assets.c.idx).where(own, assets.c.state != AssetState.ARCHIVED).exists()
    pending = select(assets.c.idx).where(own, assets.c.state == AssetState.PENDING).exists()
    final = jobs.c.state.in_(FINAL_STATES)
    told = or_(*(and_(jobs.c.state == state, _announced(state)) for state in FINAL_STATES))
    return {
        "an archived job has assets, all of them archived": and_(
            jobs.c.state == JobState.ARCHIVED, or_(~any_asset, unsafe)
        ),
        "a final job has no pending asset": and_(final, pending),
        "an archiving job has assets": and_(jobs.c.state == JobState.ARCHIVING, ~any_asset),
        "every end is announced by its event": and_(final, ~told),
    }


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    return int(
        connection.execute(select(func.count()).select_from(jobs).where(condition)).scalar_one()
    )


def _refs(connection: Connection, condition: ColumnElement[bool]) -> list[str]:
    return list(
        connection.execute(
            select(jobs.c.ref).where(condition).order_by(jobs.c.ref).limit(20)
        ).scalars()
    )
