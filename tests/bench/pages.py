"""The dashboard's queries on a ledger of a million jobs: their times and SQLite's plans.

``python tests/bench/pages.py [--jobs N] [--ledger FILE] [--plans]`` makes the ledger if it is
missing (minutes), runs each query some times and prints the best and the worst time. A query that
reads a whole table shows as SCAN in its plan. With ``--walk`` it measures every page instead, as
``make bench BENCH_ARGS='--only pages'`` does.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from sqlalchemy import event

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from receiver.ledger import schema
from receiver.ledger.queries.events import EventQueries
from receiver.ledger.queries.job_list import JobListQueries, Wanted
from receiver.ledger.queries.model_stats import ModelQueries
from receiver.ledger.queries.pictures import PictureQueries
from receiver.ledger.queries.set_aside import SetAsideQueries
from receiver.ledger.queries.totals import Totals
from receiver.ledger.sqlite import SqliteDatabase
from receiver.model import JobState
from tests.bench import walk
from tests.bench.big_ledger import Shape, make, shape_of

TIMES = 5


def questions(database: SqliteDatabase, shape: Shape) -> dict[str, Callable[[], object]]:
    """Return what the pages ask."""
    job_list, pictures, totals = (
        JobListQueries(database),
        PictureQueries(database),
        Totals(database),
    )
    compare = ModelQueries(database)
    jobs, began = shape.jobs, shape.began
    middle, now = shape.ref(jobs // 2), shape.moment(jobs)
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
        "the second day": lambda: job_list.page(
            Wanted(since=began + 86400, until=began + 2 * 86400)
        ),
        "a ref": lambda: job_list.page(Wanted(text=middle)),
        "a provider's id": lambda: job_list.page(Wanted(text=f"task-{jobs // 3:08d}")),
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
    parser.add_argument("--walk", action="store_true", help="ask for every page instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.ledger or Path(folder) / "ledger.sqlite3"
        if not path.exists():
            began = time.perf_counter()
            make(path, Shape.until_now(given.jobs))
            click.echo(
                f"{given.jobs:,} jobs, {path.stat().st_size / 1e9:.1f} GB,"
                f" made in {time.perf_counter() - began:.0f} s"
            )
        schema.migrate(f"sqlite:///{path}")
        if given.walk:
            Console(width=130).print(*walk.measure_ledger(shape_of(path), path.parent))
            return
        with closing(SqliteDatabase(path)) as database:
            for name, ask in questions(database, shape_of(path)).items():
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
