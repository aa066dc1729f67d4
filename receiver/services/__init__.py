"""The composition root: builds every part of the service from the settings.

A part is built when it is first used; ``close`` closes those that were built.
"""

import secrets
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import unquote

from receiver.archive.archiver import Archiver
from receiver.archive.conclusion import Conclusion
from receiver.archive.job_limits import JobLimits
from receiver.archive.quarantine import Quarantine
from receiver.archive.shares import Shares
from receiver.archive.thumbnails import Thumbnails
from receiver.ingest.inbox import Inbox
from receiver.ingest.proofs import Proofs
from receiver.jobs.operator import Operator
from receiver.jobs.reconcile import Reconciler
from receiver.jobs.submit import SubmitService
from receiver.ledger import liveness
from receiver.ledger.claims import LEASE
from receiver.ledger.notifications import QueueName, events_queue
from receiver.ledger.postgres import PostgresDatabase, conninfo
from receiver.ledger.sqlite import SqliteDatabase
from receiver.maintenance.doubts import Doubts
from receiver.maintenance.rotation import Rotation
from receiver.model import Provider
from receiver.net.download import Fetcher
from receiver.providers.client import Clients, ProviderClient
from receiver.providers.dialect import Account
from receiver.providers.grsai.client import GrsaiClient
from receiver.providers.keyring import Keyring
from receiver.providers.openai.client import OpenAIClient
from receiver.providers.registry import DIALECTS
from receiver.services.named_address import ask_named_address
from receiver.services.sending import Sending
from receiver.telemetry.disk_space import DiskSpace, measure
from receiver.worker.embedded import CLAIM_INTERVAL, EmbeddedEngine, EngineNotifier
from receiver.worker.engine import Engine, WorkQueue, instrumented
from receiver.worker.heartbeat import heartbeat
from receiver.worker.notifier import Notifier
from receiver.worker.process import WorkerProcess, is_working

# Threads that poll and expire jobs; the same number concludes jobs. They mostly wait for a provider
# or the archive.
JOB_THREADS = 8
HINT_THREADS = 1
# Work that may have crashed a worker runs one at a time, so that a crash has only one suspect.
SUSPECT_THREADS = 1


class Services(Sending):
    """Every part of the service, built once for a process."""

    @cached_property
    def fetcher(self) -> Fetcher:
        """Downloads pictures."""
        return Fetcher(
            self.settings.address_policy(),
            max_bytes=self.settings.fetch_max_bytes,
            timeout=self.settings.fetch_timeout,
            user_agent=self.settings.fetch_user_agent,
        )

    @cached_property
    def shares(self) -> Shares:
        """Shares the download threads of this process among jobs and hosts."""
        return Shares(self.fair_claims, self.settings.worker_threads)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """Thumbnails for the dashboard."""
        return Thumbnails(self.store, self.settings.data_dir / "thumbnails")

    @cached_property
    def quarantine(self) -> Quarantine:
        """Keeps rejected files, and makes one a result file."""
        return Quarantine(
            self.store,
            self.quarantine_records,
            self.settings.data_dir / "accepting",
            max_bytes=self.settings.quarantine_max_bytes,
            job_max_bytes=min(self.settings.quarantine_job_max_bytes, self.settings.job_max_bytes),
            now=self.now,
        )

    @property
    def rotation(self) -> Rotation | None:
        """Rotates the callback secrets; None if the operator sets them."""
        if self.settings.callback_secrets:
            return None
        remember = self.shared_settings.remember_secrets
        return Rotation(self.kept_secrets, self.signers, self.now, remember)

    @cached_property
    def engine(self) -> Engine:
        """Notifies and runs workers."""
        if self.settings.embedded:
            return EmbeddedEngine(self.claims, self.notifier, self.now)
        return EmbeddedEngine(
            self.claims, self.notifier, self.now, poll_interval=CLAIM_INTERVAL, claim_first=True
        )

    @cached_property
    def notifier(self) -> EngineNotifier:
        """Notifies the engine of new work."""
        if self.settings.embedded:
            return Notifier(self.settings.data_dir / "worker.fifo")
        from receiver.worker.postgres_notifier import PostgresNotifier  # noqa: PLC0415 - psycopg is installed only where PostgreSQL is used

        watch = liveness.Liveness(self.worker_number, LEASE, self.now, self.claims.take_over)
        return PostgresNotifier(conninfo(self.settings.database_url), watch)

    @cached_property
    def worker_number(self) -> int:
        """The number of this process in its claims, if it is a worker on PostgreSQL."""
        return secrets.randbelow(liveness.NUMBERS)

    @cached_property
    def inbox(self) -> Inbox:
        """The single entry point for reports about jobs."""
        return Inbox(
            self.database,
            self.timing,
            self.now,
            self.engine.notify,
            base_url=self.settings.grsai_base_url,
            base_urls=self.settings.base_urls(),
            confirm_always=self.settings.confirm == "always",
            redact=self.redactor,
        )

    @cached_property
    def proofs(self) -> Proofs:
        """Verifies the callbacks of providers that sign."""
        chosen, keys = self.settings, self.settings.verifying_keys()
        keyring = Keyring(self.clients, keys, chosen.data_dir / "keys", self.now)
        ids, accounts = chosen.user_ids(), chosen.accounts()
        return Proofs(self.tickets, keyring, self.database, ids, accounts, self.now)

    @cached_property
    def operator(self) -> Operator:
        """What an operator can do."""
        return Operator(
            self.database, self.inbox, self.assets, self.quarantine, self.timing, self.now
        )

    @cached_property
    def clients(self) -> Clients:
        """The clients of the providers for which there is a key."""
        accounts = self.settings.accounts()
        return Clients({name: self._client(name, account) for name, account in accounts.items()})

    def _client(self, provider: Provider, account: Account) -> ProviderClient:
        if provider is Provider.GRSAI:
            return GrsaiClient(account)
        elsewhere = partial(ask_named_address, self.event_client)
        return ProviderClient(DIALECTS[provider], account, elsewhere=elsewhere)

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
    def conclusion(self) -> Conclusion:
        """Prepares the end of jobs with results."""
        return Conclusion(self.queries, self.store, self.now)

    @cached_property
    def reconciler(self) -> Reconciler:
        """Reconciles jobs and hints that are due."""
        return Reconciler(
            self.jobs,
            self.hints,
            self.queries,
            self.inbox,
            self.conclusion,
            self.clients,
            base_url=self.settings.grsai_base_url,
            timing=self.timing,
            now=self.now,
        )

    @cached_property
    def submit_service(self) -> SubmitService:
        """Posts jobs to the providers."""
        return SubmitService(
            self.jobs,
            self.inbox,
            self.clients,
            self.tickets,
            openai=self.openai,
            public_url=self.settings.public_url,
            webhook_mistake=self.webhook_mistake,
        )

    def archiver(self, scratch: Path) -> Archiver:
        """Return the archiver of assets; it downloads into the folder ``scratch``."""
        return Archiver(
            self.assets,
            self.fetcher,
            self.store,
            self.conclusion,
            self.quarantine,
            scratch,
            limits=JobLimits(
                self.quarantine_records.stored_of,
                max_files=self.settings.job_max_files,
                max_bytes=self.settings.job_max_bytes,
            ),
            now=self.now,
            headers_for=lambda asset: self.clients.download_headers(
                asset.url, lambda: self.jobs.get(asset.ref).provider
            ),
        )

    def worker(self) -> WorkerProcess:
        """Return the worker of this process."""
        if isinstance(self.database, PostgresDatabase):
            self.database.hold_lock(self.worker_number)
        elif isinstance(self.database, SqliteDatabase):
            self.database.notified = self.notifier.notify
        return WorkerProcess(
            self.settings.data_dir,
            self.engine,
            self.work_queues,
            number=None if self.settings.embedded else self.worker_number,
            take_over=self._take_over,
            audit=self.sum_up_and_audit,
            check_archive=self.store.check,
            doubts=Doubts(self.assets, self.thumbnails),
            rotation=self.rotation,
            heartbeat=heartbeat(self.workers, self._report, alone=self.settings.embedded),
        )

    def _report(self) -> dict[str, object]:
        """Return what this worker's heartbeats say about it."""
        return {
            "listening": self.notifier.is_listening,
            "downloads": self.shares.figures(),
            "disks": [disk.figures() for disk in self.disk_space()],
        }

    def disk_space(self) -> list[DiskSpace]:
        """Return the free space of the disks that this process writes to."""
        chosen, places = self.settings, {"data": self.settings.data_dir}
        if chosen.embedded:
            places["ledger"] = chosen.ledger_path.parent
        if chosen.archive_url.startswith("file://"):
            places["archive"] = Path(unquote(chosen.archive_url.removeprefix("file://")))
        return measure(places)

    def has_worker(self) -> bool:
        """Return whether a worker serves this ledger.

        Workers are known by their heartbeats. A worker of this DATA_DIR that has sent none yet, or
        whose release sends none, is known by its lock. A worker that hangs holds its lock too.
        """
        if seen := self.workers.seen():
            return any(worker.is_alive for worker in seen)
        return self.settings.embedded and is_working(self.settings.data_dir)

    def _take_over(self, worker: int | None) -> int:
        """End the claims of a dead worker, or of all; return how many there were."""
        # The DATA_DIR may be a copy of another machine's, whose worker lives.
        if worker is not None and self.database.read(partial(liveness.is_alive, number=worker)):
            return 0
        return self.claims.take_over(worker)

    def work_queues(self, scratch: Path) -> list[WorkQueue]:
        """Return every work queue of a worker."""
        hints_due = partial(self.queries.next_due, "hints")
        verify = self.reconciler.verify_hint
        queues = [
            *self._asset_queues(self.archiver(scratch)),
            *self._job_queues(),
            WorkQueue(QueueName.HINTS, HINT_THREADS, hints_due, self.hints.claim, verify),
            *self._event_queues(),
        ]
        return [instrumented(queue) for queue in queues]

    def _asset_queues(self, archiver: Archiver) -> list[WorkQueue]:
        due = partial(self.queries.next_due, "assets")
        suspects_due = partial(due, suspects=True)
        suspects, archive = partial(self.assets.claim, suspects=True), archiver.archive
        threads, shares = self.settings.worker_threads, self.shares
        run = partial(shares.run, archive=archive)
        return [
            WorkQueue(QueueName.ASSETS, threads, due, shares.claim, run, shares.relieve),
            WorkQueue(QueueName.SUSPECT_ASSETS, SUSPECT_THREADS, suspects_due, suspects, archive),
        ]

    def _job_queues(self) -> list[WorkQueue]:
        due, claim = partial(self.queries.next_due, "jobs"), self.jobs.claim
        complete, others = partial(claim, complete=True), partial(claim, complete=False)
        suspects_due, suspects = partial(due, suspects=True), self.jobs.claim_suspects
        run = self.reconciler.reconcile_job
        return [
            WorkQueue(QueueName.COMPLETE_JOBS, JOB_THREADS, due, complete, run),
            WorkQueue(QueueName.JOBS, JOB_THREADS, due, others, run),
            WorkQueue(QueueName.SUSPECT_JOBS, SUSPECT_THREADS, suspects_due, suspects, run),
        ]

    def _event_queues(self) -> list[WorkQueue]:
        """Return one queue per destination, so that a slow one does not delay the others."""
        return [
            WorkQueue(
                events_queue(to.destination.name),
                to.threads,
                to.next_due,
                to.claim,
                to.send,
            )
            for to in self.dispatchers()
        ]
