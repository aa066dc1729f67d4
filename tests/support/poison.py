"""Rows that crash workers, for tests: each worker that claims one is killed."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ledgers import LedgerHarness

from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ProviderUnavailableError
from receiver.ledger.rows import Asset, Job
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.dialect import Task


class UnavailableProvider:
    """A provider that cannot be reached."""

    def result(self, task: Task) -> bytes:
        """Raise ProviderUnavailableError."""
        raise ProviderUnavailableError(f"no answer about {task.provider_id}")

    def can_ask(self, provider: str) -> bool:  # noqa: ARG002 - there is one provider here
        """Return True: it could be asked, if it answered."""
        return True


class CrashHarness:
    """A ledger with archiver and reconciler; no source answers, so that every download fails."""

    def __init__(self, ledger: LedgerHarness, folder: Path) -> None:
        self.ledger = ledger
        self.folder = folder
        self.store = DirectoryStore(folder / "archive")
        fetcher = Fetcher(AddressPolicy(), max_bytes=1, timeout=1, resolve=lambda _host, _port: [])
        self.archiver = ledger.archiver(fetcher, self.store, folder)
        self.reconciler = ledger.reconciler(
            self.store, UnavailableProvider(), "https://provider.test"
        )

    def reconcile_suspects(self, limit: int = 1) -> None:
        """Reconcile the suspect jobs that are due."""
        for claimed in self.ledger.jobs.claim_suspects(limit):
            self.reconciler.reconcile_job(claimed)

    def has_objects(self) -> bool:
        """Return whether anything was written to the archive."""
        return any(path.is_file() for path in self.folder.rglob("archive/**/*"))


def queue_of(ledger: LedgerHarness, row: Asset | Job) -> str:
    """Claim this row when it is due; return the queue that gets it."""
    asset = isinstance(row, Asset)
    others = ledger.assets.claim(1) if asset else ledger.jobs.claim(1, complete=False)
    if others:
        return "others"
    due = ledger.queries.next_due("assets" if asset else "jobs", suspects=True)
    assert due is not None
    assert due <= ledger.clock.now, "the engine looks for suspects that are due"
    return (
        "suspects"
        if (ledger.assets.claim(1, suspects=True) if asset else ledger.jobs.claim_suspects(1))
        else "none"
    )


def killed_workers(
    ledger: LedgerHarness, read_row: Callable[[], Asset | Job]
) -> Iterator[tuple[int, str, float]]:
    """Claim the row, kill the worker and let the pause pass, again and again.

    Yield after each kill the crashes, the queue that got the row, and the pause in seconds.
    """
    while True:
        queue = queue_of(ledger, read_row())
        ledger.claims.take_over()
        pause = (read_row().due_at or 0.0) - ledger.clock.now
        ledger.clock.advance(pause)
        yield read_row().crashes, queue, pause
