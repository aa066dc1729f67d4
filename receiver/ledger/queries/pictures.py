"""The last archived picture, and the pictures whose URL expires soon."""

from dataclasses import dataclass

from sqlalchemy import Connection, Select, func, select, true

from receiver.ledger.database import Database
from receiver.ledger.events import ABOUT_THE_JOB
from receiver.ledger.queries.backlog import is_at_risk
from receiver.ledger.rows import Asset, Job, asset_of, job_of
from receiver.ledger.tables import assets, events, job_columns, jobs
from receiver.model import AssetState, EventType, JobState

# Jobs in progress that are searched for an announced risk. More of them are an outage, and then the
# deadlines show enough.
MOST_RISKS = 500


@dataclass(frozen=True, slots=True)
class Endangered:
    """A picture that is not archived yet and whose URL expires soon, and its job."""

    asset: Asset
    job: Job


class PictureQueries:
    """Reads assets together with their jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self) -> int:
        """Return the number of the event of the last archived picture, 0 if there is none."""
        query = select(func.max(events.c.id)).where(events.c.type == EventType.ASSET_ARCHIVED)
        return self._database.read(lambda connection: connection.execute(query).scalar()) or 0

    def endangered(
        self, before: float, limit: int = 100, *, now: float | None = None
    ) -> list[Endangered]:
        """Return pending pictures that may be lost, sorted by the expiry of their URLs.

        These are pictures whose URL expires before ``before`` and, if ``now`` is given, is in the
        last quarter of its lifetime; and those whose job was announced as at risk.
        """

        def work(connection: Connection) -> list[Endangered]:
            order = (assets.c.expires_at, assets.c.ref, assets.c.idx)
            nearest = select(assets).order_by(*order).limit(limit)
            late = true() if now is None else is_at_risk(now)
            near = assets.c.expires_at <= before
            dying = nearest.where(assets.c.due_at.isnot(None), near, late)
            announced = nearest.where(
                assets.c.ref.in_(_announced_at_risk()),
                assets.c.state == AssetState.PENDING,
                ~(near & late),
            )
            found = [*connection.execute(dying), *connection.execute(announced)]
            rows = [asset_of(row) for row in found[:limit]]
            job_by_ref = _jobs_by_ref(connection, [row.ref for row in rows])
            return [Endangered(row, job_by_ref[row.ref]) for row in rows]

        return self._database.read(work)


def _jobs_by_ref(connection: Connection, refs: list[str]) -> dict[str, Job]:
    rows = connection.execute(select(*job_columns).where(jobs.c.ref.in_(refs)))
    return {job.ref: job for job in map(job_of, rows)}


def _announced_at_risk() -> Select[tuple[str]]:
    """Return the jobs in progress whose risk was announced in their present round."""
    announced = select(events.c.id).where(
        events.c.ref == jobs.c.ref,
        events.c.idx == ABOUT_THE_JOB,
        events.c.type == EventType.JOB_AT_RISK,
        events.c.round == jobs.c.round,
    )
    return (
        select(jobs.c.ref)
        .where(jobs.c.state == JobState.ARCHIVING, announced.exists())
        .limit(MOST_RISKS)
    )
