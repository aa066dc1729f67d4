"""Notifications between worker processes that share a PostgreSQL, by LISTEN on one connection each.

Each names a work queue. A lost one costs little, because the engine polls every two seconds anyway.
"""

import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import psycopg
import structlog

from receiver.errors import LedgerError
from receiver.ledger.notifications import CHANNEL
from receiver.ledger.watched_connection import WatchedConnection
from receiver.worker.notifier import ALL, Listener

log = structlog.get_logger(__name__)

# Seconds between two checks by the watch.
CHECK = 2.0
# Seconds before the connection is opened again; doubled up to the second value, which is shorter
# than liveness.GRACE.
FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0
# Seconds that a stop waits for the listening thread, which may be in a statement.
_STOP_TIMEOUT = 1.0


class Watch(Protocol):
    """What else the listening connection is used for; see ``receiver.ledger.liveness``."""

    def connected(self, connection: Any) -> None:
        """Run once on each new psycopg connection."""

    def check(self, connection: Any) -> bool:
        """Run every ``CHECK`` seconds; return whether this made rows due."""


class PostgresNotifier:
    """Notifies the engine of this process; while it listens, also of other processes' commits."""

    def __init__(self, conninfo: str, watch: Watch) -> None:
        self._conninfo = conninfo
        self._watch = watch
        self._writer: int | None = None
        self.is_listening = False  # whether other processes' notifications arrive now
        # Reentrant, because a signal handler may notify while this thread does.
        self._lock = threading.RLock()

    def notify(self, name: str = ALL, /) -> None:
        """Notify the engine of this process of a work queue; never blocks.

        A web process has no engine: its transactions send the notifications.
        """
        # A full pipe counts as a notification of every work queue. A broken one: the engine ends.
        with self._lock, suppress(BlockingIOError, BrokenPipeError):
            if self._writer is not None:
                os.write(self._writer, f"{name}\n".encode())

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Yield the engine's end. It does not wait for PostgreSQL, which may be unavailable."""
        reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        stopped, stop = os.pipe2(os.O_CLOEXEC)
        thread = threading.Thread(target=self._run, args=(stopped,), name="listener", daemon=True)
        thread.start()
        with Listener(reader) as listener:
            try:
                yield listener
            finally:
                # Before the reader is closed: threads may still notify.
                with self._lock:
                    writer, self._writer = self._writer, None
                os.close(writer)
                os.close(stop)  # which makes ``stopped`` readable
                thread.join(_STOP_TIMEOUT)

    def _run(self, stopped: int) -> None:
        """Listen until ``stopped`` is readable, then close it; reopen a lost connection."""
        pause = FIRST_PAUSE
        while True:
            try:
                arguments = {"conninfo": self._conninfo}
                with WatchedConnection.open(arguments, autocommit=True) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._watch.connected(connection)
                    self.is_listening = True
                    self.notify()  # what was sent before this moment is lost
                    pause = FIRST_PAUSE
                    while not self._pass_on(connection, stopped):
                        if self._watch.check(connection):
                            self.notify()
                    break
            except (psycopg.Error, LedgerError) as error:
                self.is_listening = False
                log.warning("listening connection lost", error=str(error), retry_in=pause)
            except (
                Exception
            ):  # this thread must survive a bug of ours: it shows that this worker is alive
                log.exception("listening failed")
            if select.select([stopped], [], [], pause)[0]:
                break
            pause = min(2 * pause, LAST_PAUSE)
        os.close(stopped)

    def _pass_on(self, connection: "psycopg.Connection[Any]", stopped: int) -> bool:
        """Pass on notifications until the next check; return whether to stop."""
        until = time.monotonic() + CHECK
        while (left := until - time.monotonic()) > 0:
            # Notifications that came during a statement are read first: psycopg has kept them, and
            # the socket does not show them.
            for name in {notification.payload for notification in connection.notifies(timeout=0)}:
                self.notify(name)
            if stopped in select.select([connection.fileno(), stopped], [], [], left)[0]:
                return True
        return False
