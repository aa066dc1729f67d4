"""One job with its assets, deliveries and attempts; and when rows are due."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, case, func, or_, select

from receiver.ledger import claims
from receiver.ledger.caller_fields import MAX_SHOWN, shown_params
from receiver.ledger.database import Database
from receiver.ledger.many_rows import names, select_each
from receiver.ledger.rows import (
    Asset,
    DeliveryEntry,
    DeliveryRow,
    Job,
    asset_of,
    job_of,
)
from receiver.ledger.tables import assets, attempts, deliveries, hints, job_columns, jobs
from receiver.model import JobState, Reason, Source

T = TypeVar("T")
REF_LENGTH = 26


# Read for every job that ends.
_RECORD = (
    f"SELECT {names(job_columns)}, params, metadata FROM jobs WHERE ref {{of_refs}}",  # noqa: S608 - names of columns
    f"SELECT {names(assets.columns)} FROM assets WHERE ref {{of_refs}} ORDER BY idx",  # noqa: S608 - as above
    """SELECT id, source, verdict, received_at, digest, length(body), repaired, proof
    FROM deliveries WHERE ref {of_refs} ORDER BY id""",
)
# A job of an earlier release has no shortened params; long ones are not read for a list.
_SHOWN = case(
    (jobs.c.shown.is_not(None), jobs.c.shown),
    (func.length(jobs.c.params) <= MAX_SHOWN, jobs.c.params),
)
_LOG_COLUMNS = ("id", "source", "verdict", "received_at", "digest", "repaired", "proof")
_DELIVERY_LOG: Select[Any] = (
    select(
        *(deliveries.c[name] for name in _LOG_COLUMNS),
        func.length(deliveries.c.body).label("size"),
    )
    .where(deliveries.c.ref == bindparam("ref"))
    .order_by(deliveries.c.id)
)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that a job's manifest says, at one moment; params and metadata are JSON objects."""

    job: Job
    params: str
    metadata: str
    assets: list[Asset]
    deliveries: list[DeliveryEntry]


@dataclass(frozen=True, slots=True)
class ShownRequest:
    """A job's params with long texts shortened, its metadata, and its webhook with all secrets."""

    params: dict[str, Any]
    metadata: dict[str, Any]
    webhook: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed attempt to archive the asset ``idx`` of a job."""

    idx: int
    at: float
    error: str


class JobQueries:
    """Reads jobs and what belongs to them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    # Jobs.

    def has_callback(self) -> bool:
        """Return whether one of the first 1,000 deliveries was a callback."""
        first = select(deliveries.c.source).order_by(deliveries.c.id).limit(1000).subquery()
        query = select(first.c.source).where(first.c.source == Source.CALLBACK).limit(1)
        return self._read(lambda connection: connection.execute(query).first()) is not None

    def job(self, ref: str) -> Job | None:
        """Return one job; None if there is none."""
        return next(iter(self.jobs_named([ref])), None)

    def jobs_named(self, refs: list[str]) -> list[Job]:
        """Return the jobs with these refs, in the order of the refs; unknown refs are left out."""
        return self._jobs(select(*job_columns).where(jobs.c.ref.in_(refs)).order_by(jobs.c.ref))

    def refs_beginning(self, text: str, limit: int) -> list[str]:
        """Return the refs that begin with these characters in upper case, the first ``limit``."""
        # A range, because LIKE uses no index with some collations.
        last = jobs.c.ref <= text.ljust(REF_LENGTH, "Z")
        query = select(jobs.c.ref).where(jobs.c.ref >= text, last).order_by(jobs.c.ref)
        found = self._read(
            lambda connection: connection.execute(query.limit(limit)).scalars().all()
        )
        return [ref for ref in found if ref.startswith(text)]

    def jobs(
        self, *, state: JobState | None = None, search: str = "", after: str = "", limit: int = 50
    ) -> list[Job]:
        """Return up to ``limit`` jobs after the ref ``after``, newest first.

        ``search`` is a part of the ref, provider id, model or prompt.
        """
        wanted: list[ColumnElement[bool]] = []
        if state:
            wanted.append(jobs.c.state == state)
        if search:
            columns = (jobs.c.ref, jobs.c.provider_id, jobs.c.model, jobs.c.prompt)
            wanted.append(or_(*(column.icontains(search, autoescape=True) for column in columns)))
        if after:
            wanted.append(jobs.c.ref < after)
        query = select(*job_columns).where(and_(True, *wanted)).order_by(jobs.c.ref.desc())
        return self._jobs(query.limit(limit))

    def newest_key(self, prefix: str, since: str) -> str | None:
        """Return the newest key that begins with ``prefix``, of jobs after the ref ``since``."""
        query = select(jobs.c.key).where(
            jobs.c.ref > since, jobs.c.key.startswith(prefix, autoescape=True)
        )
        newest = query.order_by(jobs.c.ref.desc()).limit(1)
        return self._read(lambda connection: connection.execute(newest).scalar())

    def _jobs(self, query: Select[Any]) -> list[Job]:
        return self._read(lambda connection: [job_of(row) for row in connection.execute(query)])

    def params(self, ref: str) -> str:
        """Return the other fields of a job's request as a JSON object; "{}" if there is no job."""
        query = select(jobs.c.params).where(jobs.c.ref == ref)
        return self._read(lambda connection: connection.execute(query).scalar()) or "{}"

    def requests(self, refs: Sequence[str]) -> dict[str, ShownRequest]:
        """Return what is shown of the requests of a few hundred jobs."""
        query = select(jobs.c.ref, _SHOWN, jobs.c.metadata, jobs.c.webhook)
        query = query.where(jobs.c.ref.in_(refs))
        found = self._read(lambda connection: connection.execute(query).all())
        return {
            ref: ShownRequest(
                json.loads(shown or shown_params(json.loads(self.params(ref))) or "{}"),
                json.loads(metadata),
                webhook,
            )
            for ref, shown, metadata, webhook in found
        }

    def webhook(self, ref: str) -> str | None:
        """Return the address of a job's webhook, with its secrets; None if it has none."""
        query = select(jobs.c.webhook).where(jobs.c.ref == ref)
        return self._read(lambda connection: connection.execute(query).scalar())

    def record(self, ref: str) -> JobRecord | None:
        """Return a job with all that its manifest says; None if there is none."""

        def work(connection: Connection) -> JobRecord | None:
            job, found, log = select_each(connection, _RECORD, [ref])
            if not job:
                return None
            *row, params, metadata = job[0]
            return JobRecord(
                job_of(row),
                params,
                metadata,
                [asset_of(asset) for asset in found],
                [DeliveryEntry(*entry) for entry in log],
            )

        return self._read(work)

    def states(self, refs: Sequence[str]) -> dict[str, tuple[JobState, Reason | None]]:
        """Return state and reason of a few hundred jobs; unknown refs are left out."""
        query = select(jobs.c.ref, jobs.c.state, jobs.c.reason).where(jobs.c.ref.in_(refs))
        found = self._read(lambda connection: connection.execute(query).all())
        return {ref: (JobState(state), Reason(why) if why else None) for ref, state, why in found}

    # Assets.

    def assets(self, refs: list[str]) -> dict[str, list[Asset]]:
        """Return the assets of each of these jobs, in order."""
        query = select(assets).where(assets.c.ref.in_(refs)).order_by(assets.c.ref, assets.c.idx)
        rows = self._read(lambda connection: [asset_of(row) for row in connection.execute(query)])
        found: dict[str, list[Asset]] = {ref: [] for ref in refs}
        for asset in rows:
            found[asset.ref].append(asset)
        return found

    def attempts(self, ref: str, limit: int = 500) -> list[Attempt]:
        """Return the last ``limit`` failed attempts to archive a job's assets, in order."""
        columns = (attempts.c.idx, attempts.c.at, attempts.c.error)
        query = select(*columns).where(attempts.c.ref == ref).order_by(attempts.c.id.desc())
        newest_first = self._read(lambda connection: connection.execute(query.limit(limit)).all())
        return [Attempt(*row) for row in reversed(newest_first)]

    # Deliveries.

    def delivery_log(self, ref: str) -> list[DeliveryEntry]:
        """Return a job's deliveries without their bodies, in the order of arrival."""
        return self._read(lambda connection: _delivery_log(connection, ref))

    def deliveries(self, ref: str) -> list[DeliveryRow]:
        """Return a job's deliveries, in the order of arrival."""
        query = select(deliveries).where(deliveries.c.ref == ref).order_by(deliveries.c.id)
        return self._deliveries(query)

    def delivery(self, number: int) -> DeliveryRow | None:
        """Return one delivery by its number; None if there is none."""
        query = select(deliveries).where(deliveries.c.id == number)
        return next(iter(self._deliveries(query)), None)

    def _deliveries(self, query: Select[Any]) -> list[DeliveryRow]:
        return self._read(
            lambda connection: [DeliveryRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - documented
        )

    def body(self, number: int, start: int, length: int) -> bytes:
        """Return a part of a delivery's body, which may be too large for memory."""
        part = select(func.substr(deliveries.c.body, start + 1, length))
        query = part.where(deliveries.c.id == number)
        return bytes(self._read(lambda connection: connection.execute(query).scalar()) or b"")

    # Due work.

    def oldest_due(self, now: float) -> float | None:
        """Return the time since which the oldest due row waits for a worker; None if none waits."""
        return self._read(lambda connection: claims.oldest_due(connection, now))

    def starving(self, due_before: float) -> int:
        """Return how many files have waited for a thread since this time; counting ends soon."""
        return self._read(lambda connection: claims.count_starving(connection, due_before))

    def next_due(self, table_name: str, *, suspects: bool = False) -> float | None:
        """Return when the next row of ``assets``, ``jobs`` or ``hints`` is due; None if none is.

        With ``suspects`` only rows that crashed a worker count.
        """
        table = {"assets": assets, "jobs": jobs, "hints": hints}[table_name]
        return self._read(lambda connection: claims.next_due(connection, table, suspects=suspects))


def _delivery_log(connection: Connection, ref: str) -> list[DeliveryEntry]:
    found = connection.execute(_DELIVERY_LOG, {"ref": ref})
    return [DeliveryEntry(**row._mapping) for row in found]  # noqa: SLF001 - documented
