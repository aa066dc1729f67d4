"""How providers and models compare: read from a time's newest jobs, ``SAMPLE`` at most, so that a look costs the same at any size."""

from dataclasses import dataclass, field

from sqlalchemy import Connection, case, func, select

from receiver.ledger.database import Database
from receiver.ledger.queries.job_list import first_ref
from receiver.ledger.tables import assets, deliveries, jobs
from receiver.model import AssetState, Decision, JobState, Reason, Source

SAMPLE = 10_000
_MODERATED = {Reason.INPUT_MODERATION, Reason.OUTPUT_MODERATION, Reason.VIOLATION}
# What a callback was taken for that told a job's end, for the first time or again.
_TERMINAL = (Decision.ENDED, Decision.DUPLICATE, Decision.CONTRADICTION, Decision.EMPTY)


@dataclass(slots=True)
class Figures:
    """What is known of one model's jobs; times are seconds, one for each job or picture it happened to."""

    provider: str
    model: str
    jobs: int = 0
    archived: int = 0
    moderated: int = 0
    failed: int = 0  # without the moderated
    expired: int = 0
    in_flight: int = 0
    deliveries: int = 0
    duplicates: int = 0
    pictures: int = 0
    pictures_lost: int = 0
    renewed: int = 0  # answers that brought fresh URLs for pictures not yet archived
    to_callback: list[float] = field(
        default_factory=list
    )  # from the submit to the first word of an end
    to_archive: list[float] = field(
        default_factory=list
    )  # from a URL's coming to the picture's being safe
    life_left: list[float] = field(default_factory=list)  # of a URL, when its picture was safe
    lifetime: float | None = None  # that its URLs are given, the newest one's

    @property
    def ended(self) -> int:
        """Jobs that are over."""
        return self.archived + self.moderated + self.failed + self.expired


@dataclass(frozen=True, slots=True)
class Comparison:
    """The models of a sample, the most used first; ``complete`` unless older jobs of the time were left out."""

    models: list[Figures]
    jobs: int
    complete: bool


class Compare:
    """Compares models; each answer is one snapshot."""

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
        by_model: dict[tuple[str, str], Figures] = {}
        of: dict[str, Figures] = {}
        for ref, provider, model, state, reason, _submitted in rows:
            figures = by_model.setdefault((provider, model), Figures(provider, model))
            of[ref] = figures
            _count_job(figures, JobState(state), reason)
        if rows:
            submitted = {row.ref: row.submitted_at for row in rows}
            _add_deliveries(connection, rows[-1].ref, of, submitted)
            _add_pictures(connection, rows[-1].ref, of)
        models = sorted(by_model.values(), key=lambda figures: (-figures.jobs, figures.model))
        return Comparison(models, len(rows), complete)


def _count_job(figures: Figures, state: JobState, reason: str | None) -> None:
    figures.jobs += 1
    match state:
        case JobState.ARCHIVED:
            figures.archived += 1
        case JobState.FAILED if reason in _MODERATED:
            figures.moderated += 1
        case JobState.FAILED:
            figures.failed += 1
        case JobState.EXPIRED:
            figures.expired += 1
        case _:
            figures.in_flight += 1


def _add_deliveries(
    connection: Connection, oldest: str, of: dict[str, Figures], submitted: dict[str, float]
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
    question = select(deliveries.c.ref, func.count(), func.min(called), *counted.values()).where(
        deliveries.c.ref >= oldest
    )
    for ref, number, first_call, duplicates, refreshed in connection.execute(
        question.group_by(deliveries.c.ref)
    ):
        if ref in of:
            figures = of[ref]
            figures.deliveries += number
            figures.duplicates += duplicates
            figures.renewed += refreshed
            if first_call is not None:
                figures.to_callback.append(max(0.0, first_call - submitted[ref]))


def _add_pictures(connection: Connection, oldest: str, of: dict[str, Figures]) -> None:
    columns = (
        assets.c.ref,
        assets.c.state,
        assets.c.announced_at,
        assets.c.expires_at,
        assets.c.finished_at,
    )
    for ref, state, announced_at, expires_at, finished_at in connection.execute(
        select(*columns).where(assets.c.ref >= oldest)
    ):
        if ref in of:
            figures = of[ref]
            figures.pictures += 1
            figures.lifetime = expires_at - announced_at
            if state == AssetState.ARCHIVED:
                figures.to_archive.append(max(0.0, finished_at - announced_at))
                figures.life_left.append(expires_at - finished_at)
            elif state != AssetState.PENDING:
                figures.pictures_lost += 1


def quantile(values: list[float], share: float) -> float | None:
    """Return the value that ``share`` (0 to 1) of the values do not exceed; None of no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
