"""How both databases find rows: by an index, never by reading a whole large table."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import pytest
from ledgers import NOW, TIMING, LedgerHarness
from sqlalchemy import Connection, Inspector, event, insert, inspect, update

from receiver.errors import EventPostponedError
from receiver.ledger import claims, liveness, webhooks
from receiver.ledger.assets import Assets, count_pending
from receiver.ledger.database import Work
from receiver.ledger.deliveries import had_empty_success
from receiver.ledger.fair_claims import FairClaims
from receiver.ledger.group_commit import Batch
from receiver.ledger.jobs import Jobs, find_job, find_job_by_key, find_job_by_provider_id
from receiver.ledger.outbox import Outbox
from receiver.ledger.quarantine import KeptFile, QuarantineRecords
from receiver.ledger.queries.backlog import BacklogQueries
from receiver.ledger.queries.events import EventQueries
from receiver.ledger.queries.job_list import JobListQueries, Wanted
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.queries.signers import Signers
from receiver.ledger.tables import (
    assets,
    deliveries,
    destinations,
    events,
    jobs,
    metadata,
    sendings,
)
from receiver.model import EventType, JobState

pytestmark = pytest.mark.both_databases
T = TypeVar("T")
Item = TypeVar("Item")


MANY = 3000


@pytest.fixture
def large_ledger(ledger: LedgerHarness) -> LedgerHarness:
    """Fill a ledger: 3,000 final jobs with a delivery and an asset each, and 20 unfinished jobs."""
    texts = dict.fromkeys(("base_url", "model", "prompt"), "")
    job = {
        **texts,
        "provider": "grsai",
        "api": "draw",
        "mode": "poll",
        "params": "{}",
        "submitted_at": NOW,
        "deadline_at": NOW,
    }
    over = {"state": "archived", "finished_at": NOW, "outcome": "succeeded", "due_at": None}
    asset = {
        "idx": 0,
        "url": "",
        "announced_at": NOW,
        "expires_at": NOW,
        "state": "failed",
        "finished_at": NOW,
        "due_at": None,
    }
    delivery = {"source": "poll", "verdict": "ended", "received_at": NOW, "digest": "", "body": b""}
    event = {"type": "job.archived", "idx": -1, "round": 0, "created_at": NOW, "payload": "{}"}
    sending = {"destination": "log:", "state": "sent", "since": NOW, "finished_at": NOW}
    refs = [f"{number:026}" for number in range(MANY)]

    def fill(connection: Connection) -> None:
        connection.execute(
            insert(jobs),
            [{**job, **over, "ref": ref, "provider_id": f"task-{ref}", "key": ref} for ref in refs],
        )
        connection.execute(insert(assets), [{**asset, "ref": ref} for ref in refs])
        connection.execute(insert(deliveries), [{**delivery, "ref": ref} for ref in refs])
        connection.execute(insert(destinations).values(name="log:", cursor=0))
        connection.execute(
            insert(events),
            [{**event, "id": number + 1, "ref": ref} for number, ref in enumerate(refs)],
        )
        connection.execute(
            insert(sendings),
            [{**sending, "event": number + 1, "ref": ref} for number, ref in enumerate(refs)],
        )
        connection.execute(update(destinations).values(cursor=MANY))

    ledger.database.write(fill)
    for number in range(20):
        ledger.archiving(1, f"task-{number}")
    ledger.execute("ANALYZE")
    return ledger


STATEMENTS: dict[str, Callable[[Connection], object]] = {
    "claim assets": lambda connection: Assets(OneConnection(connection), lambda: NOW).claim(2),
    "claim jobs": lambda connection: jobs_at(connection, NOW + 1e6).claim(2, complete=False),
    "claim complete jobs": lambda connection: jobs_at(connection, NOW + 1e6).claim(
        2, complete=True
    ),
    "next asset": lambda connection: claims.next_due(connection, assets),
    "next job": lambda connection: claims.next_due(connection, jobs),
    "oldest due": lambda connection: claims.oldest_due(connection, NOW),
    "job": lambda connection: find_job(connection, "1", locked=True),
    "provider's id": lambda connection: find_job_by_provider_id(connection, "grsai", "task-1"),
    "caller's key": lambda connection: find_job_by_key(connection, "1"),
    "a job's assets": lambda connection: JobQueries(OneConnection(connection)).assets(["1"]),
    "a job's pending assets": lambda connection: count_pending(connection, "1"),
    "a job's empty deliveries": lambda connection: had_empty_success(connection, "1"),
    "page of a rare state": lambda connection: JobQueries(OneConnection(connection)).jobs(
        state=JobState.ARCHIVING
    ),
    "page of a common state": lambda connection: JobQueries(OneConnection(connection)).jobs(
        state=JobState.ARCHIVED, after=f"{2000:026}"
    ),
    "page of all": lambda connection: JobQueries(OneConnection(connection)).jobs(),
    "page of a folder": lambda connection: JobListQueries(OneConnection(connection)).page(
        Wanted(folder="shop"), f"{2000:026}"
    ),
    "page of a batch": lambda connection: JobListQueries(OneConnection(connection)).page(
        Wanted(batch="b")
    ),
    "events of a dead host are postponed": lambda connection: webhooks.postpone_others(
        connection, EventPostponedError(NOW, "https://a.test/", away=True), 0.0
    ),
    "what waits": lambda connection: BacklogQueries(
        OneConnection(connection), 7200, lambda: NOW
    ).measure(),
    "next event to deliver": lambda connection: Outbox(
        OneConnection(connection), lambda: NOW
    ).next_due("log:"),
    "claim and deliver events": lambda connection: deliver_events(
        Outbox(OneConnection(connection), lambda: NOW)
    ),
    "events set aside": lambda connection: EventQueries(OneConnection(connection)).set_aside(),
    "destinations of events": lambda connection: look_at_destinations(
        EventQueries(OneConnection(connection))
    ),
    "what waits is sent now": lambda connection: Outbox(
        OneConnection(connection), lambda: NOW
    ).expedite("log:"),
    "events that follow": lambda connection: EventQueries(OneConnection(connection)).following(
        MANY - 10
    ),
    "the quarantine": lambda connection: look_at(QuarantineRecords(OneConnection(connection))),
    "who signed unfinished jobs": lambda connection: Signers(
        OneConnection(connection)
    ).unfinished(),
    "events delivered long ago": lambda connection: Outbox(
        OneConnection(connection), lambda: NOW
    ).prune(),
}


def jobs_at(connection: Connection, now: float) -> Jobs:
    return Jobs(OneConnection(connection), TIMING, lambda: now)


def deliver_events(outbox: Outbox) -> None:
    """Queue and deliver events."""
    for claimed in outbox.claim("log:", list(EventType), 2):
        outbox.mark_sent(claimed)


def look_at_destinations(queries: EventQueries) -> None:
    """Ask what the page of the events asks."""
    queries.destinations()
    queries.failing(["log:"])
    queries.count_failing(["log:"], 99)


def look_at(quarantine: QuarantineRecords) -> list[str]:
    """Ask what a worker asks when it makes room for a file, and what a page asks."""
    quarantine.total()
    quarantine.waiting(10)
    for of_job in (True, False):
        quarantine.total_beside("1", 0, of_job=of_job)
        quarantine.oldest_beside("1", 0, 10, of_job=of_job)
    quarantine.forget(KeptFile("1", 0, "a" * 64, 1))
    return []


ON_POSTGRESQL: dict[str, Callable[[Connection], object]] = {
    "dead workers": lambda connection: connection.exec_driver_sql(
        liveness.MISSING, {"now": NOW, "until": NOW + 120, "locks": liveness.LOCKS}
    ).all(),
}


def test_no_frequent_statement_reads_a_whole_table(
    large_ledger: LedgerHarness, ledger_url: str
) -> None:
    statements = STATEMENTS | (ON_POSTGRESQL if ledger_url.startswith("postgresql") else {})
    plans = {
        name: large_ledger.database.write(partial(plans_of, work=work))
        for name, work in statements.items()
    }
    assert all(plans.values())
    assert {name: plan for name, plan in plans.items() if any(map(reads_a_whole_table, plan))} == {}


def test_suspects_are_found_by_their_crashes_however_much_is_due(
    large_ledger: LedgerHarness,
) -> None:
    due = {"due_at": NOW, "finished_at": None}
    large_ledger.database.write(
        lambda connection: connection.execute(update(assets).values({**due, "state": "pending"}))
    )
    large_ledger.database.write(
        lambda connection: connection.execute(update(jobs).values({**due, "state": "archiving"}))
    )
    large_ledger.execute("ANALYZE")
    for name, work in {
        "ix_assets_crashed": lambda connection: Assets(
            OneConnection(connection), lambda: NOW
        ).claim(2, suspects=True),
        "ix_jobs_crashed": lambda connection: jobs_at(connection, NOW + 1e6).claim_suspects(2),
    }.items():
        (plan,) = large_ledger.database.write(partial(plans_of, work=work))
        assert name in plan


def test_deliveries_are_found_by_the_number_of_their_attempts(large_ledger: LedgerHarness) -> None:
    plans = large_ledger.database.write(
        partial(
            plans_of,
            work=lambda connection: Outbox(OneConnection(connection), lambda: NOW).claim(
                "log:", list(EventType), 2
            ),
        )
    )
    for index in ("ix_sendings_untried", "ix_sendings_few", "ix_sendings_several"):
        assert any(index in plan for plan in plans)


def test_a_claim_passes_by_assets_that_were_tried_often_without_reading_their_rows(
    large_ledger: LedgerHarness,
) -> None:
    waiting = {"due_at": NOW, "finished_at": None, "state": "pending", "attempts": 3}
    large_ledger.database.write(
        lambda connection: connection.execute(update(assets).values(waiting))
    )
    large_ledger.execute("ANALYZE")
    plans = large_ledger.database.write(
        partial(
            plans_of,
            work=lambda connection: FairClaims(OneConnection(connection), lambda: NOW).claim(
                2, retries=2, avoided=[]
            ),
        )
    )
    assert len(plans) == 2, "few attempts, then any"
    for plan in plans:
        assert "ix_assets_deadline" in plan
        if "Index Cond" in plan:  # SQLite does not say what it takes from the index
            (condition,) = re.findall("Index Cond: (.*attempts.*)", plan)
            assert "due_at" in condition


def test_every_foreign_key_is_looked_up_by_an_index(ledger: LedgerHarness) -> None:
    # When a row is deleted, the database searches for rows that refer to it; no plan shows that.
    def unindexed(connection: Connection) -> list[str]:
        seen = inspect(connection)
        return [
            f"{table}.{columns}"
            for table in metadata.tables
            for columns in (key["constrained_columns"] for key in seen.get_foreign_keys(table))
            if not any(index[: len(columns)] == columns for index in whole_indexes(seen, table))
        ]

    assert ledger.database.read(unindexed) == []


def whole_indexes(seen: Inspector, table: str) -> list[Sequence[str | None]]:
    """Return the columns of each index of a table that has all its rows."""
    conditions = {"sqlite_where", "postgresql_where"}
    indexes = [
        index["column_names"]
        for index in seen.get_indexes(table)
        if not conditions & set(index.get("dialect_options", {}))
    ]
    unique = [constraint["column_names"] for constraint in seen.get_unique_constraints(table)]
    return [*indexes, *unique, list(seen.get_pk_constraint(table)["constrained_columns"])]


class OneConnection:
    """A database that is one open connection, so that the plans of a report can be seen."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, work: Work[T]) -> T:
        return work(self._connection)

    write = read

    def write_item(self, batch: Batch[Item, T], item: Item) -> T:
        return batch.one(self._connection, item)

    def close(self) -> None: ...


def plans_of(connection: Connection, work: Callable[[Connection], object]) -> list[str]:
    """Return the plan of each statement of ``work``."""
    executed: list[tuple[str, Any]] = []

    def record(
        _connection: object, _cursor: object, statement: str, values: Any, *_: object
    ) -> None:
        executed.append((statement, values))

    event.listen(connection, "before_cursor_execute", record)
    work(connection)
    event.remove(connection, "before_cursor_execute", record)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return [
        "\n".join(
            str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", values)
        )
        for statement, values in executed
    ]


def reads_a_whole_table(plan: str) -> bool:
    """Return whether a plan reads a whole large table ("Seq Scan", or SQLite without an index)."""
    tables = ("jobs", "assets", "deliveries", "sendings")
    lines = [line.strip() for line in plan.splitlines()]
    sequential = any(f"Seq Scan on {table}" in line for table in tables for line in lines)
    without_index = any(
        line in {f"SCAN {table}", f"SEARCH {table}"} for table in tables for line in lines
    )
    return sequential or without_index
