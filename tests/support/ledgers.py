"""A ledger under test, with a clock that tests set and reports in the provider's format."""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, text

from receiver.archive.archiver import Archiver
from receiver.archive.conclusion import Conclusion
from receiver.archive.job_limits import JobLimits
from receiver.archive.quarantine import Quarantine
from receiver.archive.stores import Store
from receiver.archive.stores.directory import DirectoryStore
from receiver.ingest.inbox import Inbox
from receiver.jobs.operator import Operator
from receiver.jobs.reconcile import Reconciler, ResultSource
from receiver.ledger import schema
from receiver.ledger.assets import Assets
from receiver.ledger.claims import Claimed, Claims
from receiver.ledger.database import Database, open_database
from receiver.ledger.hints import Hints
from receiver.ledger.jobs import Jobs
from receiver.ledger.outbox import Outbox
from receiver.ledger.quarantine import QuarantineRecords
from receiver.ledger.queries.events import EventQueries
from receiver.ledger.queries.job_list import JobListQueries
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.queries.pictures import PictureQueries
from receiver.ledger.queries.set_aside import SetAsideQueries
from receiver.ledger.queries.signers import Signers
from receiver.ledger.queries.totals import Totals
from receiver.ledger.rows import Asset, Job, StoredAsset
from receiver.ledger.tables import metadata
from receiver.maintenance.prune import Pruner
from receiver.model import (
    AssetState,
    Decision,
    Delivery,
    JobState,
    Mode,
    Provider,
    Source,
    Submission,
    Timing,
)
from receiver.net.download import Fetcher
from receiver.providers.client import Clients

NOW = 1_800_000_000.0
BASE_URL = "https://provider.test"
TIMING = Timing(url_lifetime=7200, poll_after=120, poll_interval=30, job_timeout=3600)

# For what touches no object: nothing is in this archive, and it cannot be created.
NOWHERE = DirectoryStore(Path("/nowhere/archive"))


class Clock:
    """A clock that tests set by hand, or that follows a real one."""

    def __init__(self) -> None:
        self.now = NOW
        self._real: Callable[[], float] | None = None

    def __call__(self) -> float:
        return self._real() if self._real else self.now

    def advance(self, seconds: float) -> float:
        """Let time pass; return the new time."""
        self.now += seconds
        return self.now

    def follow(self, real: Callable[[], float]) -> None:
        """Show what the clock ``real`` shows from now on."""
        self._real = real


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        schema.migrate(f"sqlite:///{path}")
        return path.read_bytes()


def migrated_file(path: Path) -> str:
    """Make a migrated SQLite ledger, unless there is one; return its URL.

    It is a copy of one that was migrated before, which takes 2 ms instead of 60.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(_migrated())
    return f"sqlite:///{path}"


def running(provider_id: str | None = "task-1", progress: int = 10) -> bytes:
    """Return a report of a task under way."""
    return json.dumps({"id": provider_id, "status": "running", "progress": progress}).encode()


def succeeded(*urls: str, provider_id: str | None = "task-1") -> bytes:
    """Return a success with these results, by default one. ``succeeded("")`` has no result."""
    results = [{"url": url} for url in urls or ("https://files.test/0.png",)]
    return json.dumps(
        {"id": provider_id, "status": "succeeded", "progress": 100, "results": results}
    ).encode()


def failed(
    reason: str = "error", message: str = "it broke", provider_id: str | None = "task-1"
) -> bytes:
    """Return a report of a failure."""
    return json.dumps(
        {"id": provider_id, "status": "failed", "failure_reason": reason, "error": message}
    ).encode()


def urls(count: int, version: str = "first") -> list[str]:
    """Return the URLs of ``count`` results."""
    return [f"https://files.test/{version}/{idx}.png" for idx in range(count)]


def stored(claimed: Claimed[Asset]) -> StoredAsset:
    """Return what a worker records about an archived asset."""
    return StoredAsset(
        f"{claimed.row.ref}/{claimed.row.idx}.png", "0" * 64, 1000, "image/png", 1024, 768
    )


class LedgerHarness:
    """A ledger with every part that works on it, and the usual histories of a job."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self.database = database
        self.clock = clock or Clock()
        self.notified = 0
        self.queries = JobQueries(database)
        self.job_list = JobListQueries(database)
        self.pictures = PictureQueries(database)
        self.set_aside = SetAsideQueries(database)
        self.events = EventQueries(database)
        self.totals = Totals(database)
        self.signers = Signers(database)
        self.assets = Assets(database, self.clock)
        self.outbox = Outbox(database, self.clock)
        self.claims = Claims(database, self.clock)
        self.use_timing(TIMING)

    def use_timing(self, timing: Timing) -> None:
        """Build the parts that depend on the timing."""
        self.timing = timing
        self.jobs = Jobs(self.database, timing, self.clock)
        self.hints = Hints(self.database, timing, self.clock)
        self.inbox = self.make_inbox()
        self.operator = self.make_operator(self.quarantine(NOWHERE, Path("/nowhere")))

    def make_operator(self, quarantine: Quarantine) -> Operator:
        """Return what an operator can do."""
        return Operator(self.database, self.inbox, self.assets, quarantine, self.timing, self.clock)

    def pruner(self, store: Store = NOWHERE) -> Pruner:
        """Return a pruner; jobs with rejected files need the store."""
        return Pruner(self.database, store)

    def quarantine(
        self, store: Store, folder: Path, *, limits: tuple[int, int] = (2**32, 2**28)
    ) -> Quarantine:
        """Return a quarantine in this store, with limits in bytes: in total, and per job."""
        return Quarantine(
            store,
            QuarantineRecords(self.database),
            folder,
            max_bytes=limits[0],
            job_max_bytes=limits[1],
            now=self.clock,
        )

    def make_inbox(self, *, confirms: bool = False) -> Inbox:
        """Return an inbox; with CONFIRM=always if it ``confirms``."""
        return Inbox(
            self.database,
            self.timing,
            self.clock,
            self._count_notification,
            base_url=BASE_URL,
            confirm_always=confirms,
        )

    def _count_notification(self) -> None:
        self.notified += 1

    def reconciler(
        self, store: Store, result_source: ResultSource | None, base_url: str = BASE_URL
    ) -> Reconciler:
        """Return a reconciler for this ledger."""
        return Reconciler(
            self.jobs,
            self.hints,
            self.queries,
            self.inbox,
            Conclusion(self.queries, store, self.clock),
            result_source or Clients({}),
            base_url=base_url,
            timing=self.timing,
            now=self.clock,
        )

    def archiver(
        self,
        fetcher: Fetcher,
        store: Store,
        scratch: Path,
        quarantine: Quarantine | None = None,
        *,
        max_files: int = 1000,
        max_bytes: int = 1 << 40,
    ) -> Archiver:
        """Return an archiver for this ledger, with the default limits of a quarantine."""
        return Archiver(
            self.assets,
            fetcher,
            store,
            Conclusion(self.queries, store, self.clock),
            quarantine or self.quarantine(store, scratch),
            scratch,
            limits=JobLimits(
                QuarantineRecords(self.database).stored_of,
                max_files=max_files,
                max_bytes=max_bytes,
            ),
            now=self.clock,
        )

    # Histories of a job.

    def submitting(
        self, prompt: str = "a red fox", mode: Mode = Mode.WEBHOOK, model: str = "gpt-image-1.5"
    ) -> str:
        """Submit a job; return its ref."""
        return self.jobs.submit(
            Submission(prompt, model, {"aspectRatio": "1:1"}, mode), BASE_URL
        ).ref

    def waiting(self, provider_id: str = "task-1") -> str:
        """Submit a job that the provider takes."""
        ref = self.submitting()
        self.jobs.record_accepted(ref, provider_id)
        return ref

    def archiving(self, count: int = 1, provider_id: str = "task-1") -> str:
        """Submit a job that succeeds with ``count`` results."""
        ref = self.waiting(provider_id)
        self.deliver(ref, succeeded(*urls(count), provider_id=provider_id))
        return ref

    def archived(self, count: int = 1, provider_id: str = "task-1") -> str:
        """Submit a job and archive it."""
        ref = self.archiving(count, provider_id)
        for claimed in self.assets.claim(count):
            self.assets.finish(claimed, stored(claimed))
        self.conclude(ref)
        return ref

    def failed(self, provider_id: str = "task-1") -> str:
        """Submit a job that the provider fails."""
        ref = self.waiting(provider_id)
        self.deliver(ref, failed(provider_id=provider_id))
        return ref

    def expired(self, provider_id: str = "task-1") -> str:
        """Submit a job that never gets a report."""
        ref = self.waiting(provider_id)
        self.jobs.expire(ref, "no report")
        return ref

    def deliver(self, ref: str, body: bytes, source: Source = Source.CALLBACK) -> Decision:
        """Accept a report."""
        provider = Provider.OPENAI if source is Source.SYNC else Provider.GRSAI
        return self.inbox.accept(Delivery(ref, source, body, self.clock(), provider))

    def conclude(self, ref: str, state: JobState = JobState.ARCHIVED) -> None:
        """Conclude a job that is due."""
        (claimed,) = [claimed for claimed in self.jobs.claim(100) if claimed.row.ref == ref]
        self.jobs.conclude(claimed, state)

    # Reads.

    def job(self, ref: str) -> Job:
        """Return a job that must be there."""
        job = self.queries.job(ref)
        assert job is not None
        return job

    def assets_of(self, ref: str) -> list[Asset]:
        """Return a job's assets in order."""
        return self.queries.assets([ref])[ref]

    def pending(self, ref: str) -> list[int]:
        """Return the indexes of a job's pending assets."""
        return [asset.idx for asset in self.assets_of(ref) if asset.state is AssetState.PENDING]

    def verdicts(self, ref: str) -> list[str]:
        """Return the decisions about a job's deliveries."""
        return [delivery.verdict for delivery in self.queries.deliveries(ref)]

    def event_types(self, ref: str) -> list[str]:
        """Return the types of the events about a job and its assets, in order."""
        return [event["type"] for event in self.events.after(limit=10_000) if event["ref"] == ref]

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table, to see that nothing changed."""
        tables = metadata.sorted_tables
        return self.database.read(
            lambda connection: {
                table.name: [
                    tuple(row)
                    for row in connection.execute(
                        select(table).order_by(*table.primary_key.columns)
                    )
                ]
                for table in tables
            }
        )

    def execute(self, statement: str, **values: object) -> None:
        """Run a statement on the database directly."""
        self.database.write(lambda connection: run(connection, statement, values))


def run(connection: Connection, statement: str, values: dict[str, object]) -> None:
    """Run a statement given as text."""
    connection.execute(text(statement), values)


@contextmanager
def opened(url: str) -> Iterator[LedgerHarness]:
    """Open the ledger at ``url`` until the block ends."""
    with closing(open_database(url)) as database:
        yield LedgerHarness(database)


def is_sound(path: str) -> bool:
    """Return whether SQLite finds no damage in its file."""
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
