"""Lists of jobs, fast with millions of jobs: pages by key, never by offset.

A text is looked up in the index of texts; a ref, a provider's id and a caller's key have indexes of
their own. Some conditions have no index: a text of one or two letters, or model and state together.
For them one window of the newest rows is searched. The page says where the window ended, and the
next request continues there. A ref contains its time, so a period is a range of refs.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, bindparam, func, or_, select

from receiver.ledger.caller_fields import has_metadata, refs_with_metadata
from receiver.ledger.database import Database
from receiver.ledger.rows import Job, job_of
from receiver.ledger.tables import HAS_FOLDER, assets, job_columns, job_metadata, jobs
from receiver.ledger.text_index import containing, find, wanted_pieces
from receiver.model import AssetState, JobState, Provider, Reason, first_ref

T = TypeVar("T")

# Rows that one search reads at most, and those that the index of texts finds, which cost more.
WINDOW, CANDIDATES = 20_000, 8000
# With the index of texts: rows that are read first, and rows that are read or counted at once.
_PORTION, _COUNTED = 200, 2000
# Texts that may be a part of a ref or of a provider's id, which are not in the index of texts.
_ID = re.compile(r"[!-~]+")
_IDS = ("ref", "provider_id")
_TEXTS = (*_IDS, "model", "prompt", "key", "batch")
# Models in the list of models.
MOST_MODELS = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs are wanted; an empty field does not restrict them.

    Times are seconds since the epoch, ``until`` is exclusive. ``text`` has words, each
    a part of the ref, provider's id, key, batch, model or prompt in any case. ``metadata`` is the
    name of a value in it and that value as text, None for any value. ``folder`` is exactly the
    job's. ``pictures``: only jobs with an archived file.
    """

    state: JobState | None = None
    model: str = ""
    text: str = ""
    since: float | None = None
    until: float | None = None
    batch: str = ""
    reason: Reason | None = None
    metadata: tuple[str, str | None] | None = None
    folder: str = ""
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first; ``next`` is the ref to continue after, None at the end.

    A search may return a short or empty page before the end.
    """

    jobs: list[Job]
    next: str | None


@dataclass(frozen=True, slots=True)
class Count:
    """How many jobs were counted, and whether there may be more."""

    number: int
    is_partial: bool = False


class JobListQueries:
    """Lists and counts jobs."""

    def __init__(self, database: Database, window: int = WINDOW) -> None:
        self._database = database
        self._window = window
        self._candidates = min(window, CANDIDATES)

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    def page(self, wanted: Wanted, after: str = "", limit: int = 50) -> Page:
        """Return up to ``limit`` jobs after the ref ``after``, newest first."""
        return self._read(lambda connection: self._page(connection, wanted, after, limit))

    def newer(self, wanted: Wanted, than: str) -> Job | None:
        """Return the wanted job that comes before the ref ``than`` in the list, if it is near."""

        def work(connection: Connection) -> Job | None:
            if pieces := wanted_pieces(wanted.text):
                return _newer_with(connection, wanted, pieces, than)
            refs = _refs(wanted, low=than).limit(self._window)
            last = connection.execute(select(func.max(refs.subquery().c.ref))).scalar()
            if last is None:
                return None
            within = (*_indexed(wanted, ""), jobs.c.ref > than, *_unindexed(wanted))
            query = select(*job_columns).where(*within, *_near(wanted, than, last))
            row = connection.execute(query.order_by(jobs.c.ref).limit(1)).one_or_none()
            return job_of(row) if row else None

        return self._read(work)

    def _page(self, connection: Connection, wanted: Wanted, after: str, limit: int) -> Page:
        named = [] if after else self._named(connection, wanted)
        if named:
            return Page(named, None)
        if pieces := wanted_pieces(wanted.text):
            found = self._indexed_page(connection, wanted, pieces, after, limit)
            if found.jobs or found.next or not _ID.fullmatch(wanted.text):
                return found
            return self._searched_page(connection, wanted, after, limit, _IDS)
        if _unindexed(wanted):
            return self._searched_page(connection, wanted, after, limit)
        query = select(*job_columns).where(*_indexed(wanted, after))
        query = query.order_by(jobs.c.ref.desc()).limit(limit + 1)
        return page_of([job_of(row) for row in connection.execute(query)], limit)

    def _indexed_page(
        self, connection: Connection, wanted: Wanted, pieces: list[str], after: str, limit: int
    ) -> Page:
        """Return a page of the jobs that the index of texts finds."""
        low, high = _bounds(wanted, after)
        others = (*_indexed(wanted, after), *_unindexed(replace(wanted, text="")))
        found: list[str] = []
        for size in (_PORTION, *[_COUNTED] * (self._candidates // _COUNTED)):
            portion = find(connection, pieces, low, high, size, up=False)
            found += containing(connection, portion.refs, others, wanted.text)
            if portion.next is None or len(found) > limit:
                return page_of(_jobs_at(connection, found[: limit + 1]), limit)
            high = portion.next
        return Page(_jobs_at(connection, found), high)

    def _searched_page(
        self,
        connection: Connection,
        wanted: Wanted,
        after: str,
        limit: int,
        texts: Sequence[str] = _TEXTS,
    ) -> Page:
        """Return a page of the jobs in one window that have the text in one of these columns."""
        conditions, end = self._window_of(connection, wanted, after, texts)
        query = select(*job_columns).where(*conditions).order_by(jobs.c.ref.desc())
        rows = connection.execute(query.limit(limit + 1)).all()
        page = page_of([job_of(row) for row in rows], limit)
        return page if page.next or not end else replace(page, next=end)

    def _window_of(
        self, connection: Connection, wanted: Wanted, after: str, texts: Sequence[str] = _TEXTS
    ) -> tuple[list[ColumnElement[bool]], str | None]:
        """Return the conditions of the wanted jobs in one window of the newest ones, and its end.

        The end is the ref to continue after, None if there are no more jobs.
        """
        window = _refs(wanted, high=after).limit(self._window).subquery()
        read, last = connection.execute(select(func.count(), func.min(window.c.ref))).one()
        if not read:
            return [jobs.c.ref.is_(None)], None
        # With the end of the window known, a range of keys is read; rows after it are not touched.
        within = (*_indexed(wanted, after), *_near(wanted, last, after))
        return [*within, *_unindexed(wanted, texts)], last if read == self._window else None

    def _named(self, connection: Connection, wanted: Wanted) -> list[Job]:
        """Return jobs whose ref, provider's id or key is the text, if otherwise wanted."""
        if not wanted.text:
            return []
        # One query for each index: with OR, or with pairs, SQLite reads the whole table.
        ids = [
            (jobs.c.provider == provider) & (jobs.c.provider_id == wanted.text)
            for provider in Provider
        ]
        names = (jobs.c.ref == wanted.text.upper(), jobs.c.key == wanted.text, *ids)
        found = {
            ref
            for name in names
            for ref in connection.execute(select(jobs.c.ref).where(name)).scalars()
        }
        if not found:
            return []
        others = (*_indexed(wanted, ""), *_unindexed(replace(wanted, text="")))
        query = select(*job_columns).where(jobs.c.ref.in_(found), *others)
        query = query.order_by(jobs.c.ref.desc())
        return [job_of(row) for row in connection.execute(query)]

    def count(self, wanted: Wanted, most: int = 10_000) -> Count:
        """Count the wanted jobs up to ``most``; a search counts those in one window."""

        def work(connection: Connection) -> Count:
            if named := self._named(connection, wanted):
                return Count(len(named))
            if pieces := wanted_pieces(wanted.text):
                found = self._indexed_count(connection, wanted, pieces, most)
                if found.number or found.is_partial or not _ID.fullmatch(wanted.text):
                    return found
                return self._searched_count(connection, wanted, most, _IDS)
            if _unindexed(wanted):
                return self._searched_count(connection, wanted, most)
            return _counted(connection, _indexed(wanted, ""), most)

        return self._read(work)

    def _searched_count(
        self, connection: Connection, wanted: Wanted, most: int, texts: Sequence[str] = _TEXTS
    ) -> Count:
        """Count the jobs in one window."""
        conditions, end = self._window_of(connection, wanted, "", texts)
        found = _counted(connection, conditions, most)
        return replace(found, is_partial=found.is_partial or end is not None)

    def _indexed_count(
        self, connection: Connection, wanted: Wanted, pieces: list[str], most: int
    ) -> Count:
        """Count what the index of texts finds in one window."""
        low, high = _bounds(wanted, "")
        others = (*_indexed(wanted, ""), *_unindexed(replace(wanted, text="")))
        number = 0
        for _ in range(max(1, self._candidates // _COUNTED)):
            portion = find(connection, pieces, low, high, _COUNTED, up=False)
            number += len(containing(connection, portion.refs, others, wanted.text))
            if number >= most:
                return Count(most, is_partial=True)
            if portion.next is None:
                return Count(number)
            high = portion.next
        return Count(number, is_partial=True)

    def models(self) -> list[str]:
        """Return the models of all jobs, sorted.

        Each costs one step through the index, however many jobs it has.
        """

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

    def models_with_provider(self) -> list[tuple[str, str]]:
        """Return the same, each with the provider of its newest job."""
        models = self.models()

        def work(connection: Connection) -> list[tuple[str, str]]:
            newest = (
                select(jobs.c.provider)
                .where(jobs.c.model == bindparam("model"))
                .order_by(jobs.c.ref.desc())
                .limit(1)
            )
            return [
                (model, provider)
                for model in models
                if (provider := connection.execute(newest, {"model": model}).scalar()) is not None
            ]

        return self._read(work)


def _bounds(wanted: Wanted, after: str) -> tuple[str, str]:
    """Return the refs between which the wanted jobs are."""
    low = "0" * 26 if wanted.since is None else first_ref(wanted.since)
    high = "7" + "Z" * 25 if wanted.until is None else first_ref(wanted.until)
    return low, min(high, after) if after else high


def _jobs_at(connection: Connection, refs: list[str]) -> list[Job]:
    """Return these jobs, newest first."""
    query = select(*job_columns).where(jobs.c.ref.in_(refs)).order_by(jobs.c.ref.desc())
    return [job_of(row) for row in connection.execute(query)] if refs else []


def _newer_with(connection: Connection, wanted: Wanted, pieces: list[str], than: str) -> Job | None:
    """Return the next newer job with this text, if it is among the next ones with its pieces."""
    others = (*_indexed(wanted, ""), jobs.c.ref > than, *_unindexed(replace(wanted, text="")))
    found = find(connection, pieces, than, _bounds(wanted, "")[1], _PORTION, up=True)
    nearest = containing(connection, found.refs, others, wanted.text)[-1:]
    return next(iter(_jobs_at(connection, nearest)), None)


def _indexed(wanted: Wanted, after: str) -> list[ColumnElement[bool]]:
    """Return the conditions of one index: the time, and a state, model, batch or folder."""
    found: list[ColumnElement[bool]] = []
    if (column := _leading(wanted)) is not None:
        found.append(column == getattr(wanted, column.name))
    if column is jobs.c.folder:
        found.append(HAS_FOLDER)
    if wanted.since is not None:
        found.append(jobs.c.ref >= first_ref(wanted.since))
    if wanted.until is not None:
        found.append(jobs.c.ref < first_ref(wanted.until))
    if after:
        found.append(jobs.c.ref < after)
    return found


def _refs(wanted: Wanted, low: str = "", high: str = "") -> Select[tuple[str]]:
    """Select refs through one index, upwards from ``low`` or downwards from ``high``.

    The wanted jobs are among them.
    """
    if wanted.metadata:
        ref, (first, last) = job_metadata.c.ref, _bounds(wanted, high)
        query = refs_with_metadata(*wanted.metadata).where(ref >= first, ref < last)
    else:
        ref, query = jobs.c.ref, select(jobs.c.ref).where(*_indexed(wanted, high))
    return query.where(ref > low).order_by(ref) if low else query.order_by(ref.desc())


def _near(wanted: Wanted, low: str, high: str) -> list[ColumnElement[bool]]:
    """Return the conditions that limit a search to a part of the index that it uses."""
    limits = [jobs.c.ref >= low, *([jobs.c.ref <= high] if high else [])]
    if wanted.metadata:
        ref = job_metadata.c.ref
        named = refs_with_metadata(*wanted.metadata).where(ref >= low)
        limits.append(jobs.c.ref.in_(named.where(ref <= high) if high else named))
    return limits


def _leading(wanted: Wanted) -> Column[Any] | None:
    """Return the column whose index is used; None if the jobs are read by time only.

    Most jobs of a model are archived; of the other states there are few jobs, so their index is
    better.
    """
    if wanted.batch:
        return jobs.c.batch
    if wanted.folder:
        return jobs.c.folder
    if wanted.model and wanted.state in (None, JobState.ARCHIVED):
        return jobs.c.model
    return jobs.c.state if wanted.state else None


def _unindexed(wanted: Wanted, texts: Sequence[str] = _TEXTS) -> list[ColumnElement[bool]]:
    """Return the conditions that are tested row by row; the text is sought in ``texts``."""
    found: list[ColumnElement[bool]] = []
    if wanted.text:
        found.append(_contains(wanted.text, texts))
    leading = _leading(wanted)
    for column in (jobs.c.state, jobs.c.model, jobs.c.reason, jobs.c.folder):
        value = getattr(wanted, column.name)
        if value and column is not leading:
            # coalesce keeps the planner from using the other index.
            found.append(func.coalesce(column, "") == value)
    if wanted.metadata:
        found.append(has_metadata(*wanted.metadata))
    if wanted.pictures:
        # For EXISTS, PostgreSQL may read the assets of all jobs.
        own = (assets.c.ref == jobs.c.ref, assets.c.state == AssetState.ARCHIVED)
        found.append(select(assets.c.idx).where(*own).limit(1).scalar_subquery().is_not(None))
    return found


def _contains(words: str, texts: Sequence[str]) -> ColumnElement[bool]:
    columns = [jobs.c[name] for name in texts]
    return and_(
        *(
            or_(*(column.icontains(word, autoescape=True) for column in columns))
            for word in words.split()
        )
    )


def _counted(connection: Connection, conditions: Sequence[ColumnElement[bool]], most: int) -> Count:
    within = select(jobs.c.ref).where(*conditions).limit(most).subquery()
    number = connection.execute(select(func.count()).select_from(within)).scalar_one()
    return Count(number, is_partial=number >= most)


def page_of(found: Sequence[Job], limit: int) -> Page:
    """Return the page of a query that read one row more than the page shows."""
    page = list(found[:limit])
    return Page(page, page[-1].ref if len(found) > limit else None)
