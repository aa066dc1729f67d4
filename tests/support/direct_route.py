"""The direct route for tests: from a submit to OpenAI to the archived pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ledgers import LedgerHarness

from receiver.archive.stores.directory import DirectoryStore
from receiver.ingest.tickets import Tickets
from receiver.jobs.submit import SubmitService
from receiver.ledger.rows import Job
from receiver.model import (
    Api,
    Mode,
    Provider,
    Submission,
)
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.client import Clients
from receiver.providers.openai.client import OpenAIClient

MIB = 1024 * 1024


def forbidden(*_: object) -> NoReturn:
    """Raise AssertionError: nothing may connect."""
    raise AssertionError("a connection for bytes that are here already")


class DirectRoute:
    """Submit service and worker on one ledger; pauses are recorded instead of made."""

    def __init__(self, ledger: LedgerHarness, folder: Path) -> None:
        self.ledger = ledger
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.store = DirectoryStore(folder / "archive")
        self.pauses: list[float] = []
        self.on_pause: Callable[[], object] = list
        self.reconciler = ledger.reconciler(self.store, None, "https://grsai.test")

    def submit_service(
        self, base_url: str, *, timeout: float = 10.0, max_picture_size: int = MIB
    ) -> SubmitService:
        """Return a submit service whose provider is at ``base_url``."""
        client = OpenAIClient(
            "sk-test", base_url, timeout=timeout, max_picture_size=max_picture_size
        )
        tickets = Tickets(["0123456789abcdef"])
        ledger = self.ledger
        return SubmitService(
            ledger.jobs,
            ledger.inbox,
            Clients({}),
            tickets,
            openai=client,
            public_url=None,
            pause=self._pause,
        )

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.on_pause()

    def work(self, fetcher: Fetcher | None = None) -> None:
        """Do once what is due for a worker; without ``fetcher`` no download may happen."""
        nowhere = Fetcher(
            AddressPolicy.parse((), ()),
            max_bytes=MIB,
            timeout=5,
            resolve=forbidden,
            connect=forbidden,
        )
        archiver = self.ledger.archiver(fetcher or nowhere, self.store, self.scratch)
        for asset in self.ledger.assets.claim(100):
            archiver.archive(asset)
        for job in self.ledger.jobs.claim(100):
            self.reconciler.reconcile_job(job)
        assert list(self.scratch.iterdir()) == []

    def stored(self, ref: str) -> list[bytes]:
        """Return the archived pictures of a job."""
        return [self.read(asset.key or "") for asset in self.ledger.assets_of(ref)]

    def read(self, key: str) -> bytes:
        """Return an object of the archive."""
        with self.store.open(key) as file:
            return file.read()

    def jobs(self) -> list[Job]:
        """Return all jobs."""
        return self.ledger.queries.jobs()


def submission(key: str | None = None, **params: object) -> Submission:
    """Return what a caller asks for."""
    return Submission("a fox", "gpt-image-1.5", params, Mode.SYNC, Provider.OPENAI, Api.IMAGES, key)
