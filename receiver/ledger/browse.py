"""What the pages and the API's lists ask of the ledger, fast with a million jobs: pages by key, never by offset.

A text cannot be looked up by an index on both databases alike, nor model and state together by one. So a search reads one window of the
newest rows that an index gives, and says where it stopped: whoever asks again goes on from there. What has an index of its own (ref,
provider's id, caller's key) is found at once wherever it is. A ref holds its time, so a time is a range of refs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Table, func, or_, select, text, union
from ulid import ULID

from receiver.ledger import writes
from receiver.ledger.database import Database
from receiver.ledger.rows import Asset, Job
from receiver.ledger.tables import assets, attempts, deliveries, events, job_columns, jobs
from receiver.model import AssetState, EventType, JobState, Provider

T = TypeVar("T")

# Rows that one search for a text reads at most.
WINDOW = 20_000
# Jobs under way that are looked at for an announced risk; more than these are an outage, which the deadlines show.
MOST_RISKS = 500
# Models that a list of them names.
MOST_MODELS = 200
# A ULID's time ends here, in the year 10889.
_END_OF_TIME = float(2**48 - 1) / 1000
_REF_LENGTH = 26


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs are asked for; an empty field asks for nothing. Times are seconds since the epoch, ``until`` is not included.

    ``text`` is looked for in ref, provider's id, model and prompt, whatever its case; the caller's key only counts whole.
    """

    state: JobState | None = None
    model: str = ""
    text: str = ""
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first, and the ref from which the search goes on; None where it came to its end.

    A search may stop before the page is full, even empty: ``next`` then says that it did not come to the end.
    """

    jobs: list[Job]
    next: str | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A picture that came home: the number of the event that said so, and what it shows."""

    event: int
    asset: Asset
    job: Job


@dataclass(frozen=True, slots=True)
class Endangered:
    """A picture whose URL dies soon."""

    asset: Asset
    job: Job


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to archive a picture that came to nothing, and what it met."""

    idx: int
    at: float
    error: str


@dataclass(frozen=True, slots=True)
class OddDelivery:
    """A delivery nobody could read, or that was set aside; ``size`` is its body's, in bytes."""

    id: int
    ref: str
    source: str
    verdict: str
    received_at: float
    size: int


class BrowseQueries:
    """Questions to the ledger; each answer is one snapshot."""

    def __init__(self, database: Database, window: int = WINDOW) -> None:
        self._database = database
        self._window = window

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    # Jobs.

    def page(self, wanted: Wanted, after: str = "", limit: int = 50) -> Page:
        """Return up to ``limit`` jobs that come after the ref ``after``, newest first."""
        return self._read(lambda connection: self._page(connection, wanted, after, limit))

    def _page(self, connection: Connection, wanted: Wanted, after: str, limit: int) -> Page:
        named = [] if after else self._named(connection, wanted)
        if named:
            return Page(named, None)
        if _rest(wanted):
            return self._searched_page(connection, wanted, after, limit)
        return self._plain_page(connection, wanted, after, limit)

    def _plain_page(self, connection: Connection, wanted: Wanted, after: str, limit: int) -> Page:
        question = (
            select(*job_columns)
            .where(*_conditions(wanted, after))
            .order_by(jobs.c.ref.desc())
            .limit(limit + 1)
        )
        return _cut([writes.job_of(row) for row in connection.execute(question)], limit)

    def _searched_page(
        self, connection: Connection, wanted: Wanted, after: str, limit: int
    ) -> Page:
        within = (
            select(jobs.c.ref)
            .where(*_conditions(wanted, after))
            .order_by(jobs.c.ref.desc())
            .limit(self._window)
        )
        read, last = connection.execute(
            select(func.count(), func.min(within.subquery().c.ref))
        ).one()
        if not read:
            return Page([], None)
        # The window's end is known, so what is read is a range of keys: rows beyond it are never touched.
        found = select(*job_columns).where(
            *_conditions(wanted, after), jobs.c.ref >= last, *_rest(wanted)
        )
        rows = connection.execute(found.order_by(jobs.c.ref.desc()).limit(limit + 1)).all()
        page = _cut([writes.job_of(row) for row in rows], limit)
        return page if page.next or read < self._window else replace(page, next=last)

    def _named(self, connection: Connection, wanted: Wanted) -> list[Job]:
        """Return the jobs that a text names in full, if they are wanted otherwise."""
        if not wanted.text:
            return []
        # One look for each index: put together by OR, or as pairs, SQLite reads the whole table instead.
        ids = [
            (jobs.c.provider == provider) & (jobs.c.provider_id == wanted.text)
            for provider in Provider
        ]
        looks = [
            select(jobs.c.ref).where(name)
            for name in (jobs.c.ref == wanted.text.upper(), jobs.c.key == wanted.text, *ids)
        ]
        found = {ref for look in looks for ref in connection.execute(look).scalars()}
        if not found:
            return []
        question = (
            select(*job_columns)
            .where(
                jobs.c.ref.in_(found), *_conditions(wanted, ""), *_rest(replace(wanted, text=""))
            )
            .order_by(jobs.c.ref.desc())
        )
        return [writes.job_of(row) for row in connection.execute(question)]

    def count(self, wanted: Wanted, most: int = 10_000) -> int:
        """Count the jobs that are wanted, up to ``most``, among those one window of a search holds."""

        def work(connection: Connection) -> int:
            if named := self._named(connection, wanted):
                return len(named)
            if _rest(wanted):
                return len(self._searched_page(connection, wanted, "", most).jobs)
            within = select(jobs.c.ref).where(*_conditions(wanted, "")).limit(most).subquery()
            return int(connection.execute(select(func.count()).select_from(within)).scalar_one())

        return self._read(work)

    def models(self) -> list[str]:
        """Name the models jobs were asked of, in order; each is one step through the index, however many jobs it has."""

        def work(connection: Connection) -> list[str]:
            found: list[str] = []
            step = select(func.min(jobs.c.model))
            while (
                len(found) < MOST_MODELS
                and (model := connection.execute(step).scalar()) is not None
            ):
                found.append(model)
                step = select(func.min(jobs.c.model)).where(jobs.c.model > model)
            return [model for model in found if model]

        return self._read(work)

    def events_of(self, ref: str) -> list[dict[str, Any]]:
        """Return the events about a job and its assets, in order."""
        question = select(events).where(events.c.ref == ref).order_by(events.c.id)
        return self._read(
            lambda connection: [dict(row._mapping) for row in connection.execute(question)]  # noqa: SLF001 - documented
        )

    def attempts_of(self, ref: str, limit: int = 500) -> list[Attempt]:
        """Return the attempts to archive a job's pictures that came to nothing, in order; of more than ``limit`` the last."""
        question = select(attempts.c.idx, attempts.c.at, attempts.c.error).where(
            attempts.c.ref == ref
        )
        question = question.order_by(attempts.c.id.desc()).limit(limit)
        return self._read(
            lambda connection: [Attempt(*row) for row in connection.execute(question)]
        )[::-1]

    def last_event(self) -> int:
        """Return the number of the newest event, 0 where there is none."""
        return (
            self._read(
                lambda connection: connection.execute(select(func.max(events.c.id))).scalar()
            )
            or 0
        )

    # Pictures.

    def arrivals(self, before: int | None = None, limit: int = 24) -> list[Arrival]:
        """Return the pictures that came home last, newest first, that came before the event numbered ``before``."""
        told = select(events.c.id, events.c.ref, events.c.idx).where(
            events.c.type == EventType.ASSET_ARCHIVED
        )
        told = told if before is None else told.where(events.c.id < before)

        def work(connection: Connection) -> list[Arrival]:
            newest = connection.execute(told.order_by(events.c.id.desc()).limit(limit)).all()
            pictures = select(assets).where(assets.c.ref.in_({ref for _, ref, _ in newest}))
            found = {
                (asset.ref, asset.idx): asset
                for asset in map(writes.asset_of, connection.execute(pictures))
            }
            of = {job.ref: job for job in _jobs_named(connection, [ref for _, ref, _ in newest])}
            return [Arrival(number, found[ref, idx], of[ref]) for number, ref, idx in newest]

        return self._read(work)

    def endangered(self, before: float, limit: int = 100) -> list[Endangered]:
        """Return pictures not archived yet whose URL dies before a moment or whose job was announced to be at risk, first death first."""

        def work(connection: Connection) -> list[Endangered]:
            nearest = (
                select(assets)
                .order_by(assets.c.expires_at, assets.c.ref, assets.c.idx)
                .limit(limit)
            )
            dying = nearest.where(assets.c.due_at.isnot(None), assets.c.expires_at <= before)
            told = nearest.where(
                assets.c.ref.in_(_announced_at_risk()),
                assets.c.state == AssetState.PENDING,
                assets.c.expires_at > before,
            )
            found = [*connection.execute(dying), *connection.execute(told)]
            rows = [writes.asset_of(row) for row in found[:limit]]
            of = {job.ref: job for job in _jobs_named(connection, [row.ref for row in rows])}
            return [Endangered(row, of[row.ref]) for row in rows]

        return self._read(work)

    # What was set aside.

    def set_aside_jobs(self, after: str = "", limit: int = 50) -> Page:
        """Return the jobs that were given up because they, or one of their pictures, kept crashing the worker; newest first."""
        spoilt = select(jobs.c.ref).where(_crashed(jobs), jobs.c.message.contains(SET_ASIDE))
        lost = select(assets.c.ref).where(
            _crashed(assets),
            assets.c.error.contains(SET_ASIDE),
            assets.c.state != AssetState.PENDING,
        )
        wanted = [jobs.c.ref.in_(union(spoilt, lost)), *([jobs.c.ref < after] if after else [])]
        question = select(*job_columns).where(*wanted).order_by(jobs.c.ref.desc()).limit(limit + 1)
        return _cut(
            self._read(
                lambda connection: [writes.job_of(row) for row in connection.execute(question)]
            ),
            limit,
        )

    def odd_deliveries(self, before: int | None = None, limit: int = 50) -> list[OddDelivery]:
        """Return the deliveries nobody could read or that were set aside, newest first, numbered below ``before``."""
        columns = [deliveries.c[name] for name in ("id", "ref", "source", "verdict", "received_at")]
        question = select(*columns, func.length(deliveries.c.body).label("size")).where(_ODD)
        question = question if before is None else question.where(deliveries.c.id < before)
        question = question.order_by(deliveries.c.id.desc()).limit(limit)
        return self._read(
            lambda connection: [OddDelivery(**row._mapping) for row in connection.execute(question)]  # noqa: SLF001 - documented
        )

    def set_aside(self, most: int = 100) -> int:
        """Count what was set aside, up to ``most``."""
        return min(
            most, len(self.set_aside_jobs(limit=most).jobs) + len(self.odd_deliveries(limit=most))
        )

    def body(self, number: int, start: int, length: int) -> bytes:
        """Return a part of a delivery's body; bodies may be larger than one wants to have in memory."""
        part = select(func.substr(deliveries.c.body, start + 1, length)).where(
            deliveries.c.id == number
        )
        return bytes(self._read(lambda connection: connection.execute(part).scalar()) or b"")


# What the messages of all that was given up after repeated crashes say.
SET_ASIDE = "set aside"
# Written out, because SQLite uses a partial index only for the very words of its condition.
_ODD = text("verdict = 'unreadable'")


def _crashed(table: Table) -> ColumnElement[bool]:
    return table.c.crashes > text("0")  # written out, as above


def _conditions(wanted: Wanted, after: str) -> list[ColumnElement[bool]]:
    """Return what one index answers: the time, and the state or the model."""
    found: list[ColumnElement[bool]] = []
    if wanted.state and not _by_model(wanted):
        found.append(jobs.c.state == wanted.state)
    if _by_model(wanted):
        found.append(jobs.c.model == wanted.model)
    if wanted.since is not None:
        found.append(jobs.c.ref >= first_ref(wanted.since))
    if wanted.until is not None:
        found.append(jobs.c.ref < first_ref(wanted.until))
    if after:
        found.append(jobs.c.ref < after)
    return found


def _by_model(wanted: Wanted) -> bool:
    """Say whether to look among a model's jobs, which most often are archived, rather than among the few of another state."""
    return bool(wanted.model) and wanted.state in (None, JobState.ARCHIVED)


def _rest(wanted: Wanted) -> list[ColumnElement[bool]]:
    """Return what is looked for row by row among those."""
    found: list[ColumnElement[bool]] = []
    if wanted.text:
        found.append(_holds(wanted.text))
    if wanted.state and _by_model(wanted):
        found.append(
            func.coalesce(jobs.c.state, "") == wanted.state
        )  # so written, it tempts no planner to use the other index
    if wanted.model and not _by_model(wanted):
        found.append(func.coalesce(jobs.c.model, "") == wanted.model)
    return found


def _holds(words: str) -> ColumnElement[bool]:
    columns = (jobs.c.ref, jobs.c.provider_id, jobs.c.model, jobs.c.prompt)
    return or_(*(column.icontains(words, autoescape=True) for column in columns))


def first_ref(moment: float) -> str:
    """Return the ref that stands before all refs made at a moment (seconds since the epoch) or later."""
    milliseconds = int(min(max(moment, 0.0), _END_OF_TIME) * 1000)
    return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + bytes(10)))


def _cut(found: Sequence[Job], limit: int) -> Page:
    """Make a page of what was asked for with one row more than it shows."""
    page = list(found[:limit])
    return Page(page, page[-1].ref if len(found) > limit else None)


def _jobs_named(connection: Connection, refs: list[str]) -> list[Job]:
    return [
        writes.job_of(row)
        for row in connection.execute(select(*job_columns).where(jobs.c.ref.in_(refs)))
    ]


def _announced_at_risk() -> Select[tuple[str]]:
    """Return the jobs under way whose risk was announced in their present round."""
    told = select(events.c.id).where(
        events.c.ref == jobs.c.ref,
        events.c.idx == writes.ABOUT_THE_JOB,
        events.c.type == EventType.JOB_AT_RISK,
        events.c.round == jobs.c.round,
    )
    return (
        select(jobs.c.ref)
        .where(jobs.c.state == JobState.ARCHIVING, told.exists())
        .limit(MOST_RISKS)
    )
