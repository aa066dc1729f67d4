"""The engine under test, set up for one machine or for many, with a ledger and work."""

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from ledgers import LedgerHarness, stored
from waiting import LIMIT, until

from receiver.errors import LedgerError
from receiver.ledger.claims import LEASE, Claimed
from receiver.ledger.liveness import Liveness
from receiver.ledger.postgres import PostgresDatabase, conninfo
from receiver.ledger.rows import Asset
from receiver.worker.embedded import EmbeddedEngine
from receiver.worker.engine import Engine, WorkQueue
from receiver.worker.notifier import Notifier
from receiver.worker.postgres_notifier import PostgresNotifier

# Seconds between polls: too many to wait for, and hardly any.
NEVER, OFTEN = 600.0, 0.02


class EngineHarness(ABC):
    """A ledger with one work queue of assets; ``work`` is what a thread does with each."""

    def __init__(self, ledger: LedgerHarness, folder: Path) -> None:
        self.ledger = ledger
        self.folder = folder
        self.claimed: list[str] = []  # refs in their order
        self.failed_claims = 0
        self.work: Callable[[Claimed[Asset]], object] = lambda _claimed: None

    @abstractmethod
    def engine(self, *, poll_interval: float = NEVER, grace: float = 10.0) -> Engine:
        """Return an engine with the given times in seconds."""

    @abstractmethod
    def notify(self, engine: Engine) -> None:
        """Have the engine check what has become due."""

    def queue(self, concurrency: int = 1) -> WorkQueue:
        return WorkQueue(
            "assets",
            concurrency,
            partial(self.ledger.queries.next_due, "assets"),
            self._claim,
            self._run,
        )

    def _claim(self, limit: int) -> list[Claimed[Asset]]:
        try:
            claims = self.ledger.assets.claim(limit)
        except LedgerError:
            self.failed_claims += 1
            raise
        self.claimed += [claimed.row.ref for claimed in claims]
        return claims

    def _run(self, claimed: Claimed[Asset]) -> None:
        self.work(claimed)
        self.ledger.assets.finish(claimed, stored(claimed))

    def add_jobs(self, count: int = 1) -> list[str]:
        """Add jobs with one asset each, due now; return their refs."""
        return [
            self.ledger.archiving(1, f"task-{len(self.ledger.queries.jobs(limit=100))}")
            for _ in range(count)
        ]

    def archived(self) -> int:
        """Return the number of archived assets."""
        return [event["type"] for event in self.ledger.events.after()].count("asset.archived")

    def asset(self, ref: str) -> Asset:
        (asset,) = self.ledger.assets_of(ref)
        return asset


class EmbeddedHarness(EngineHarness):
    """An engine of one machine; ``looks`` counts how often it looked at idle work queues."""

    def __init__(self, ledger: LedgerHarness, folder: Path) -> None:
        super().__init__(ledger, folder)
        self.notifier = Notifier(folder / "worker.fifo")
        self.looks = Counter[str]()

    def engine(self, *, poll_interval: float = NEVER, grace: float = 10.0) -> EmbeddedEngine:
        """Return an engine with the given times in seconds."""
        return EmbeddedEngine(
            self.ledger.claims,
            self.notifier,
            self.ledger.clock,
            poll_interval=poll_interval,
            grace=grace,
        )

    def notify(self, engine: Engine) -> None:
        """Notify the engine."""
        engine.notify()

    @property
    def rounds(self) -> int:
        """How often the engine checked every work queue."""
        return self.looks["idle"]

    def idle_queue(self, name: str = "idle") -> WorkQueue:
        """Return a work queue that never has work: it counts how often the engine checks it."""
        count = partial(self.looks.update, [name])
        return WorkQueue(name, 1, count, lambda _limit: [], lambda _claimed: None)

    def round(self, number: int = 1) -> None:
        """Wait until the engine has checked every work queue this many times."""
        until(lambda: self.rounds >= number, what=f"round {number} of the engine")

    @contextmanager
    def ledger_unavailable(self) -> Iterator[None]:
        """Let every write fail."""
        lock = next(self.folder.glob("ledger.sqlite3.lock"))
        lock.unlink()
        lock.mkdir()
        yield
        lock.rmdir()


class DistributedHarness(EngineHarness):
    """An engine on a PostgreSQL that other machines may work on too."""

    _numbers = count(1)

    def __init__(self, ledger: LedgerHarness, folder: Path, url: str) -> None:
        super().__init__(ledger, folder)
        self.url = url
        self.number = next(self._numbers)
        assert isinstance(ledger.database, PostgresDatabase)
        ledger.database.hold_lock(self.number)

    def engine(self, *, poll_interval: float = NEVER, grace: float = 10.0) -> EmbeddedEngine:
        """Return an engine with the given times in seconds."""
        watch = Liveness(self.number, LEASE, self.ledger.clock, self.ledger.claims.take_over)
        return EmbeddedEngine(
            self.ledger.claims,
            PostgresNotifier(conninfo(self.url), watch),
            self.ledger.clock,
            poll_interval=poll_interval,
            grace=grace,
            claim_first=True,
        )

    def notify(self, engine: Engine) -> None:
        """Notify the engine."""
        engine.notify()


class Gate:
    """Work that lasts until the gate is opened."""

    def __init__(self) -> None:
        self.inside = 0
        self._open = threading.Event()

    def __call__(self, _claimed: Claimed[Asset]) -> None:
        self.inside += 1
        assert self._open.wait(20), "the gate was not opened"

    def open(self) -> None:
        self._open.set()


@contextmanager
def at_work(engine: Engine, *work_queues: WorkQueue) -> Iterator[threading.Thread]:
    """Run the engine in a thread until the block ends; no thread of it may be left then."""
    before = _threads()
    thread = threading.Thread(target=engine.run, args=(work_queues,), name="engine", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        engine.stop()
        thread.join(LIMIT)
        assert not thread.is_alive()
        until(lambda: not _threads() - before, what="the end of every thread")


def _threads() -> set[threading.Thread]:
    """Return the threads of this process, but not the ledgers' senders, which end with them."""
    return {thread for thread in threading.enumerate() if thread.name != "notifications"}
