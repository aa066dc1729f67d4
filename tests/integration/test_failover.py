"""Outages of PostgreSQL: a restart, or connections cut at any moment, cost retries only."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from engine_harness import OFTEN, DistributedHarness, at_work
from ledgers import NOW, TIMING, LedgerHarness, opened, succeeded, urls
from postgres import KillablePostgres, PostgresServer, killable_postgres
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from waiting import LIMIT, until

from receiver import failpoints
from receiver.errors import LedgerError
from receiver.ledger import deliveries, schema
from receiver.ledger.adoption import adopt_job
from receiver.ledger.claims import LEASE
from receiver.ledger.jobs import lock_job
from receiver.ledger.postgres import PostgresDatabase, conninfo, postgres_address
from receiver.model import Delivery, Source

CUT_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
CUT_ONE = CUT_ALL + " AND random() < 0.3"


def cut(url: str, statement: str = CUT_ALL) -> None:
    """Cut connections to a ledger."""
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def cut_at_random(url: str) -> Iterator[None]:
    """Cut some connections to a ledger again and again, until the block ends."""
    over = threading.Event()

    def cut_connections() -> None:
        while not over.wait(random.uniform(0.01, 0.1)):  # noqa: S311 - no secret
            cut(url, CUT_ONE)

    cutter = threading.Thread(target=cut_connections)
    cutter.start()
    try:
        yield
    finally:
        over.set()
        cutter.join()


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[LedgerHarness]:
    """Open a ledger on PostgreSQL."""
    with opened(postgres_url) as ledger:
        yield ledger


@pytest.fixture
def killable() -> Iterator[KillablePostgres]:
    """Run a server of the test's own."""
    with killable_postgres() as server:
        yield server


# Connections.


def test_a_connection_that_was_cut_while_idle_costs_nothing(
    ledger: LedgerHarness, postgres_url: str
) -> None:
    ref = ledger.waiting()
    cut(postgres_url)
    ledger.deliver(ref, succeeded())
    assert ledger.pending(ref) == [0]


def test_a_transaction_cut_before_its_commit_is_repeated_and_done_once(
    ledger: LedgerHarness, postgres_url: str
) -> None:
    cuts = [CUT_ALL, CUT_ALL]

    def work(connection: Connection) -> None:
        connection.execute(text("SELECT 1"))
        if cuts:
            cut(postgres_url, cuts.pop())
        adopt_job(connection, "01MCC5RM003YF4VNJP7C213RC6", "https://provider.test", TIMING, NOW)

    ledger.database.write(work)
    assert len(ledger.queries.jobs()) == 1


@pytest.mark.parametrize("before", ["lock_jobs", "begin_archiving", "insert_deliveries"])
def test_a_group_of_callbacks_cut_before_its_commit_is_repeated_and_done_once(
    ledger: LedgerHarness, postgres_url: str, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    ref, statement, cuts = ledger.waiting(), getattr(deliveries, before), [CUT_ALL]

    def cut_first(connection: Connection, *values: object) -> object:
        connection.exec_driver_sql("SELECT 1")
        if cuts:
            cut(postgres_url, cuts.pop())
        return statement(connection, *values)

    monkeypatch.setattr(deliveries, before, cut_first)
    assert ledger.deliver(ref, succeeded()) == "ended"
    assert (ledger.verdicts(ref), ledger.pending(ref), cuts) == (["ended"], [0], [])


def test_a_transaction_that_is_cut_again_and_again_is_a_ledger_error(
    ledger: LedgerHarness, postgres_url: str
) -> None:
    attempts = []

    def work(connection: Connection) -> None:
        attempts.append(1)
        connection.execute(text("SELECT 1"))
        cut(postgres_url)
        connection.execute(text("SELECT 1"))

    with pytest.raises(LedgerError):
        ledger.database.write(work)
    assert len(attempts) == 3


def test_a_commit_whose_answer_was_lost_is_not_repeated(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def lose_the_answer(_point: object) -> None:
        attempts.append(1)
        raise OperationalError(
            "COMMIT",
            {},
            psycopg.OperationalError("the answer was lost"),
            connection_invalidated=True,
        )

    monkeypatch.setattr(failpoints, "reached", lose_the_answer)
    with pytest.raises(LedgerError):
        ledger.database.write(lambda connection: connection.execute(text("SELECT 1")).scalar())
    assert len(attempts) == 1


def test_two_transactions_that_wait_for_each_other_are_both_committed(
    ledger: LedgerHarness,
) -> None:
    refs = [ledger.waiting("task-1"), ledger.waiting("task-2")]
    both_inside = threading.Barrier(2)
    entered = threading.local()

    def cross(first: str, second: str) -> None:
        def work(connection: Connection) -> None:
            adopt_job(connection, first, "", TIMING, NOW)
            if not getattr(entered, "before", False):
                entered.before = True
                both_inside.wait(10)
            adopt_job(connection, second, "", TIMING, NOW)

        ledger.database.write(work)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(cross, *refs), pool.submit(cross, *reversed(refs))]:
            done.result(30)


# Time limits.


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("TABLE deliveries RENAME TO elsewhere", "TABLE elsewhere RENAME TO deliveries"),
        (
            "TABLE jobs RENAME COLUMN due_at TO elsewhere",
            "TABLE jobs RENAME COLUMN elsewhere TO due_at",
        ),
        ("SCHEMA public RENAME TO elsewhere", "SCHEMA elsewhere RENAME TO public"),
    ],
    ids=["table", "column", "schema"],
)
def test_while_a_ledger_is_being_repaired_it_is_unavailable_and_no_report_is_set_aside(
    ledger: LedgerHarness, postgres_url: str, there: LiteralString, back: LiteralString
) -> None:
    ref = ledger.waiting()
    with psycopg.connect(conninfo(postgres_url), autocommit=True) as connection:
        connection.execute("ALTER " + there)
        try:
            with pytest.raises(LedgerError, match="not as this release needs it"):
                ledger.deliver(ref, succeeded(*urls(1)))
        finally:
            connection.execute("ALTER " + back)
    assert ledger.verdicts(ref) == []
    ledger.deliver(ref, succeeded(*urls(1)))
    assert ledger.verdicts(ref) == ["ended"]


def test_the_ledgers_connections_have_their_limits_and_options_in_the_address_take_precedence(
    postgres_url: str,
) -> None:
    with psycopg.connect(conninfo(postgres_url)) as connection:
        limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        assert [connection.execute(f"SHOW {limit}").fetchone() for limit in limits] == [
            ("1min",),
            ("8s",),
            ("10s",),
        ]
    assert "-c tcp_keepalives_idle=10" in conninfo(
        postgres_url
    )  # on the socket of the test there is nothing to be seen of it
    with psycopg.connect(
        conninfo(f"{postgres_url}&options=-c%20statement_timeout%3D0")
    ) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
    assert (
        postgres_address("postgresql+psycopg://h/d?connect_timeout=60").query["connect_timeout"]
        == "60"
    )
    several = "postgresql+psycopg://u:p%40@/d?host=a:1&host=b:2&target_session_attrs=read-write"
    assert "host=a,b" in conninfo(several)


def test_threads_that_use_a_ledger_when_it_is_closed_leave_no_connection(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    database, reading, go_on = PostgresDatabase(postgres_url), threading.Event(), threading.Event()

    def read(connection: Connection) -> int:
        reading.set()
        assert go_on.wait(LIMIT)
        return int(connection.execute(text("SELECT 1")).scalar_one())

    with ThreadPoolExecutor(1) as threads:
        one = threads.submit(database.read, read)
        assert reading.wait(LIMIT)
        database.close()
        go_on.set()
        assert one.result(LIMIT) == 1
    assert database.read(read) == 1
    until(
        lambda: postgres_server.connections(postgres_url) == 0,
        within=5,
        what="every connection closed",
    )
    database.close()


def test_a_lock_that_is_not_released_is_a_ledger_error_not_a_wait_for_ever(
    ledger: LedgerHarness, postgres_url: str
) -> None:
    ref = ledger.waiting()
    short_limit = f"{postgres_url}&options=-c%20lock_timeout%3D50ms"
    with opened(short_limit) as other, ExitStack() as stack:
        holder = stack.enter_context(ledger.database._engine.begin())  # type: ignore[attr-defined]
        lock_job(holder, ref)
        with pytest.raises(LedgerError, match="lock timeout"):
            other.deliver(ref, succeeded())
    ledger.deliver(ref, succeeded())


def test_locks_of_a_machine_that_was_cut_off_in_a_transaction_are_released(
    ledger: LedgerHarness, postgres_url: str
) -> None:
    ref = ledger.waiting()
    with opened(
        f"{postgres_url}&options=-c%20idle_in_transaction_session_timeout%3D50ms"
    ) as cut_off:

        def lock_and_stay_idle(connection: Connection) -> None:
            lock_job(connection, ref)
            ledger.deliver(ref, succeeded())
            connection.execute(text("SELECT 1"))

        with pytest.raises(LedgerError, match="idle-in-transaction"):
            cut_off.database.write(lock_and_stay_idle)
    assert ledger.pending(ref) == [0]


# Everything together.


def test_nothing_acknowledged_is_lost_while_connections_are_cut_at_random(
    ledger: LedgerHarness, postgres_url: str
) -> None:
    refs = [ledger.waiting(f"task-{number}") for number in range(20)]
    acknowledged = []

    def call_back(ref: str, number: int) -> None:
        with suppress(LedgerError):
            ledger.deliver(ref, succeeded(*urls(2), provider_id=f"task-{number}"))
            acknowledged.append(ref)

    with cut_at_random(postgres_url), ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            list(pool.map(call_back, refs, range(len(refs))))
    assert len(set(acknowledged)) == len(refs)
    stored = {
        ref: len([verdict for verdict in ledger.verdicts(ref) if verdict == "ended"])
        for ref in refs
    }
    assert stored == dict.fromkeys(refs, 1)
    assert all(len(ledger.verdicts(ref)) >= acknowledged.count(ref) for ref in refs)
    assert ledger.totals.audit().ok


def test_every_picture_is_archived_once_while_connections_are_cut_at_random(
    ledger: LedgerHarness, postgres_url: str, tmp_path: Path
) -> None:
    harness = DistributedHarness(ledger, tmp_path, postgres_url)
    harness.add_jobs(12)
    with at_work(harness.engine(poll_interval=OFTEN), harness.queue(4)):
        with cut_at_random(postgres_url):
            until(lambda: len(harness.claimed) >= 10, what="most of the work begun")

        def archived_in_the_end() -> bool:
            ledger.clock.advance(LEASE)  # of work whose end was cut off
            return harness.archived() == 12

        until(archived_in_the_end, what="all of the work")
    assert ledger.totals.audit().ok


def test_an_engine_works_on_when_its_server_was_killed_and_started_again(
    killable: KillablePostgres, tmp_path: Path
) -> None:
    url = killable.make_database()
    schema.migrate(url)
    with opened(url) as ledger:
        harness = DistributedHarness(ledger, tmp_path, url)
        first = ledger.waiting("task-1")
        with at_work(harness.engine(poll_interval=OFTEN), harness.queue()):
            ledger.deliver(first, succeeded())
            until(harness.archived, what="the work before")
            killable.kill()
            with pytest.raises(LedgerError):
                ledger.inbox.accept(Delivery(first, Source.CALLBACK, succeeded(), 1.0))
            killable.start()
            second = ledger.waiting("task-2")
            ledger.deliver(second, succeeded(provider_id="task-2"))
            until(lambda: harness.archived() == 2, what="the work after")


def test_an_engine_that_starts_without_its_server_waits_for_it_and_can_be_stopped(
    killable: KillablePostgres, tmp_path: Path
) -> None:
    url = killable.make_database()
    schema.migrate(url)
    with opened(url) as ledger:
        harness = DistributedHarness(ledger, tmp_path, url)
        harness.add_jobs()
        killable.kill()
        with at_work(engine := harness.engine(grace=0.05), harness.queue()) as thread:
            engine.stop()
            thread.join(LIMIT)
            assert not thread.is_alive()
        with at_work(harness.engine(), harness.queue()):
            killable.start()
            until(harness.archived, what="the work")
