"""Measure: operations per second of a full and an empty ledger in turn, on both databases.

One process without HTTP, to see the database's own costs: eight threads accept callbacks, then
claim.
The jobs that fill the ledger are final, each with a delivery of 350 bytes, an asset and two events.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from postgres import killable_postgres, postgres_binaries
from sqlalchemy import Connection, text

from receiver.ledger import schema
from receiver.model import Delivery, Source
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.jobs import waiting_jobs
from tests.bench.measurements import Amount, Line

THREADS = 8
# Jobs added at a time.
_PORTION = 50_000

# The numbers of the jobs to be added, and their refs, which sort before those of today.
_OLD = """
WITH RECURSIVE
many(i) AS (SELECT CAST(:first AS integer) UNION ALL SELECT i + 1 FROM many WHERE i < :last),
old(i, ref) AS (SELECT i, '01H000000000000000' || substr(CAST(100000000 + i AS text), 2) FROM many)
"""
_DIGEST = "0" * 64
# Each with as many columns as have no default, in words of both databases.
FILL = (
    f"""
    INSERT INTO jobs (ref, provider, provider_id, base_url, api, mode, model, prompt, params, key,
        state, outcome, progress, submitted_at, deadline_at, ended_at, finished_at)
    {_OLD} SELECT ref, 'grsai', 'old-' || i, 'https://grsaiapi.com', 'draw', 'webhook',
        'gpt-image-1.5', 'a lighthouse at dusk, no. ' || i, '{{}}', 'key-' || i,
        'archived', 'succeeded', 100, 1e9, 1e9, 1e9, 1e9 FROM old
    """,  # noqa: S608 - constants only
    f"""
    INSERT INTO deliveries (ref, source, verdict, received_at, digest, body)
    {_OLD} SELECT ref, 'callback', 'ended', 1e9, '{_DIGEST}', :body FROM old
    """,  # noqa: S608 - constants only
    f"""
    INSERT INTO assets (ref, idx, state, url, announced_at, expires_at, finished_at, key, sha256,
        size, content_type)
    {_OLD} SELECT ref, 0, 'archived', 'https://files.test/' || i, 1e9, 1e9, 1e9,
        '2026/01/01/' || i || '/0.png', '{_DIGEST}', 1000, 'image/png' FROM old
    """,  # noqa: S608 - constants only
    f"""
    INSERT INTO events (type, ref, idx, round, created_at, payload)
    {_OLD} SELECT 'asset.archived', ref, 0, 0, 1e9, '{{}}' FROM old
    UNION ALL SELECT 'job.archived', ref, -1, 0, 1e9, '{{}}' FROM old
    """,  # noqa: S608 - constants only
)
# Ends what a round left, before the next one begins.
TIDY = (
    """UPDATE assets SET state = 'failed', due_at = NULL, claim = NULL, finished_at = 1e9
    WHERE due_at IS NOT NULL""",
    """UPDATE jobs SET state = 'failed', reason = 'bad_asset', due_at = NULL, claim = NULL,
    finished_at = 1e9 WHERE due_at IS NOT NULL""",
)


def measure(folder: Path, sizes: tuple[int, ...], amount: Amount) -> list[Line]:
    """Measure on every database this machine has, at each of the sizes."""
    lines = _at_sizes(
        "SQLite",
        folder / "sqlite",
        sizes,
        amount,
        lambda name: f"sqlite:///{folder / name}.sqlite3",
    )
    if postgres_binaries() is None:
        sys.stderr.write("PostgreSQL is not installed: the ledger on it is left out\n")
        return lines
    with killable_postgres() as server:
        return lines + _at_sizes(
            "PostgreSQL", folder / "postgresql", sizes, amount, lambda _name: server.make_database()
        )


def _at_sizes(
    database: str, folder: Path, sizes: tuple[int, ...], amount: Amount, make: Callable[[str], str]
) -> list[Line]:
    lines = []
    with ExitStack() as stack:
        empty, full = (
            stack.enter_context(ledger(make(name), folder / name)) for name in ("empty", "full")
        )
        filled = 0
        for size in sizes:
            fill(full, filled, size)
            filled = size
            lines += _by_turns(f"{database}, {size:,} jobs", empty, full, amount)
    return lines


@contextmanager
def ledger(url: str, data: Path) -> Iterator[Services]:
    """Open the parts of a service on a ledger of its own."""
    schema.migrate(url)
    environ = {
        "DATA_DIR": str(data),
        "DATABASE_URL": url.replace("+psycopg", ""),
        "ADMIN_TOKEN": "0" * 32,
        "CALLBACK_SECRETS": "0" * 16,
        "ARCHIVE_URL": "s3://never-opened",
    }
    with closing(Services(Settings.load(environ)).open()) as services:
        yield services


def fill(services: Services, already: int, size: int) -> None:
    """Add jobs that are over until there are ``size`` of them."""
    for first in range(already + 1, size + 1, _PORTION):
        for statement in FILL:
            last = min(first + _PORTION - 1, size)
            values: dict[str, Any] = {"first": first, "last": last} | (
                {"body": b"x" * 350} if ":body" in statement else {}
            )
            services.database.write(partial(_execute, statement=statement, **values))
            # Otherwise PostgreSQL checks foreign keys with its plan for an empty table.
            services.database.write(partial(_execute, statement="ANALYZE"))


def _execute(connection: Connection, statement: str, **values: object) -> None:
    connection.execute(text(statement), values)


def _by_turns(name: str, empty: Services, full: Services, amount: Amount) -> list[Line]:
    seen: dict[Services, list[tuple[float, float]]] = {empty: [], full: []}
    for number, each in enumerate([50, *(amount.each for _ in amount)]):
        for services in (empty, full):
            found = rates(services, each)
            seen[services] += [found] if number else []  # the first round warms up
    acknowledged, claimed = (
        [[round_[place] for round_ in seen[which]] for which in (full, empty)] for place in (0, 1)
    )
    return [
        Line(f"{name}: callbacks stored", "1/s", *acknowledged),
        Line(f"{name}: assets claimed", "1/s", *claimed),
    ]


def rates(services: Services, each: int) -> tuple[float, float]:
    """Store these callbacks and claim their assets; return both rates per second."""
    refs = waiting_jobs(services, each)
    stored = _seconds(
        refs,
        lambda ref: services.inbox.accept(
            Delivery(ref, Source.CALLBACK, success(ref), services.now())
        ),
    )
    claimed: list[object] = []
    taken = _seconds(refs, lambda _ref: claimed.extend(services.assets.claim(1)))
    if len(claimed) != each:
        raise RuntimeError(f"{each} assets were due, {len(claimed)} were claimed")
    for statement in TIDY:
        services.database.write(partial(_execute, statement=statement))
    return each / stored, each / taken


def success(ref: str) -> bytes:
    """Return the report of a success, of some 350 bytes."""
    report = f'{{"id":"task-{ref}","status":"succeeded","progress":100,"results":[{{"url":"https://files.test/{ref}.png"}}],"error":"'
    return f'{report:x<340}"}}'.encode()


def _seconds(refs: list[str], work: Callable[[str], object]) -> float:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: None, range(THREADS)))
        started = time.perf_counter()
        list(pool.map(work, refs))
        return time.perf_counter() - started
