"""Archiver and reconciler that run alone, on a clock that jumps from one due time to the next."""

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from archiving import SIZE
from ledgers import LedgerHarness, succeeded
from outside_network import (
    DEFAULT_TLS,
    WEB,
    OutsideNetwork,
    Script,
)

from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ProviderUnavailableError
from receiver.ledger.rows import Asset, Job
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.dialect import Task

LIFETIME = 600.0  # seconds; with the usual two hours the tests would only be longer
URL = "http://pictures.example/x.png"


class ConstantProvider:
    """Gives ``answer`` for every task, or raises ProviderUnavailableError while it is None."""

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.requests = 0

    def can_ask(self, provider: str) -> bool:  # noqa: ARG002 - there is one provider here
        return True

    def result(self, task: Task) -> bytes:
        self.requests += 1
        if self.answer is None:
            raise ProviderUnavailableError(f"{task.base_url} cannot be asked")
        return self.answer


@dataclass(frozen=True, slots=True)
class AssetAttempt:
    """One attempt at an asset: when it was made, and the asset after it."""

    at: float
    asset: Asset


class UnattendedWorker:
    """A worker that runs alone from the announcement of a result to the end of its job."""

    def __init__(self, ledger: LedgerHarness, network: OutsideNetwork, folder: Path) -> None:
        ledger.use_timing(replace(ledger.timing, url_lifetime=LIFETIME))
        self.ledger = ledger
        self.network = network
        self.provider = ConstantProvider()
        self.store = DirectoryStore(folder / "archive")
        self.attempts: list[AssetAttempt] = []
        self._fetchers = ExitStack()
        self._scratch = folder / "scratch"
        self._scratch.mkdir()
        self._archiver = ledger.archiver(self._fetcher(20, 20), self.store, self._scratch)
        self._reconciler = ledger.reconciler(
            self.store,
            self.provider,
            "https://provider.test",
        )

    def _fetcher(self, timeout: float, stall: float) -> Fetcher:
        fetcher = Fetcher(
            AddressPolicy(),
            max_bytes=2 * SIZE,
            timeout=timeout,
            stall=stall,
            resolve=self.network.resolve,
            connect=self.network.connect,
            ssl_context=DEFAULT_TLS,
        )
        return self._fetchers.enter_context(closing(fetcher))

    def close(self) -> None:
        """Close the connections that were kept for another download."""
        self._fetchers.close()

    def attempt_with_limits(self, timeout: float, stall: float) -> None:
        """Make the attempt that is due now with these limits in seconds for the download."""
        usual_archiver = self._archiver
        self._archiver = self.ledger.archiver(
            self._fetcher(timeout, stall), self.store, self._scratch
        )
        self._attempt()
        self._archiver = usual_archiver

    def limit_jobs(self, *, max_files: int = 1000, max_bytes: int = 1 << 40) -> None:
        """Use other limits for jobs from now on."""
        self._archiver = self.ledger.archiver(
            self._fetcher(20, 20),
            self.store,
            self._scratch,
            max_files=max_files,
            max_bytes=max_bytes,
        )

    def serve(self, *scripts: Script) -> None:
        """Let the source play one script for each connection, and repeat the last one."""
        self.network.serve(*scripts, at=WEB)

    def announce(self, *urls: str, task: str = "task-1") -> str:
        """Report a success with these results; return the job's ref."""
        ref = self.ledger.waiting(task)
        self.ledger.deliver(ref, succeeded(*urls or (URL,), provider_id=task))
        return ref

    def run_until_finished(self, ref: str) -> Job:
        """Let time pass until the job is final."""
        while (job := self.ledger.job(ref)).finished_at is None:
            self.ledger.clock.now = max(self.ledger.clock.now, self._next_due())
            self._attempt()
            for claimed in self.ledger.jobs.claim(16):
                self._reconciler.reconcile_job(claimed)
        assert self.ledger.totals.audit().ok
        return job

    def _attempt(self) -> None:
        for claimed in self.ledger.assets.claim(16):
            self._archiver.archive(claimed)
            asset = self.ledger.assets_of(claimed.row.ref)[claimed.row.idx]
            self.attempts.append(AssetAttempt(self.ledger.clock.now, asset))

    def _next_due(self) -> float:
        dues = [
            due
            for table in ("assets", "jobs")
            if (due := self.ledger.queries.next_due(table)) is not None
        ]
        return min(dues)

    def stored(self, key: str | None) -> bytes:
        """Return the archived object with this key."""
        with self.store.open(key or "nothing") as stream:
            return stream.read()

    def event_time(self, ref: str, kind: str) -> float:
        """Return when an event was written."""
        (moment,) = [
            event["created_at"]
            for event in self.ledger.events.after(limit=1000)
            if (event["ref"], event["type"]) == (ref, kind)
        ]
        return float(moment)
