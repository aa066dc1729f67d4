"""Measure 1: callbacks acknowledged per second, and what each costs the processor.

Each callback is of another job. The contenders (a route that does nothing, ours on SQLite and on
PostgreSQL, and what a user would write instead) are gunicorns as deployed, two processes of 16
threads, and answer the same requests in turn. Afterwards every callback that ours acknowledged must
be in the ledger. Processor time is that of the process tree, from /proc.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from postgres import killable_postgres, postgres_binaries
from sqlalchemy import select

from receiver.ledger import schema
from receiver.ledger.tables import assets, deliveries, jobs
from receiver.model import AssetState, Decision, JobState
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.jobs import waiting_jobs
from tests.bench.measurements import MS, US, Amount, Line, Round, percentile
from tests.bench.processes import (
    ROOT,
    Server,
    cpu_seconds,
    environment,
    gunicorn,
    postmaster,
    redis,
)

CONNECTIONS = 32
BODY = 350  # bytes


@dataclass
class Contender:
    """One server that takes the callbacks; ``services`` are those of its ledger if it is ours.

    ``database`` is the process whose processor time is counted as its database's, None without one.
    """

    name: str
    server: Server
    services: Services | None = None
    database: int | None = None
    rounds: list[Round] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Send the same callbacks to each contender by turns.

    Raise RuntimeError if a callback that we acknowledged is not stored.
    """
    with ExitStack() as stack:
        noop, *others = _contenders(stack, folder)
        ours = [one.services for one in others if one.services]
        for number, each in enumerate([16 * CONNECTIONS, *(amount.each for _ in amount)]):
            refs = waiting_jobs(ours[0], each)
            for services in ours[1:]:
                waiting_jobs(services, each, refs)
            requests = [callback_request(ours[0].tickets.sign(ref), ref) for ref in refs]
            for contender in (noop, *others):
                result, acknowledged = _send(contender, requests, folder / "requests")
                contender.rounds += [result] if number else []  # the first round warms up
                contender.acknowledged += [refs[place] for place in acknowledged]
        for contender in others:
            if contender.services:
                _check(contender.services, contender.acknowledged)
    return [line for contender in others for line in _lines(contender, noop)]


def _contenders(stack: ExitStack, folder: Path) -> Iterator[Contender]:
    """Start the no-op route, ours on both databases, and the peers that are installed."""

    def start(name: str, app: str, **variables: str) -> tuple[Server, dict[str, str]]:
        env = environment(folder / name, CALLBACK_SECRETS="0" * 32, **variables)
        return stack.enter_context(gunicorn(app, env, folder / f"{name}.log")), env

    def ours(name: str, **variables: str) -> tuple[Server, Services]:
        server, env = start(name, "receiver.web:create_app()", **variables)
        return server, stack.enter_context(closing(Services(Settings.load(env)).open()))

    yield Contender("no-op", start("noop", "tests.bench.noop:create_app()")[0])
    yield Contender("SQLite", *ours("sqlite"))
    if postgres_binaries():
        database = stack.enter_context(killable_postgres())
        address = database.make_database()
        schema.migrate(address)
        url = address.replace("+psycopg", "")
        archive = (folder / "archive").as_uri()
        server, services = ours(
            "postgres", DATABASE_URL=url, ADMIN_TOKEN="0" * 32, ARCHIVE_URL=archive
        )
        yield Contender("PostgreSQL", server, services, postmaster(services))
    path = str(folder / "peer.sqlite3")
    server, _ = start("commit", "tests.bench.peers:create_sqlite_app()", PEER_SQLITE=path)
    yield Contender("peer: a SQLite commit per request", server)
    if which("redis-server") and find_spec("rq") and find_spec("celery"):
        store = stack.enter_context(redis(folder))
        for name in ("rq", "celery"):
            app = f"tests.bench.peers:create_{name}_app()"
            server, _ = start(name, app, PEER_REDIS_PORT=str(store.port))
            yield Contender(f"peer: {name} on Redis", server, None, store.pid)
    else:
        print("left out: peers on Redis (apt install redis-server)")  # noqa: T201 - a command


def callback_request(ticket: str, ref: str) -> bytes:
    """Make the whole request of one success; all are of one length."""
    task = {
        "id": f"task-{ref}",
        "url": "",
        "progress": 100,
        "status": "succeeded",
        "width": 1024,
        "height": 1024,
    }
    result = {"url": f"http://127.0.0.1/file/{ref}-.png", "width": 1024, "height": 1024}
    body = json.dumps({**task, "results": [result], "failure_reason": "", "error": ""})
    body = body.replace("-.png", f"-{'x' * (BODY - len(body))}.png")
    head = (
        f"POST /callback/{ticket} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def _send(contender: Contender, requests: list[bytes], file: Path) -> tuple[Round, list[int]]:
    """Send the requests with the load generator; return its results and what was answered 200."""
    file.write_bytes(b"".join(requests))
    load = [sys.executable, "-m", "tests.bench.load", str(contender.server.port), str(file)]
    command = [*load, str(len(requests[0])), str(CONNECTIONS)]
    before = _processor_times(contender)
    answer = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=120)
    web, database = (
        (end - begin) / len(requests)
        for begin, end in zip(before, _processor_times(contender), strict=True)
    )
    seen = json.loads(answer.stdout)
    if set(seen["statuses"]) != {"200"}:
        raise RuntimeError(f"{contender.name} did not acknowledge all: {seen['statuses']}")
    p50, p99 = (percentile(seen["latencies"], share) for share in (0.5, 0.99))
    return Round(len(requests) / seen["seconds"], p50, p99, web, database), seen["acknowledged"]


def _processor_times(contender: Contender) -> tuple[float, float]:
    database = contender.database
    return cpu_seconds(contender.server.pid), cpu_seconds(database) if database else 0.0


def _check(services: Services, acknowledged: list[str]) -> None:
    """Find delivery, job and asset of every acknowledged callback in the ledger."""
    whole = (
        select(jobs.c.ref)
        .join(deliveries, deliveries.c.ref == jobs.c.ref)
        .join(assets, assets.c.ref == jobs.c.ref)
        .where(
            jobs.c.state == JobState.ARCHIVING,
            deliveries.c.verdict == Decision.ENDED,
            assets.c.state == AssetState.PENDING,
        )
    )
    found = services.database.read(lambda connection: list(connection.execute(whole).scalars()))
    if sorted(found) != sorted(acknowledged):
        lost = len(set(acknowledged) - set(found))
        raise RuntimeError(
            f"{len(acknowledged)} callbacks acknowledged, {len(found)} stored,"
            f" {lost} of the acknowledged ones lost"
        )
    if not services.totals.audit().ok:
        raise RuntimeError("the ledger's invariants do not hold after the load")


def _lines(contender: Contender, noop: Contender) -> list[Line]:
    def line(what: str, unit: str, value: Callable[[Round], float], factor: float = 1) -> Line:
        ours, its = ([factor * value(one) for one in side.rounds] for side in (contender, noop))
        return Line(f"{contender.name}: {what}", unit, ours, its)

    lines = [
        line("acknowledged", "1/s", lambda one: one.rate),
        line("p99", "ms", lambda one: one.p99, MS),
        line("processor time, web", "µs", lambda one: one.cpu, US),
    ]
    if contender.database:
        rounds = contender.rounds
        lines.append(
            Line(
                f"{contender.name}: processor time, database",
                "µs",
                [US * one.database_cpu for one in rounds],
                [US * one.cpu for one in noop.rounds],
            )
        )
    return lines
