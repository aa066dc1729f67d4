"""The dashboard's queries on a ledger of a million jobs: their times and the database's plans.

``python tests/bench/pages.py [--jobs N] [--ledger FILE] [--postgresql] [--plans]`` makes the ledger
if it is missing (minutes), runs each query some times and prints the best and the worst time. A
query that reads a whole table shows as SCAN in SQLite's plan, as Seq Scan in PostgreSQL's. With
``--walk`` it measures every page instead, as ``make bench BENCH_ARGS='--only pages'`` does.
``--postgresql`` makes the ledger in a temporary server.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from sqlalchemy import Engine, event

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from receiver.ledger import schema
from receiver.ledger.database import Database, open_database
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


def queries(database: Database, shape: Shape) -> dict[str, Callable[[], object]]:
    """Return the queries of the pages."""
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
    """Make the ledger, run the queries, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--ledger", type=Path, help="of SQLite; made if it is missing")
    parser.add_argument("--postgresql", action="store_true", help="a new ledger in PostgreSQL")
    parser.add_argument("--plans", action="store_true", help="show the plan of each statement")
    parser.add_argument("--walk", action="store_true", help="ask for every page instead")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if given.postgresql:
            url = stack.enter_context(walk.server()).make_database()
        else:
            url = f"sqlite:///{given.ledger or folder / 'ledger.sqlite3'}"
        shape = made(url, given.jobs)
        if given.walk:
            Console(width=140).print(*walk.measure_ledger(url, shape, folder))
            return
        database = stack.enter_context(closing(open_database(url)))
        for name, ask in queries(database, shape).items():
            measure(name, ask, database if given.plans else None)


def made(url: str, jobs: int) -> Shape:
    """Make a ledger if it is missing, else migrate it; return its shape."""
    path = Path(url.removeprefix("sqlite:///"))
    if path.exists():
        schema.migrate(url)
        return shape_of(path)
    began = time.perf_counter()
    make(url, shape := Shape.until_now(jobs))
    click.echo(f"{jobs:,} jobs, made in {time.perf_counter() - began:.0f} s")
    return shape


def measure(name: str, ask: Callable[[], object], planned: Database | None) -> None:
    """Ask a query some times and print how long it took; once more for its plans."""
    spans = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        spans.append(1000 * (time.perf_counter() - began))
    click.echo(f"{name:<36} {min(spans):9.1f} ms  {max(spans):9.1f} ms")
    if planned is not None:
        for line in plans(planned, ask):
            click.echo(f"      {line}")


def plans(planned: Database, ask: Callable[[], object]) -> list[str]:
    """Return the database's plan of every statement a query runs."""
    found: list[str] = []
    explain, column = (
        ("EXPLAIN QUERY PLAN", 3) if isinstance(planned, SqliteDatabase) else ("EXPLAIN ANALYZE", 0)
    )

    def note(
        connection: Any,
        _cursor: object,
        statement: str,
        values: Any,
        _context: object,
        _many: object,
    ) -> None:
        if statement.startswith(("SELECT", "WITH")):
            plan = connection.connection.driver_connection.execute(f"{explain} {statement}", values)
            found.extend(row[column] for row in plan)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return found


if __name__ == "__main__":
    main()
