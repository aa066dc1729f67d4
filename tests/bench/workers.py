"""Measure: pictures archived per second by 1, 2 and 4 worker processes that share one PostgreSQL.

First with 8 threads each and a source that answers at once: then the processors are the limit, and
the cores that workers, PostgreSQL and file server keep busy say how much another process can add.
Then with 4 threads each and a source that answers later: then a worker waits most of the time, as
with a real provider, and the measure shows whether processes block each other. At last a queue of
800 assets that take 10 ms each and have no file, with 4 threads each: it shows what queue and
ledger cost alone.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from postgres import KillablePostgres, killable_postgres
from sqlalchemy import text

from receiver.ledger import schema
from receiver.ledger.liveness import LOCKS
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.archiving import archive, file_process
from tests.bench.measurements import Amount, Line
from tests.bench.processes import cpu_seconds, environment, postmaster, running

NO_FILES = ("-m", "tests.bench.no_files")


@dataclass(frozen=True, slots=True)
class Load:
    """What the workers do: their threads, seconds until the source answers, numbers of workers.

    ``jobs`` in each round, or as many as the bench has chosen. ``program`` is the worker's.
    """

    name: str
    threads: int
    delay: float
    processes: Sequence[int] = (1, 2, 4)
    jobs: int | None = None
    program: Sequence[str] = ("-m", "receiver", "worker")


LOADS = (
    Load("source at once", 8, 0.0, jobs=400),
    Load("source after 0.2 s", 4, 0.2),
    Load("800 queued, 10 ms each without a file", 4, 0.0, (1, 2), 800, NO_FILES),
)


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Archive pictures in rounds with each number of processes."""
    with killable_postgres() as server:
        return [
            line
            for number, load in enumerate(LOADS)
            for line in _measure(_made(folder / str(number)), server, amount, load)
        ]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _measure(folder: Path, server: KillablePostgres, amount: Amount, load: Load) -> list[Line]:
    address = server.make_database()
    schema.migrate(address)
    rates: dict[int, list[float]] = {processes: [] for processes in load.processes}
    cores: dict[int, list[float]] = {processes: [] for processes in load.processes}
    with file_process(folder, load.delay) as (url, file_pid):
        env = environment(
            folder / "receiver",
            DATABASE_URL=address.replace("+psycopg", ""),
            ARCHIVE_URL=f"file://{folder / 'archive'}",
            CALLBACK_SECRETS="0" * 32,
            ADMIN_TOKEN="0" * 32,
            FETCH_ALLOW=url.removeprefix("http://"),
            WORKER_THREADS=str(load.threads),
        )
        with closing(Services(Settings.load(env)).open()) as services:
            busy = [file_pid, postmaster(services)]
            for _ in amount:
                for processes in load.processes:
                    with _workers(services, env, folder, processes, load.program) as pids:
                        archive(services, url, 16)  # warms up and is not counted
                        began, used = time.monotonic(), _used([*pids, *busy])
                        rates[processes].append(archive(services, url, load.jobs or amount.each)[1])
                        seconds = time.monotonic() - began
                        cores[processes].append((_used([*pids, *busy]) - used) / seconds)
    return [
        line
        for count in load.processes
        for line in (
            Line(f"jobs archived by {count}, {load.name}", "1/s", rates[count], rates[1]),
            Line("… cores busy, all together", "", cores[count], cores[1]),
        )
    ]


def _used(pids: Sequence[int]) -> float:
    """Return the processor time of these processes with their children, and of this one alone."""
    return sum(map(cpu_seconds, pids)) + time.process_time()


@contextmanager
def _workers(
    services: Services, env: dict[str, str], folder: Path, processes: int, program: Sequence[str]
) -> Iterator[list[int]]:
    """Run this many workers and give their process numbers; each counts once it holds its lock."""
    with ExitStack() as stack:
        pids = []
        for number in range(processes):
            before = _registered(services)
            ready = lambda before=before: _registered(services) > before  # noqa: E731 - bound here
            log = folder / f"worker-{number}.log"
            pids.append(stack.enter_context(running(program, env, log, ready)))
        yield pids
    deadline = time.monotonic() + 5
    while _registered(services) and time.monotonic() < deadline:
        time.sleep(0.02)


def _registered(services: Services) -> int:
    query = text(
        "SELECT count(DISTINCT objid) FROM pg_locks"
        " WHERE locktype = 'advisory' AND classid::bigint = :locks"
    )
    values = {"locks": LOCKS}
    return int(
        services.database.read(lambda connection: connection.execute(query, values).scalar_one())
    )
