"""Measure: the statements, round trips and log bytes of one callback and one asset.

Round trips are statements, and on PostgreSQL also a pooled connection's ping, BEGIN and COMMIT.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postgres import killable_postgres, postgres_binaries
from rich.table import Table
from sqlalchemy import event, text

from receiver.ledger.rows import StoredAsset
from receiver.model import Delivery, JobState, Source
from receiver.services import Services
from tests.bench.growth import fill, ledger, success
from tests.bench.jobs import waiting_jobs

TIMES = 200


@dataclass(frozen=True, slots=True)
class Cost:
    """What one piece of work costs on average."""

    statements: float
    transactions: float
    log_bytes: float


def measure(folder: Path) -> Table:
    """Return a table: the costs of each step on each database, and the bytes a job leaves."""
    shown = Table(
        title=f"What one job costs the ledger, counted over {TIMES}", title_justify="left"
    )
    for name in (
        "step",
        "SQLite: statements",
        "log bytes",
        "PostgreSQL: statements",
        "transactions",
        "log bytes",
    ):
        shown.add_column(name, justify="left" if name == "step" else "right")
    with ledger(f"sqlite:///{folder / 'costs.sqlite3'}", folder / "sqlite") as services:
        services.database.write(
            lambda connection: connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0").all()
        )
        sqlite = _steps(services, lambda: _sqlite_log(folder / "costs.sqlite3"))
        sqlite_size = _growth(services, lambda: (folder / "costs.sqlite3").stat().st_size)
    postgresql, size = {}, 0.0
    if postgres_binaries() is not None:
        with (
            killable_postgres() as server,
            ledger(server.make_database(), folder / "postgresql") as services,
        ):
            postgresql = _steps(
                services,
                lambda: _asked(services, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"),
            )
            size = _growth(
                services, lambda: _asked(services, "SELECT pg_database_size(current_database())")
            )
    for step, cost in sqlite.items():
        there = postgresql.get(step, Cost(0, 0, 0))
        cells = (
            f"{cost.statements:.1f}",
            f"{cost.log_bytes:,.0f}",
            f"{there.statements:.1f}",
            f"{there.transactions:.1f}",
        )
        shown.add_row(step, *cells, f"{there.log_bytes:,.0f}")
    shown.add_row(
        "bytes of tables and indexes a job leaves",
        "",
        f"{sqlite_size:,.0f}",
        "",
        "",
        f"{size:,.0f}",
    )
    return shown


def _steps(services: Services, log_size: Callable[[], float]) -> dict[str, Cost]:
    refs = waiting_jobs(services, TIMES + 1)
    steps: dict[str, Callable[[str], object]] = {
        "callback: progress": lambda ref: _deliver(
            services, ref, b'{"id":"task-%s","status":"running","progress":50}' % ref.encode()
        ),
        "callback: success with one picture": lambda ref: _deliver(services, ref, success(ref)),
        "callback: the same again": lambda ref: _deliver(services, ref, success(ref)),
        "asset: claim": lambda _ref: claimed.extend(services.assets.claim(1)),
        "asset: archived, the last of its job": lambda _ref: services.assets.finish(
            one := claimed.pop(), _stored(one.row.ref)
        ),
        "job: claim": lambda _ref: complete.extend(services.jobs.claim(1, complete=True)),
        "job: concluded": lambda _ref: services.jobs.conclude(complete.pop(), JobState.ARCHIVED),
    }
    claimed: list[Any] = []
    complete: list[Any] = []
    return {name: _cost(services, step, refs, log_size) for name, step in steps.items()}


def _deliver(services: Services, ref: str, body: bytes) -> None:
    services.inbox.accept(Delivery(ref, Source.CALLBACK, body, services.now()))


def _stored(ref: str) -> StoredAsset:
    return StoredAsset(f"2026/01/01/{ref}/0.png", "0" * 64, 1000, "image/png", 1024, 1024)


def _cost(
    services: Services,
    step: Callable[[str], object],
    refs: list[str],
    log_size: Callable[[], float],
) -> Cost:
    step(refs[0])  # connections are open and statements built
    seen: list[str] = []
    before = log_size()
    with _statements(services, seen.append):
        for ref in refs[1:]:
            step(ref)
    times, transactions = len(refs) - 1, sum(one.startswith("BEGIN") for one in seen)
    work = sum(not one.startswith(("BEGIN", "SAVEPOINT", "RELEASE", "COMMIT")) for one in seen)
    return Cost(work / times, transactions / times, (log_size() - before) / times)


@contextmanager
def _statements(services: Services, see: Callable[[str], None]) -> Iterator[None]:
    """Call ``see`` with every statement that the ledger's writer runs in the block."""
    database: Any = services.database
    if services.settings.embedded:

        def trace(receiver: Callable[[str], None] | None) -> None:
            database.write(
                lambda connection: connection.connection.dbapi_connection.set_trace_callback(
                    receiver
                )
            )

        trace(see)
        yield
        trace(None)
        return

    def statement(_connection: object, _cursor: object, said: str, *_: object) -> None:
        see(said)

    def begin(_connection: object) -> None:
        see("BEGIN")

    event.listen(database._engine, "before_cursor_execute", statement)
    event.listen(database._engine, "begin", begin)
    yield
    event.remove(database._engine, "before_cursor_execute", statement)
    event.remove(database._engine, "begin", begin)


def _growth(services: Services, size: Callable[[], float], jobs: int = 20_000) -> float:
    before = size()
    fill(services, 0, jobs)
    if services.settings.embedded:
        services.database.read(
            lambda connection: connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).all()
        )
    return (size() - before) / jobs


def _asked(services: Services, query: str) -> float:
    return float(
        services.database.read(lambda connection: connection.execute(text(query)).scalar_one())
    )


def _sqlite_log(path: Path) -> float:
    """Return how long SQLite's log is; it must not be folded back meanwhile."""
    return float(path.with_name(path.name + "-wal").stat().st_size)
