"""Group commit: threads queue their writes, and one of them commits for all that wait.

A commit waits for the disk, so one commit for sixteen callbacks costs hardly more than one for one
callback. No library does this for synchronous threads: the database drivers commit per connection.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from receiver.errors import LedgerError
from receiver.ledger.database_errors import translated_errors
from receiver.ledger.waiting import signal

T = TypeVar("T")
Item = TypeVar("Item")

# Seconds a write waits in the queue before LedgerError is raised. A callback is then answered 503,
# and the provider sends it again.
WRITE_TIMEOUT = 10.0
# Writes that share one commit. More would only make the first one wait longer.
GROUP_SIZE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Batch(Generic[Item, T]):
    """A kind of write that handles many items with a few statements.

    ``many`` returns a result for each item, or None for an item that must be given to ``one``. Both
    run in a transaction; ``many`` runs first.
    """

    one: Callable[[Connection, Item], T]
    many: Callable[[Connection, Sequence[Item]], list[T | None]]


class QueuedWrite(Generic[T]):
    """A write that waits for a leader: a piece of work, or the item of a batch.

    ``alone`` runs it by itself; ``ran`` says that it was run, alone or with its batch.
    """

    def __init__(
        self, alone: Callable[[Connection], T], batch: Batch[Any, T] | None = None, item: Any = None
    ) -> None:
        self.alone = alone
        self.batch = batch
        self.item = item
        self.done = False
        self.ran = False
        # Notified when the write is done, or its thread should lead.
        self.signal = signal()
        self.value: T | None = None
        self.error: Exception | None = None

    @classmethod
    def of(cls, batch: Batch[Item, T], item: Item) -> "QueuedWrite[T]":
        """Return the write of one item of a batch."""
        return cls(partial(_run_one, batch, item), batch, item)

    def succeed(self, value: T) -> None:
        """Keep what the work returned."""
        self.value, self.ran = value, True

    def finish(self, failure: LedgerError | None = None) -> None:
        """Record the end of the commit; after a ``failure`` the value does not count."""
        self.error = failure or self.error
        self.done = True
        self.signal.notify()

    def result(self) -> T:
        """Return what the work returned, or raise what it raised."""
        if self.error is not None:
            with translated_errors():
                raise self.error
        return self.value  # type: ignore[return-value]  # None only where T is None


def _run_one(batch: Batch[Item, T], item: Item, connection: Connection) -> T:
    return batch.one(connection, item)


def run_many(connection: Connection, writes: Sequence[QueuedWrite[Any]]) -> None:
    """Handle the writes of one batch together; ``ran`` is False for those that it leaves out."""
    batch = writes[0].batch
    if batch is None:
        return
    results = batch.many(connection, [write.item for write in writes])
    for write, value in zip(writes, results, strict=True):
        if value is not None:
            write.succeed(value)


class GroupCommit:
    """A queue of writes. ``commit`` commits a group and finishes each of its writes.

    It takes the group by calling its argument. So it can first wait for a lock, and the group is as
    large as possible. One thread of a process commits at a time: with two threads the groups were
    half as large, and a callback cost PostgreSQL 1.5 times as much.
    """

    def __init__(self, commit: Callable[[Callable[[], list[QueuedWrite[Any]]]], None]) -> None:
        self._commit = commit
        self._queue: deque[QueuedWrite[Any]] = deque()
        self._leads = threading.Lock()

    def run(self, write: QueuedWrite[T]) -> T:
        """Return the result of a write once it is committed, or raise what it raised.

        Raise LedgerError if no leader took it within ``WRITE_TIMEOUT`` seconds.
        """
        self._queue.append(write)
        while not write.done:
            write.signal.lead(partial(self._lead, write))
            # Perhaps not done although we led: another leader has it, or many writes came first.
            if not write.done and not self._wait_for_signal(write) and self._withdraw(write):
                raise LedgerError(f"the ledger took no write for {WRITE_TIMEOUT:.0f} s")
        return write.result()

    def _lead(self, write: QueuedWrite[Any]) -> None:
        """Commit one group if no other thread leads."""
        if not self._leads.acquire(blocking=False):
            return
        try:
            if not write.done and self._queue:
                self._commit(self._next_group)
        finally:
            self._leads.release()
            self._signal_next()

    def _wait_for_signal(self, write: QueuedWrite[Any]) -> bool:
        """Wait until the write is done or its thread should lead; return False after a timeout."""
        try:
            return write.signal.wait(WRITE_TIMEOUT)
        except BaseException:
            self._withdraw(write)  # an interrupted thread must pass the signal on
            raise

    def _signal_next(self) -> None:
        """Ask the thread that waits longest to lead. The others continue to wait.

        If they all competed for a lock instead, every wait would become longer.
        """
        with suppress(IndexError):  # the queue is empty
            self._queue[0].signal.notify()

    def _withdraw(self, write: QueuedWrite[Any]) -> bool:
        """Remove a write from the queue; return False if a leader has taken it already.

        Otherwise it could still be committed after its caller was told that it failed.
        """
        try:
            self._queue.remove(write)
        except ValueError:
            return False
        self._signal_next()  # this thread may have received the signal to lead
        return True

    def _next_group(self) -> list[QueuedWrite[Any]]:
        group: list[QueuedWrite[Any]] = []
        # Take one by one until the queue is empty; its length may shrink, because writes withdraw.
        with suppress(IndexError):
            while len(group) < GROUP_SIZE:
                group.append(self._queue.popleft())
        return group


def by_batch(group: Iterable[QueuedWrite[Any]]) -> Iterator[list[QueuedWrite[Any]]]:
    """Divide a group into runs of writes that can be handled together, in their order."""
    for batch, writes in groupby(group, key=lambda write: write.batch):
        run = list(writes)
        yield from [[write] for write in run] if batch is None else [run]
