"""Heartbeats: which workers serve this ledger. Each worker writes its own row.

The locks of ``liveness`` show within seconds whose claims to take over, but only on PostgreSQL and
only for workers that have claims. Heartbeats show on both databases whether any worker runs.
"""

import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, delete, func, literal, select, update

from receiver import clock
from receiver.installation import version
from receiver.ledger.database import Database
from receiver.ledger.tables import workers

# Seconds between two heartbeats of a worker, and how old the last one of a living worker may be.
EVERY, ALIVE_FOR = 10.0, 40.0
NO_WORKER_REMEDY = "start `receiver serve` or `receiver worker` on this ledger"
# Seconds that the row of a dead worker is kept, to show when its last heartbeat came.
_KEPT = 3600.0


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker: where it runs, and how many seconds ago it started and sent its last heartbeat."""

    host: str
    pid: int
    version: str
    uptime: float
    age: float
    report: dict[str, Any]

    @property
    def is_alive(self) -> bool:
        """Return whether it sent a heartbeat lately."""
        return self.age <= ALIVE_FOR


@dataclass(frozen=True, slots=True)
class Worker:
    """The name of this process among the workers."""

    name: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


class Workers:
    """The workers of a ledger. With SQLite, ``now`` is the clock that all of them use.

    It counts from the machine's start. With any other clock, processes that began before and after
    the machine's clock was set would not agree.
    """

    def __init__(
        self, database: Database, now: Callable[[], float] = clock.since_start_of_machine
    ) -> None:
        self._database = database
        self._now = now

    def begin(self, worker: Worker, *, alone: bool) -> None:
        """Insert the row of a worker; delete the rows of workers that ended long ago.

        ``alone``: no other worker can be alive.
        """

        def work(connection: Connection) -> None:
            now = self._clock(connection)
            others = delete(workers)
            connection.execute(others if alone else others.where(workers.c.seen_at < now - _KEPT))
            row = {"host": worker.host, "pid": worker.pid, "version": version(), "report": "{}"}
            connection.execute(
                workers.insert().values(name=worker.name, started_at=now, seen_at=now, **row)
            )

        self._database.write(work)

    def renew(self, worker: Worker, report: Mapping[str, object]) -> bool:
        """Write a heartbeat; return False if the row was deleted meanwhile."""

        def work(connection: Connection) -> bool:
            done = connection.execute(
                update(workers)
                .where(workers.c.name == worker.name)
                .values(seen_at=self._clock(connection), report=json.dumps(report))
            )
            return done.rowcount > 0

        return self._database.write(work)

    def end(self, worker: Worker) -> None:
        """Delete the row of a worker that ends."""
        self._database.write(
            lambda connection: connection.execute(
                delete(workers).where(workers.c.name == worker.name)
            )
        )

    def seen(self) -> list[WorkerSeen]:
        """Return every worker that sent a heartbeat within the last hour, the last one first.

        A heartbeat from the future was sent before the clock was set, or before the machine
        restarted. A living worker soon sends another one.
        """

        def work(connection: Connection) -> list[WorkerSeen]:
            now = self._clock(connection)
            rows = connection.execute(
                select(
                    workers.c.host,
                    workers.c.pid,
                    workers.c.version,
                    workers.c.report,
                    (now - workers.c.started_at).label("uptime"),
                    (now - workers.c.seen_at).label("age"),
                )
                .where(workers.c.seen_at > now - _KEPT, workers.c.seen_at < now + ALIVE_FOR)
                .order_by(workers.c.seen_at.desc())
            )
            return [
                WorkerSeen(
                    row.host, row.pid, row.version, row.uptime, row.age, json.loads(row.report)
                )
                for row in rows
            ]

        return self._database.read(work)

    def are_alive(self) -> bool:
        """Return whether any worker sent a heartbeat lately."""
        return any(worker.is_alive for worker in self.seen())

    def _clock(self, connection: Connection) -> ColumnElement[float]:
        """Return the time by which all workers are compared: PostgreSQL's, or ours with SQLite."""
        if connection.dialect.name == "postgresql":
            return func.extract("epoch", func.clock_timestamp()).cast(Double)
        return literal(self._now(), Double)
