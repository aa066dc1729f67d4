"""Measure 2: pictures of 1 MB archived per second, compared with a bare fetch-and-write loop.

The archive is a directory or SeaweedFS, the ledger SQLite or PostgreSQL. The real worker process
with its 16 threads and the loop with 16 threads fetch the same file from the same server in turn.
The worker also does: address rules, SHA-256, inspection, link or conditional put, verification,
transactions, and a manifest and the end of each job (here of one picture). Processor time is that
of the process trees, from /proc: of the worker, of the loop, of PostgreSQL.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from postgres import PostgresServer
from sqlalchemy import Connection, Select, func, select

from receiver.ledger import schema
from receiver.ledger.deliveries import begin_archiving
from receiver.ledger.jobs import find_job
from receiver.ledger.tables import assets, jobs
from receiver.model import JobState, Outcome, Report, Result
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.files import picture
from tests.bench.jobs import waiting_jobs
from tests.bench.measurements import MS, Amount, Line
from tests.bench.processes import (
    ROOT,
    cpu_seconds,
    environment,
    free_port,
    listens,
    postmaster,
    running,
)

THREADS = 16
_LIMIT = 60.0  # seconds for one round


@dataclass(frozen=True, slots=True)
class Place:
    """A store: its display name, ARCHIVE_URL, the bare loop's target, and more variables."""

    name: str
    archive_url: str
    target: str
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Round:
    """Rates per second of one round; ``cpu`` is processor time per picture in seconds.

    It is that of the worker, of PostgreSQL if it is used, and of the bare loop.
    """

    assets: float
    jobs: float
    bare: float
    cpu: Sequence[float]


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serve the picture; give the URL below which every path leads to it."""
    with file_process(folder) as (url, _):
        yield url


@contextmanager
def file_process(folder: Path, delay: float = 0.0) -> Iterator[tuple[str, int]]:
    """Serve the picture ``delay`` seconds after each request; give URL and process number."""
    path, port = folder / "picture.png", free_port()
    path.write_bytes(picture())
    with running(
        ["-m", "tests.bench.files", str(port), str(path), str(delay)],
        environment(folder),
        folder / "files.log",
        lambda: listens(port),
    ) as pid:
        yield f"http://127.0.0.1:{port}", pid


def migrated(server: PostgresServer) -> dict[str, str]:
    """Return the variables of a receiver whose ledger is a new database of this server."""
    address = server.make_database()
    schema.migrate(address)
    url = address.replace("+psycopg", "")
    return {"DATABASE_URL": url, "CALLBACK_SECRETS": "0" * 32, "ADMIN_TOKEN": "0" * 32}


def variables(folder: Path, url: str, place: Place) -> dict[str, str]:
    """Return the variables of a receiver that archives to a place."""
    return environment(
        folder / "receiver",
        FETCH_ALLOW=url.removeprefix("http://"),
        ARCHIVE_URL=place.archive_url,
        WORKER_THREADS=str(THREADS),
        **place.variables,
    )


def measure(folder: Path, url: str, place: Place, amount: Amount) -> list[Line]:
    """Archive pictures in rounds; raise RuntimeError if a job does not end ``archived``."""
    env = variables(folder, url, place)
    rounds: list[_Round] = []
    log = folder / "worker.log"
    with (
        patch.dict(os.environ, place.variables),  # boto3 reads its own
        closing(Services(Settings.load(env)).open()) as services,
        running(
            ["-m", "receiver", "worker"], env, log, lambda: "worker started" in log.read_text()
        ) as pid,
    ):
        processes = [pid] if services.settings.embedded else [pid, postmaster(services)]
        archive(services, url, THREADS)  # warms up and is not counted
        for number in amount:
            bare, bare_cpu = _bare(url, amount.each, f"{place.target}/{number}", env)
            before = list(map(cpu_seconds, processes))
            rates = archive(services, url, amount.each)
            used = [cpu_seconds(each) - then for each, then in zip(processes, before, strict=True)]
            cpu = [seconds / amount.each for seconds in [*used, bare_cpu]]
            rounds.append(_Round(*rates, amount.each / bare, cpu))
    return _lines(rounds)


def _lines(rounds: list[_Round]) -> list[Line]:
    rates, cpu = [one.bare for one in rounds], [MS * one.cpu[-1] for one in rounds]
    names = ["worker", "PostgreSQL"][: len(rounds[0].cpu) - 1]
    return [
        Line("assets archived", "1/s", [one.assets for one in rounds], rates),
        Line("… and their jobs", "1/s", [one.jobs for one in rounds], rates),
        *(
            Line(f"processor time, {name}", "ms", [MS * one.cpu[place] for one in rounds], cpu)
            for place, name in enumerate(names)
        ),
    ]


def archive(services: Services, url: str, amount: int) -> tuple[float, float]:
    """Insert jobs with known results, notify, and wait; return assets and jobs per second.

    The times are the ledger's.
    """
    mine = jobs.c.submitted_at == archiving_jobs(services, url, amount)
    started = time.time()
    services.engine.notify()
    archived = select(func.count()).where(mine, jobs.c.state == JobState.ARCHIVED)
    deadline = time.monotonic() + _LIMIT
    while _one(services, archived) < amount:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"not all of {amount} jobs were archived within {_LIMIT:.0f} s:"
                f" {services.totals.counts()}"
            )
        time.sleep(0.1)
    last_asset = _one(
        services,
        select(func.max(assets.c.finished_at)).join(jobs, jobs.c.ref == assets.c.ref).where(mine),
    )
    last_job = _one(services, select(func.max(jobs.c.finished_at)).where(mine))
    return amount / (last_asset - started), amount / (last_job - started)


def _one(services: Services, query: Select[Any]) -> float:
    return float(services.database.read(lambda connection: connection.execute(query).scalar_one()))


def archiving_jobs(services: Services, url: str, amount: int) -> float:
    """Insert jobs of one picture each, as after their callbacks; return their ``submitted_at``."""
    refs, timing = waiting_jobs(services, amount), services.timing

    def end(connection: Connection) -> float:
        found = [job for ref in refs if (job := find_job(connection, ref, locked=True))]
        for job in found:
            report = Report(
                Outcome.SUCCEEDED,
                job.provider_id,
                "succeeded",
                100,
                (Result(f"{url}/{job.ref}.png"),),
            )
            begin_archiving(connection, [(job, report)], time.time(), timing)
        return found[0].submitted_at

    return services.database.write(end)


def _bare(url: str, amount: int, target: str, env: Mapping[str, str]) -> tuple[float, float]:
    """Run the bare loop; return its seconds and its processor time in seconds.

    What it wrote to a directory is removed.
    """
    command = [sys.executable, "-m", "tests.bench.bare", url, str(amount), str(THREADS), target]
    answer = subprocess.run(
        command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, timeout=_LIMIT, text=True
    ).stdout
    seconds, cpu = map(float, answer.split())
    if not target.startswith("s3://"):
        shutil.rmtree(target)
    return seconds, cpu
