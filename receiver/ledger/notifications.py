"""Notifications: after its commit a transaction names the work queues that it fed.

A notification is not the work: a worker that receives one claims the due rows that are nearest to
their deadlines. A lost notification costs seconds, a superfluous one finds nothing. PostgreSQL
sends them to all workers. On SQLite the worker's own transactions notify its engine in this way.
Other processes notify it of all work queues, through a named pipe.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from receiver.errors import LedgerError

CHANNEL = "receiver"
# Seconds between two statements of a process that notify. An idle process notifies at once; a busy
# one saves a statement for every transaction, and its receivers a claim that finds nothing.
_INTERVAL = 0.02
# Seconds that a process waits at its end for its last notifications to be sent.
_CLOSE_TIMEOUT = 5.0
_NOTED = "notifications"
# It does not wait for the disk either: the work that it announces is committed already.
_SEND = text("""
    SELECT pg_notify(:channel, name), set_config('synchronous_commit', 'off', true)
    FROM unnest(CAST(:names AS text[])) AS name
""")


class QueueName(StrEnum):
    """What a notification names: a work queue, or with EVENTS those of all destinations."""

    ASSETS = "assets"
    SUSPECT_ASSETS = "suspect assets"
    COMPLETE_JOBS = "complete jobs"
    JOBS = "jobs"
    SUSPECT_JOBS = "suspect jobs"
    HINTS = "hints"
    EVENTS = "events"


_OF_SUSPECTS = {
    QueueName.ASSETS: QueueName.SUSPECT_ASSETS,
    QueueName.JOBS: QueueName.SUSPECT_JOBS,
}


def events_queue(destination: str) -> str:
    """Return the name of the work queue that delivers events to a destination."""
    return f"events to {destination}"


def is_named(queue: str, names: set[str]) -> bool:
    """Return whether a notification of these names concerns a work queue."""
    return queue in names or (QueueName.EVENTS in names and queue.startswith(events_queue("")))


def notify(connection: Connection, name: QueueName) -> None:
    """Note a work queue; workers are notified when this transaction is committed."""
    connection.info.setdefault(_NOTED, set()).add(name.value)


def notify_of_rows(connection: Connection, name: QueueName, crashes: Sequence[int]) -> bool:
    """Note the work queue of rows that became due, and of those that may be suspects.

    ``crashes`` has the crashes of each row. Return whether there are any rows.
    """
    if crashes:
        notify(connection, name)
    if any(crashes):
        notify(connection, _OF_SUSPECTS[name])
    return bool(crashes)


def take_noted(connection: Connection) -> set[str]:
    """Return the names noted on this connection and forget them.

    Called at the beginning of a transaction too, because one that was rolled back left its names.
    """
    names: set[str] = connection.info.pop(_NOTED, set())
    return names


class NotificationSender:
    """Sends names after commits, in one thread; names that come together share a statement.

    They are not part of the transactions: PostgreSQL commits transactions with a NOTIFY one at a
    time, and each waits for the disk. ``connect`` returns a connection in autocommit mode.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._names: set[str] = set()
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def send(self, names: set[str]) -> None:
        """Send these names soon; never blocks. Names that cannot be sent are dropped."""
        if not names:
            return
        with self._changed:
            self._names |= names
            self._changed.notify()
            # A thread does not survive a fork.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Send what is left, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT)

    def _run(self) -> None:
        while names := self._next_names():
            # Workers poll, so a lost notification needs no second attempt.
            with suppress(SQLAlchemyError, LedgerError), self._connect() as connection:
                connection.execute(_SEND, {"channel": CHANNEL, "names": sorted(names)})
            with self._changed:
                self._changed.wait_for(lambda: self._closed, _INTERVAL)

    def _next_names(self) -> set[str]:
        """Wait for names and return them; return none if there are none and this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._names or self._closed)
            names, self._names = self._names, set()
            return names
