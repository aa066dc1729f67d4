"""The dashboard's queries on a ledger of a million jobs: their times and SQLite's plans.

``python tests/bench/pages.py [--jobs N] [--ledger FILE] [--plans]`` makes the ledger if it is
missing (a minute or two), runs each query some times and prints the best and the worst time. A
query that reads a whole table shows as SCAN in its plan.
"""

import argparse
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click
from sqlalchemy import event
from ulid import ULID

from receiver.ledger import schema
from receiver.ledger.queries.events import EventQueries
from receiver.ledger.queries.job_list import JobListQueries, Wanted
from receiver.ledger.queries.model_stats import ModelQueries
from receiver.ledger.queries.pictures import PictureQueries
from receiver.ledger.queries.set_aside import SetAsideQueries
from receiver.ledger.queries.totals import Totals
from receiver.ledger.sqlite import SqliteDatabase
from receiver.ledger.text_index import index_jobs
from receiver.model import JobState

BEGAN = 1_700_000_000.0
APART = 2.5  # seconds between jobs
MODELS = ("gpt-image-1.5", "nano-banana", "nano-banana-pro", "sora-image", "gpt-image-2")
WORDS = (
    "fox",
    "owl",
    "lighthouse",
    "snow",
    "city",
    "circuit",
    "glass",
    "violin",
    "tram",
    "rain",
    "desert",
    "train",
    "fog",
    "reef",
    "crane",
)
TIMES = 5


def ref_of(number: int) -> str:
    """Return the ref of the job of this number."""
    moment = BEGAN + number * APART
    return str(ULID.from_bytes(int(moment * 1000).to_bytes(6, "big") + number.to_bytes(10, "big")))


def state_of(number: int, jobs: int) -> str:
    """Return the state of a job: the newest are open, 10 % failed, 0.1 % expired."""
    if number >= jobs - 200:
        return "archiving"
    if number % 1000 == 0:
        return "expired"
    return "failed" if number % 10 == 0 else "archived"


def rows(
    jobs: int,
) -> Iterator[
    tuple[tuple[Any, ...], list[tuple[Any, ...]], list[tuple[Any, ...]], list[tuple[Any, ...]]]
]:
    """Give each job with its assets, deliveries and events."""
    dice = random.Random(7)  # noqa: S311 - a figure, no secret
    for number in range(jobs):
        ref, state, at = ref_of(number), state_of(number, jobs), BEGAN + number * APART
        prompt = " ".join(dice.choices(WORDS, k=30)) + (" 雪地里的狐狸" if number == 7 else "")
        over = state != "archiving"
        end = at + 40 if over else None
        reason = "output_moderation" if state == "failed" else None
        outcome = {"failed": "failed", "expired": None}.get(state, "succeeded")
        job = (
            ref,
            f"task-{number}",
            MODELS[number % 5 if number % 97 else 4],
            prompt,
            state,
            outcome,
            reason,
            at,
            at + 3600,
            end,
            at + 60,
        )
        body = json.dumps(
            {
                "id": f"task-{number}",
                "status": outcome,
                "progress": 100,
                "results": [{"url": "https://files.test/0.png"}],
            }
        ).encode()
        deliveries = [
            (ref, "callback", "ended", at + 30, "0" * 64, body),
            (ref, "callback", "duplicate", at + 31, "0" * 64, body),
        ]
        assets, events = [], []
        if state in ("archived", "archiving"):
            key = f"2026/01/01/{ref}/0.png" if over else None
            sha = f"{number:064x}" if over else None
            kind = "archived" if over else "pending"
            assets = [
                (
                    ref,
                    0,
                    kind,
                    "https://files.test/0.png",
                    at + 30,
                    at + 7230,
                    None if over else at + 30,
                    key,
                    sha,
                    over and 900_000,
                    end,
                )
            ]
            events = [("asset.archived", ref, 0, at + 35)] if over else []
        if over:
            events.append((f"job.{state}", ref, -1, at + 40))
        yield job, assets, deliveries[: 1 + number % 2], events


def make(path: Path, jobs: int) -> None:
    """Write the ledger with direct SQL: with the service's own code it would take an hour."""
    schema.migrate(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        job_columns = (
            "ref, provider_id, model, prompt, state, outcome, reason,"
            " submitted_at, deadline_at, finished_at, due_at"
        )
        batch: list[Any] = []
        for row in rows(jobs):
            batch.append(row)
            if len(batch) == 20_000:
                write(connection, batch, job_columns)
                batch = []
        write(connection, batch, job_columns)
        connection.commit()
    with closing(SqliteDatabase(path)) as database:
        for first in range(0, jobs, 1000):
            refs = [ref_of(number) for number in range(first, min(first + 1000, jobs))]
            database.write(partial(index_jobs, refs=refs))


def write(connection: sqlite3.Connection, batch: list[Any], job_columns: str) -> None:
    """Insert some jobs with what belongs to them."""
    constant = "'grsai', 'https://provider.test', 'draw', 'webhook', '{}'"
    connection.executemany(
        f"INSERT INTO jobs ({job_columns}, provider, base_url, api, mode, params) "  # noqa: S608 - constants
        f"VALUES (?,?,?,?,?,?,?,?,?,?,CASE WHEN ?10 IS NULL THEN ?11 END, {constant})",
        (job for job, _, _, _ in batch),
    )
    connection.executemany(
        "INSERT INTO assets (ref, idx, state, url, announced_at, expires_at, due_at, key, sha256, "
        "size, finished_at, content_type) VALUES (?,?,?,?,?,?,?,?,?,?,?,'image/png')",
        (asset for _, assets, _, _ in batch for asset in assets),
    )
    connection.executemany(
        "INSERT INTO deliveries (ref, source, verdict, received_at, digest, body) "
        "VALUES (?,?,?,?,?,?)",
        (delivery for _, _, deliveries, _ in batch for delivery in deliveries),
    )
    connection.executemany(
        "INSERT INTO events (type, ref, idx, created_at, round, payload) VALUES (?,?,?,?,0,'{}')",
        (happened for _, _, _, events in batch for happened in events),
    )


def questions(database: SqliteDatabase, jobs: int) -> dict[str, Callable[[], object]]:
    """Return what the pages ask."""
    job_list, pictures, totals = (
        JobListQueries(database),
        PictureQueries(database),
        Totals(database),
    )
    compare = ModelQueries(database)
    middle, now = ref_of(jobs // 2), BEGAN + jobs * APART
    return {
        "newest page": lambda: job_list.page(Wanted()),
        "a page in the middle": lambda: job_list.page(Wanted(), after=middle),
        "state=failed": lambda: job_list.page(Wanted(state=JobState.FAILED)),
        "state=expired, in the middle": lambda: job_list.page(
            Wanted(state=JobState.EXPIRED), after=middle
        ),
        "state=waiting: there is none": lambda: job_list.page(Wanted(state=JobState.WAITING)),
        "model": lambda: job_list.page(Wanted(model="nano-banana")),
        "model and state": lambda: job_list.page(Wanted(model="sora-image", state=JobState.FAILED)),
        "a day a year ago": lambda: job_list.page(
            Wanted(since=BEGAN + 86400, until=BEGAN + 2 * 86400)
        ),
        "a ref": lambda: job_list.page(Wanted(text=middle)),
        "a provider's id": lambda: job_list.page(Wanted(text=f"task-{jobs // 3}")),
        "a common word": lambda: job_list.page(Wanted(text="lighthouse")),
        "a word with a model": lambda: job_list.page(Wanted(text="lighthouse", model="sora-image")),
        "two words and a failure": lambda: job_list.page(
            Wanted(text="light violin", state=JobState.FAILED)
        ),
        "one hit among all": lambda: job_list.page(Wanted(text="狐狸")),
        "one hit, count": lambda: job_list.count(Wanted(text="狐狸")),
        "a word that no prompt has, one window": lambda: job_list.page(Wanted(text="xylophone")),
        "the same among the failed": lambda: job_list.page(
            Wanted(text="xylophone", state=JobState.FAILED)
        ),
        "count of what failed (bounded)": lambda: job_list.count(Wanted(state=JobState.FAILED)),
        "models": job_list.models,
        "gallery": lambda: job_list.page(Wanted(pictures=True), limit=36),
        "gallery, in the middle": lambda: job_list.page(Wanted(pictures=True), middle, 36),
        "the picture before": lambda: job_list.newer(Wanted(pictures=True), middle),
        "in danger": lambda: pictures.endangered(now + 1800),
        "set aside": SetAsideQueries(database).count,
        "a job's events": lambda: EventQueries(database).of_job(middle),
        "comparison of the newest 10,000": lambda: compare.since(0),
        "counts of the strip": totals.counts,
        "audit": totals.audit,
    }


def main() -> None:
    """Make the ledger, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--plans", action="store_true", help="show SQLite's plan of each statement")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.ledger or Path(folder) / "ledger.sqlite3"
        if not path.exists():
            began = time.perf_counter()
            make(path, given.jobs)
            click.echo(
                f"{given.jobs:,} jobs, {path.stat().st_size / 1e9:.1f} GB,"
                f" made in {time.perf_counter() - began:.0f} s"
            )
        with closing(SqliteDatabase(path)) as database:
            for name, ask in questions(database, given.jobs).items():
                measure(name, ask, database if given.plans else None)


def measure(name: str, ask: Callable[[], object], planned: SqliteDatabase | None) -> None:
    """Ask a question some times and print how long it took; once more for its plans."""
    spans = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        spans.append(1000 * (time.perf_counter() - began))
    click.echo(f"{name:<36} {min(spans):9.1f} ms  {max(spans):9.1f} ms")
    if planned is not None:
        for line in plans(planned, ask):
            click.echo(f"      {line}")


def plans(database: SqliteDatabase, ask: Callable[[], object]) -> list[str]:
    """Return SQLite's plan of every statement a question runs."""
    found: list[str] = []

    def explain(
        connection: Any,
        _cursor: object,
        statement: str,
        values: Any,
        _context: object,
        _many: object,
    ) -> None:
        if statement.startswith(("SELECT", "WITH")):
            plan = connection.connection.driver_connection.execute(
                f"EXPLAIN QUERY PLAN {statement}", values
            )
            found.extend(row[3] for row in plan)

    event.listen(database._reader, "before_cursor_execute", explain)
    try:
        ask()
    finally:
        event.remove(database._reader, "before_cursor_execute", explain)
    return found


if __name__ == "__main__":
    main()
