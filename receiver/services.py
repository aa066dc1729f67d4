"""The composition root: builds every part of the service from the settings.

A part is built when it is first used; ``close`` closes those that were built.
"""

import time
from functools import cached_property, partial
from pathlib import Path

from receiver import clock, data_dir
from receiver.archive.archiver import Archiver
from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import open_store
from receiver.archive.thumbnails import Thumbnails
from receiver.errors import ConfigurationError
from receiver.events.dispatcher import Dispatcher
from receiver.events.event import EventSerializer
from receiver.events.transports import transport_for
from receiver.ingest.inbox import Inbox
from receiver.ingest.tickets import Tickets
from receiver.jobs.reconcile import Reconciler
from receiver.jobs.submit import SubmitService
from receiver.ledger import schema
from receiver.ledger.backlog import BacklogQueries
from receiver.ledger.browse import BrowseQueries
from receiver.ledger.database import Database, open_database
from receiver.ledger.ledger import Ledger, Timing
from receiver.ledger.notifications import QueueName, events_queue
from receiver.ledger.outbox import Outbox
from receiver.ledger.queries import Queries
from receiver.net.connection import SafeConnector
from receiver.net.download import Fetcher
from receiver.providers.grsai.client import GrsaiClient
from receiver.providers.openai.client import OpenAIClient
from receiver.settings import Settings
from receiver.telemetry.redaction import Redactor
from receiver.worker.distributed import DistributedEngine
from receiver.worker.embedded import EmbeddedEngine
from receiver.worker.engine import Engine, WorkQueue, instrumented
from receiver.worker.notifier import Notifier
from receiver.worker.process import WorkerProcess

# Threads that poll and expire jobs, and as many that conclude them; they mostly wait for a
# provider or the archive.
JOB_THREADS = 8
HINT_THREADS = 1
# Work that may have crashed a worker runs one at a time, so that a crash has only one suspect.
SUSPECT_THREADS = 1
# Events that are sent to one destination in parallel.
EVENT_THREADS = 4


class Services:
    """Every part of the service, built once for a process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def open(self, *, to_look: bool = False) -> "Services":
        """Prepare what every process needs: DATA_DIR and, with SQLite, a ledger of this schema.

        ``to_look`` is for read-only commands: DATA_DIR need not be writable. Raise
        ConfigurationError or LedgerError with the remedy.
        """
        data_dir.make_data_dir(self.settings.data_dir)
        if not to_look:
            data_dir.require_writable(self.settings.data_dir)
        assert self.store  # noqa: S101 - reports a malformed ARCHIVE_URL before any work begins
        if self.settings.embedded:
            self._migrate_if_old()
        else:
            schema.require_current(self.database)
        if self.settings.destinations:
            # By the first process that opens the ledger: it then gets all new events.
            self.outbox.begin([destination.name for destination in self.settings.destinations])
        return self

    def _migrate_if_old(self) -> None:
        path = self.settings.ledger_path
        if not path.exists() or schema.is_old(schema.version(self.database)):
            schema.migrate(self.settings.database_url)

    def close(self) -> None:
        """Close what was opened."""
        for part in ("database", "store"):
            if part in self.__dict__:
                self.__dict__[part].close()

    @cached_property
    def database(self) -> Database:
        """The connections."""
        return open_database(self.settings.database_url)

    @cached_property
    def ledger(self) -> Ledger:
        """Every write."""
        chosen = self.settings
        timing = Timing(
            chosen.url_lifetime, chosen.poll_after, chosen.poll_interval, chosen.job_timeout
        )
        return Ledger(self.database, timing, clock.now)

    @cached_property
    def queries(self) -> Queries:
        """Every read."""
        return Queries(self.database)

    @cached_property
    def backlogs(self) -> BacklogQueries:
        """Queries about the backlog."""
        return BacklogQueries(self.database, self.settings.url_lifetime, clock.now)

    @cached_property
    def outbox(self) -> Outbox:
        """Events that wait for delivery."""
        return Outbox(self.database, clock.now)

    @cached_property
    def serializer(self) -> EventSerializer:
        """How events are written in deliveries."""
        return EventSerializer(self.settings.archive_url, self.settings.public_url)

    def dispatchers(self) -> list[Dispatcher]:
        """Return the sender of each destination."""
        connector = SafeConnector(self.settings.event_policy())
        secrets = [secret.get_secret_value() for secret in self.settings.event_secret]
        transports = [
            (destination, transport_for(destination, connector, secrets, time.time))
            for destination in self.settings.destinations
        ]
        return [
            Dispatcher(self.outbox, destination, transport, self.serializer)
            for destination, transport in transports
        ]

    @cached_property
    def browse(self) -> BrowseQueries:
        """Queries of the pages and lists."""
        return BrowseQueries(self.database)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """Thumbnails for the dashboard."""
        return Thumbnails(self.store, self.settings.data_dir / "thumbnails")

    @cached_property
    def tickets(self) -> Tickets:
        """Signs and reads callback URLs."""
        given = [secret.get_secret_value() for secret in self.settings.callback_secrets]
        return Tickets(given or [data_dir.keep(self.settings.data_dir / "secrets" / "callback")])

    @cached_property
    def admin_token(self) -> str:
        """The token of API and dashboard."""
        given = self.settings.admin_token
        return (
            given.get_secret_value()
            if given
            else data_dir.keep(self.settings.data_dir / "secrets" / "admin")
        )

    @cached_property
    def store(self) -> Store:
        """The archive's objects."""
        chosen = self.settings
        try:
            return open_store(
                chosen.archive_url,
                addressing_style=chosen.s3_addressing_style,
                checksums=chosen.s3_checksums,
            )
        except ValueError as error:
            raise ConfigurationError([f"ARCHIVE_URL: {error}"]) from error

    @cached_property
    def engine(self) -> Engine:
        """Notifies and runs workers."""
        if self.settings.embedded:
            return EmbeddedEngine(self.ledger, Notifier(self.settings.data_dir / "worker.fifo"))
        return DistributedEngine(self.ledger, self.settings.database_url)

    @cached_property
    def inbox(self) -> Inbox:
        """The single entry point for reports about jobs."""
        confirm = self.settings.confirm == "always"
        base_url, mask = self.settings.grsai_base_url, Redactor(self.settings.secrets())
        return Inbox(
            self.ledger, self.engine.notify, base_url=base_url, confirm_always=confirm, mask=mask
        )

    @cached_property
    def grsai(self) -> GrsaiClient | None:
        """The client of GRSAI, or None without a key."""
        key = self.settings.grsai_api_key
        return GrsaiClient(key.get_secret_value()) if key else None

    @cached_property
    def openai(self) -> OpenAIClient | None:
        """The client of OpenAI, or None without a key; a call takes no longer than JOB_TIMEOUT."""
        chosen, key = self.settings, self.settings.openai_api_key
        address, wait, most = chosen.openai_base_url, chosen.job_timeout, chosen.fetch_max_bytes
        return (
            OpenAIClient(key.get_secret_value(), address, timeout=wait, max_picture_size=most)
            if key
            else None
        )

    @cached_property
    def reconciler(self) -> Reconciler:
        """Reconciles jobs and hints that are due."""
        return Reconciler(
            self.ledger,
            self.queries,
            self.inbox,
            self.store,
            self.grsai,
            self.settings.grsai_base_url,
        )

    @cached_property
    def submit_service(self) -> SubmitService:
        """Posts jobs to the providers."""
        here, there = self.settings.public_url, self.settings.grsai_base_url
        return SubmitService(
            self.ledger,
            self.inbox,
            self.grsai,
            self.tickets,
            openai=self.openai,
            base_url=there,
            public_url=here,
        )

    def archiver(self, scratch: Path) -> Archiver:
        """Return the archiver of assets; it downloads into the folder ``scratch``."""
        fetcher = Fetcher(
            self.settings.address_policy(),
            max_bytes=self.settings.fetch_max_bytes,
            timeout=self.settings.fetch_timeout,
        )
        return Archiver(self.ledger, fetcher, self.store, scratch)

    def worker(self) -> WorkerProcess:
        """Return the worker of this process."""
        return WorkerProcess(
            self.settings.data_dir,
            self.engine,
            self.work_queues,
            take_over=self.ledger.take_over if self.settings.embedded else None,
            audit=self.queries.audit,
            check_archive=self.store.check,
        )

    def work_queues(self, scratch: Path) -> list[WorkQueue]:
        """Return every work queue of a worker."""
        ledger, due, archive = self.ledger, self.queries.next_due, self.archiver(scratch).archive
        work_queues = [
            WorkQueue(
                QueueName.ASSETS,
                self.settings.worker_threads,
                partial(due, "assets"),
                ledger.claim_assets,
                archive,
            ),
            WorkQueue(
                QueueName.SUSPECT_ASSETS,
                SUSPECT_THREADS,
                partial(due, "assets"),
                partial(ledger.claim_assets, suspects=True),
                archive,
            ),
            WorkQueue(
                QueueName.COMPLETE_JOBS,
                JOB_THREADS,
                partial(due, "jobs"),
                partial(ledger.claim_jobs, complete=True),
                self.reconciler.look,
            ),
            WorkQueue(
                QueueName.JOBS,
                JOB_THREADS,
                partial(due, "jobs"),
                partial(ledger.claim_jobs, complete=False),
                self.reconciler.look,
            ),
            WorkQueue(
                QueueName.SUSPECT_JOBS,
                SUSPECT_THREADS,
                partial(due, "jobs"),
                ledger.claim_suspect_jobs,
                self.reconciler.look,
            ),
            WorkQueue(
                QueueName.HINTS,
                HINT_THREADS,
                partial(due, "hints"),
                ledger.claim_hints,
                self.reconciler.verify_hint,
            ),
            # One queue per destination, so that a slow one does not delay the others.
            *(
                WorkQueue(
                    events_queue(to.destination.name),
                    EVENT_THREADS,
                    to.next_due,
                    to.claim,
                    to.send,
                    chained=True,
                )
                for to in self.dispatchers()
            ),
        ]
        return [instrumented(queue) for queue in work_queues]
