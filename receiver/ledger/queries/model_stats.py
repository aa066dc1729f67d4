"""Statistics of models, to compare them.

They are computed from the newest ``SAMPLE`` jobs of a period, so the cost is limited.
"""

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import Connection, case, func, select

from receiver.ledger.database import Database
from receiver.ledger.rows import marks_of
from receiver.ledger.tables import assets, deliveries, jobs
from receiver.model import AssetState, Decision, JobState, Reason, Source, first_ref

SAMPLE = 10_000
_MODERATED = {Reason.INPUT_MODERATION, Reason.OUTPUT_MODERATION, Reason.VIOLATION}
# Decisions about callbacks that reported an end, for the first time or again.
_TERMINAL = (Decision.ENDED, Decision.DUPLICATE, Decision.CONTRADICTION, Decision.EMPTY)


@dataclass(slots=True)
class ModelStats:
    """Counts and durations of one model's jobs; the lists have seconds, one per job or picture."""

    provider: str
    model: str
    jobs: int = 0
    archived: int = 0
    moderated: int = 0
    failed: int = 0  # without moderated ones
    expired: int = 0
    in_flight: int = 0
    deliveries: int = 0
    duplicates: int = 0
    pictures: int = 0
    pictures_lost: int = 0
    renewed: int = 0  # answers with fresh URLs for pending pictures
    # From the submit to the first report of an end.
    to_callback: list[float] = field(default_factory=list)
    # From the arrival of a URL until its picture was archived.
    to_archive: list[float] = field(default_factory=list)
    # Seconds until its URL would have expired, when a picture was archived.
    life_left: list[float] = field(default_factory=list)
    lifetime: float | None = None  # of the newest URL
    files: int = 0  # archived ones
    marks: Counter[str] = field(default_factory=Counter)  # files with a mark of each kind

    @property
    def ended(self) -> int:
        """The number of final jobs."""
        return self.archived + self.moderated + self.failed + self.expired


@dataclass(frozen=True, slots=True)
class Comparison:
    """The models of a sample, most used first; ``complete`` if it has all jobs of the period."""

    models: list[ModelStats]
    jobs: int
    complete: bool


class ModelQueries:
    """Computes the statistics in one snapshot."""

    def __init__(self, database: Database, sample: int = SAMPLE) -> None:
        self._database = database
        self._sample = sample

    def since(self, moment: float) -> Comparison:
        """Compare the jobs submitted since a moment (seconds since the epoch)."""
        return self._database.read(lambda connection: self._compare(connection, moment))

    def _compare(self, connection: Connection, moment: float) -> Comparison:
        columns = (
            jobs.c.ref,
            jobs.c.provider,
            jobs.c.model,
            jobs.c.state,
            jobs.c.reason,
            jobs.c.submitted_at,
        )
        newest = (
            select(*columns)
            .where(jobs.c.ref >= first_ref(moment))
            .order_by(jobs.c.ref.desc())
            .limit(self._sample + 1)
        )
        found = connection.execute(newest).all()
        complete, rows = len(found) <= self._sample, found[: self._sample]
        by_model: dict[tuple[str, str], ModelStats] = {}
        of: dict[str, ModelStats] = {}
        for ref, provider, model, state, reason, _submitted in rows:
            stats = by_model.setdefault((provider, model), ModelStats(provider, model))
            of[ref] = stats
            _count_job(stats, JobState(state), reason)
        if rows:
            submitted = {row.ref: row.submitted_at for row in rows}
            _add_deliveries(connection, rows[-1].ref, of, submitted)
            _add_pictures(connection, rows[-1].ref, of)
        models = sorted(by_model.values(), key=lambda stats: (-stats.jobs, stats.model))
        return Comparison(models, len(rows), complete)


def _count_job(stats: ModelStats, state: JobState, reason: str | None) -> None:
    stats.jobs += 1
    match state:
        case JobState.ARCHIVED:
            stats.archived += 1
        case JobState.FAILED if reason in _MODERATED:
            stats.moderated += 1
        case JobState.FAILED:
            stats.failed += 1
        case JobState.EXPIRED:
            stats.expired += 1
        case _:
            stats.in_flight += 1


def _add_deliveries(
    connection: Connection, oldest: str, of: dict[str, ModelStats], submitted: dict[str, float]
) -> None:
    called = case(
        (
            (deliveries.c.source == Source.CALLBACK) & deliveries.c.verdict.in_(_TERMINAL),
            deliveries.c.received_at,
        )
    )
    counted = {
        verdict: func.count(case((deliveries.c.verdict == verdict, 1)))
        for verdict in (Decision.DUPLICATE, Decision.REFRESHED)
    }
    query = select(deliveries.c.ref, func.count(), func.min(called), *counted.values()).where(
        deliveries.c.ref >= oldest
    )
    for ref, number, first_call, duplicates, refreshed in connection.execute(
        query.group_by(deliveries.c.ref)
    ):
        if ref in of:
            stats = of[ref]
            stats.deliveries += number
            stats.duplicates += duplicates
            stats.renewed += refreshed
            if first_call is not None:
                stats.to_callback.append(max(0.0, first_call - submitted[ref]))


def _add_pictures(connection: Connection, oldest: str, of: dict[str, ModelStats]) -> None:
    columns = (
        assets.c.ref,
        assets.c.state,
        assets.c.announced_at,
        assets.c.expires_at,
        assets.c.finished_at,
        assets.c.marks,
    )
    for ref, state, announced_at, expires_at, finished_at, marks in connection.execute(
        select(*columns).where(assets.c.ref >= oldest)
    ):
        if ref in of:
            stats = of[ref]
            stats.pictures += 1
            stats.lifetime = expires_at - announced_at
            if state == AssetState.ARCHIVED:
                stats.to_archive.append(max(0.0, finished_at - announced_at))
                stats.life_left.append(expires_at - finished_at)
                stats.files += 1
                stats.marks.update({mark.kind for mark in marks_of(marks)})
            elif state != AssetState.PENDING:
                stats.pictures_lost += 1


def quantile(values: list[float], share: float) -> float | None:
    """Return the value that ``share`` (0 to 1) of the values do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
