"""Measure: pictures archived per second by 1, 2 and 4 worker processes with 8 threads each.

They share one PostgreSQL and this machine's cores: on two cores four processes cannot do four times
as much. The measure shows that they do not block each other.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from postgres import mortal_postgres
from sqlalchemy import text

from receiver.ledger import schema
from receiver.ledger.liveness import LOCKS
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.archiving import archive, file_server
from tests.bench.measurements import Amount, Line
from tests.bench.processes import environment, running

PROCESSES = (1, 2, 4)
_THREADS = "8"


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Archive so many pictures in each round with each number of processes."""
    with mortal_postgres() as server, file_server(folder) as url:
        address = server.make_database()
        schema.migrate(address)
        env = environment(
            folder / "receiver",
            DATABASE_URL=address.replace("+psycopg", ""),
            ARCHIVE_URL=f"file://{folder / 'archive'}",
            CALLBACK_SECRETS="0" * 32,
            ADMIN_TOKEN="0" * 32,
            FETCH_ALLOW=url.removeprefix("http://"),
            WORKER_THREADS=_THREADS,
        )
        seen: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
        with closing(Services(Settings.load(env)).open()) as services:
            for _ in amount:
                for processes in PROCESSES:
                    with _workers(services, env, folder, processes):
                        archive(services, url, 16)  # warms up and is not counted
                        seen[processes].append(archive(services, url, amount.each)[1])
    return [
        Line(f"jobs archived by {processes} processes", "1/s", seen[processes], seen[1])
        for processes in PROCESSES
    ]


@contextmanager
def _workers(
    services: Services, env: dict[str, str], folder: Path, processes: int
) -> Iterator[None]:
    """Run so many workers; each counts from when it holds its lock."""
    with ExitStack() as stack:
        for number in range(processes):
            before = _registered(services)
            ready = lambda before=before: _registered(services) > before  # noqa: E731 - bound here
            stack.enter_context(
                running(["-m", "receiver", "worker"], env, folder / f"worker-{number}.log", ready)
            )
        yield
    deadline = time.monotonic() + 5
    while _registered(services) and time.monotonic() < deadline:
        time.sleep(0.02)


def _registered(services: Services) -> int:
    question = text(
        "SELECT count(DISTINCT objid) FROM pg_locks"
        " WHERE locktype = 'advisory' AND classid::bigint = :locks"
    )
    values = {"locks": LOCKS}
    return int(
        services.database.read(lambda connection: connection.execute(question, values).scalar_one())
    )
