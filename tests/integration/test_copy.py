"""Copying an embedded ledger to PostgreSQL: rows stay equal through interruptions and changes."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from commands import invoke
from ledgers import LedgerHarness, opened, running, succeeded
from postgres import PostgresServer
from processes import Finished, Running, free_port
from processes import running as process
from sqlalchemy import event, select, text
from waiting import until

from receiver.errors import LedgerError, ReceiverError
from receiver.ledger import schema
from receiver.ledger.database import Work, open_database
from receiver.ledger.outbox import Outbox
from receiver.ledger.sqlite import SqliteDatabase, is_open
from receiver.ledger.tables import job_tables, metadata
from receiver.maintenance import copy_to_postgres as copy
from receiver.model import EventType, JobState, Submission

T = TypeVar("T")


@pytest.fixture
def source(sqlite_url: str) -> Iterator[LedgerHarness]:
    """Open a ledger on SQLite with rows in every table."""
    with opened(sqlite_url) as ledger:
        Outbox(ledger.database, ledger.clock).register(["log:"])
        ledger.archived(2, "task-1")
        ledger.failed("task-2")
        ledger.expired("task-3")
        ledger.archiving(2, "task-4")
        ledger.waiting("task-5")
        labelled = Submission("a fox", "m", {}, metadata={"order": 4711})
        ledger.jobs.submit(labelled, "https://provider.test")
        ledger.submitting("prompt with an umlaut: Fuchs über dem Fluß 🦊")
        ledger.hints.add("Task-b", b"one")
        ledger.hints.add("task-A", b"two")
        (claimed,) = ledger.assets.claim(1)
        ledger.assets.retry(claimed, ledger.clock() + 60, "not there yet")
        Outbox(ledger.database, ledger.clock).claim("log:", ["job.failed"], 1)  # type: ignore[list-item]
        yield ledger


@pytest.fixture
def target(postgres_server: PostgresServer, migrated_postgres: str) -> Iterator[LedgerHarness]:
    """Open an empty ledger on PostgreSQL."""
    postgres_server.empty(migrated_postgres)
    url = postgres_server.make_database(template=migrated_postgres)
    with opened(url) as ledger:
        yield ledger
    postgres_server.drop_database(url)


def copied(source: LedgerHarness, target: LedgerHarness) -> tuple[int, int, int]:
    """Copy; return how many rows were new, changed and deleted."""
    done = copy.copy(source.database, target.database, lambda *_: None)
    return done.new, done.changed, done.gone


def everything(ledger: LedgerHarness) -> dict[str, set[tuple[object, ...]]]:
    """Return the rows of all tables; the databases do not sort alike."""
    return {name: set(rows) for name, rows in ledger.everything().items()}


def test_a_copy_is_row_by_row_the_same_and_finds_nothing_the_second_time(
    source: LedgerHarness, target: LedgerHarness
) -> None:
    copy.begin(target.database)
    new, changed, gone = copied(source, target)
    rows = sum(map(len, source.everything().values()))
    assert (new, changed, gone) == (rows, 0, 0)
    assert min(len(source.everything()[table.name]) for table in job_tables) > 0, (
        "a table of which nothing was copied proves nothing"
    )
    assert everything(source) == everything(target)
    assert copied(source, target) == (0, 0, 0)
    copy.finish(target.database)
    schema.require_current(target.database)
    assert source.totals.audit() == target.totals.audit()
    statistics = text("SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = 'public'")
    counted = target.database.read(lambda on: on.execute(statistics).scalars().all())
    assert {table.name for table in job_tables} <= {*counted}


def test_what_has_changed_come_or_gone_meanwhile_is_brought_over_by_the_next_run(
    source: LedgerHarness, target: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "BATCH", 2)
    withdrawn = source.submitting()
    copied(source, target)
    source.jobs.withdraw(withdrawn)
    source.deliver(source.waiting("task-9"), running("task-9"))
    (ref,) = [job.ref for job in source.queries.jobs() if job.provider_id == "task-5"]
    source.deliver(ref, succeeded(provider_id="task-5"))
    source.execute("DELETE FROM hints WHERE provider_id = 'task-A'")
    source.execute("UPDATE deliveries SET body = x'' WHERE id = 1")
    new, changed, gone = copied(source, target)
    assert (new > 3, changed > 1, gone) == (True, True, 2)
    assert everything(source) == everything(target)


def test_a_copy_that_is_interrupted_anywhere_continues_later(
    source: LedgerHarness, target: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "BATCH", 2)
    for writes in (1, 3, 7):
        with pytest.raises(LedgerError):
            copy.copy(source.database, _FailingDatabase(target, writes), lambda *_: None)
    assert (
        0 < sum(copy.counts(target.database).values()) < sum(copy.counts(source.database).values())
    )
    copied(source, target)
    assert everything(source) == everything(target)


class _FailingDatabase:
    """A database that fails after a number of writes."""

    def __init__(self, ledger: LedgerHarness, writes: int) -> None:
        self._database, self.left = ledger.database, writes
        self.read, self.write_item = self._database.read, self._database.write_item

    def write(self, work: Work[T]) -> T:
        self.left -= 1
        if self.left < 0:
            raise LedgerError("gone")
        return self._database.write(work)

    def close(self) -> None: ...


def test_new_rows_are_numbered_after_those_that_were_copied(
    source: LedgerHarness, target: LedgerHarness
) -> None:
    copied(source, target)
    copy.finish(target.database)
    target.clock.advance(10)
    target.failed("task-99")
    for name in ("deliveries", "events"):
        numbers = [
            row.id
            for row in target.database.read(
                lambda c, name=name: c.execute(select(metadata.tables[name].c.id)).all()  # type: ignore[misc]
            )
        ]
        before = source.database.read(
            lambda c, name=name: c.execute(text(f"SELECT max(id) FROM {name}")).scalar()  # type: ignore[misc]  # noqa: S608 - a name of ours
        )
        assert before + 1 in numbers


def test_row_numbers_that_were_given_a_second_time_are_copied_as_the_other_rows_they_now_are(
    source: LedgerHarness, target: LedgerHarness
) -> None:
    first = continue_work(source, "first")
    copied(source, target)
    numbers = {
        name: max(row[0] for row in source.everything()[name])
        for name in ("deliveries", "events", "attempts")
    }
    forget(source, first)
    continue_work(source, "second")
    assert numbers == {name: max(row[0] for row in source.everything()[name]) for name in numbers}
    assert copied(source, target)[2] > 0
    assert everything(source) == everything(target)
    assert copied(source, target) == (0, 0, 0)


def continue_work(ledger: LedgerHarness, name: str) -> str:
    """Add rows to every table; return the oldest ref of the new jobs."""
    ledger.clock.advance(1)
    ref = ledger.archiving(2, f"{name}-1")
    for claimed in ledger.assets.claim(100):
        ledger.assets.retry(claimed, ledger.clock() + 60, "not there yet")
    ledger.clock.advance(1)
    ledger.failed(f"{name}-2")
    Outbox(ledger.database, ledger.clock).claim("log:", list(EventType), 100)
    return ref


def forget(ledger: LedgerHarness, ref: str) -> None:
    """Remove a job and all newer ones, as an early `receiver prune` did: numbers are used again."""
    for table in ("sendings", "events", "attempts", "assets", "deliveries", "jobs"):
        ledger.execute(f"DELETE FROM {table} WHERE ref >= :ref", ref=ref)  # noqa: S608 - names of ours
    ledger.execute("UPDATE destinations SET cursor = (SELECT max(id) FROM events)")


def test_what_is_there_no_more_goes_in_batches(
    source: LedgerHarness, target: LedgerHarness
) -> None:
    first, *_ = [continue_work(source, f"gone-{number}") for number in range(5)]
    copied(source, target)
    forget(source, first)
    counted = _FailingDatabase(target, 100)
    assert copy.copy(source.database, counted, lambda *_: None).gone >= 40
    assert 100 - counted.left <= len(job_tables)
    assert everything(source) == everything(target)


def test_a_copy_that_cannot_follow_the_original_says_what_to_do(
    source: LedgerHarness, target: LedgerHarness
) -> None:
    first, second = source.waiting("one"), source.waiting("other")
    copied(source, target)
    for ref, name in ((first, None), (second, "one"), (first, "other")):
        source.execute("UPDATE jobs SET provider_id = :name WHERE ref = :ref", name=name, ref=ref)
    with pytest.raises(
        ReceiverError, match=r"uq_jobs_provider_id.*empty the database at DATABASE_URL"
    ):
        copied(source, target)


def test_no_batch_reads_the_whole_original(
    source: LedgerHarness, target: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "BATCH", 2)
    assert isinstance(source.database, SqliteDatabase)
    asked: dict[str, object] = {}

    def note(
        _connection: object, _cursor: object, statement: str, values: object, *_: object
    ) -> None:
        asked[statement] = values

    event.listen(source.database._reader, "before_cursor_execute", note)
    copied(source, target)
    source.execute("UPDATE assets SET attempts = 7")
    assert copied(source, target)[1] > 0
    event.remove(source.database._reader, "before_cursor_execute", note)
    plans = {
        statement: plan(source, statement, values)
        for statement, values in asked.items()
        if "WHERE" in statement
    }
    assert len(plans) > 2 * len(job_tables), (
        "every table is walked, fetched, and searched for what is there no more"
    )
    assert {statement: plan for statement, plan in plans.items() if "SCAN" in plan} == {}


def plan(ledger: LedgerHarness, statement: str, values: Any) -> str:
    """Return SQLite's plan of a statement."""
    rows = ledger.database.read(
        lambda connection: connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statement}", values
        ).all()
    )
    return "\n".join(str(row[-1]) for row in rows)


def test_a_ledger_with_jobs_of_its_own_is_not_copied_over(
    source: LedgerHarness, target: LedgerHarness
) -> None:
    target.submitting()
    with pytest.raises(ReceiverError, match="has jobs of its own"):
        copy.begin(target.database)
    assert len(source.queries.jobs()) == 7


def test_a_half_copy_is_refused_until_it_is_declared_whole(
    source: LedgerHarness, target: LedgerHarness
) -> None:
    copy.begin(target.database)
    copied(source, target)
    with pytest.raises(LedgerError, match="not whole yet"):
        schema.require_current(target.database)
    copy.begin(target.database)  # to go on
    copy.finish(target.database)
    schema.require_current(target.database)


# The command.


@pytest.fixture
def environ(target: LedgerHarness, tmp_path: Path) -> dict[str, str]:
    """Return the variables of the new service."""
    url = target.database._engine.url.difference_update_query(["connect_timeout"])  # type: ignore[attr-defined]
    address = url.set(drivername="postgresql", query={"host": url.query["host"]}).render_as_string(
        hide_password=False
    )
    return {
        "DATABASE_URL": address,
        "DATA_DIR": str(tmp_path / "new"),
        "CALLBACK_SECRETS": "the-new-secret-of-ours",
        "ARCHIVE_URL": "s3://never-opened",
        "ADMIN_TOKEN": "a-token-of-the-test",
    }


BOTH = {"CALLBACK_SECRETS": "the-new-secret-of-ours,the-old-secret-of-theirs"}
WEB = ["gunicorn", "-c", "python:receiver.gunicorn_conf", "receiver.web:create_app()"]


def move(sqlite_url: str, environ: dict[str, str], folder: Path) -> Finished:
    """Run the command."""
    return invoke(["receiver", "migrate", "--from", sqlite_url], environ, folder=folder)


@pytest.fixture
def closed_source(source: LedgerHarness, tmp_path: Path) -> LedgerHarness:
    """Create a ledger that no process has open, and the secret beside it."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "callback").write_text("the-old-secret-of-theirs\n")
    source.database.close()
    return source


def test_a_ledger_is_moved_up_only_once_its_secret_is_known(
    closed_source: LedgerHarness,
    target: LedgerHarness,
    sqlite_url: str,
    environ: dict[str, str],
    tmp_path: Path,
) -> None:
    refused = move(sqlite_url, environ, tmp_path)
    assert (refused.status, "CALLBACK_SECRETS: must include the secret" in refused.err) == (2, True)
    done = move(sqlite_url, environ | BOTH, tmp_path)
    assert (done.status, "both sides are equal" in done.out, done.err) == (0, True, ""), done
    before, after = everything(closed_source), everything(target)
    assert [name for name in before if before[name] != after[name]] == ["identity"]
    old = {"DATA_DIR": str(tmp_path), "DATABASE_URL": sqlite_url}
    started = invoke(["receiver", "serve", "--port", "0"], old, folder=tmp_path)
    assert (started.status, "this ledger was moved to postgresql://" in started.err) == (2, True)
    with closing(
        open_database(environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))
    ) as database:
        schema.require_current(database)
    assert len(target.queries.jobs(state=JobState.ARCHIVED)) == 1


def is_ready(service: Running, port: int) -> bool:
    """Return whether a worker or a web process has opened the ledger for its work."""
    if "worker started" in service.output():
        return True
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(100).startswith(b"HTTP/1.1 200")
    return False


@pytest.mark.parametrize(
    ("command", "data"), [(["receiver", "worker"], "elsewhere"), (WEB, ".")], ids=["worker", "web"]
)
@pytest.mark.usefixtures("closed_source")
def test_no_copy_is_whole_while_anybody_has_the_ledger_open_wherever_its_data_dir_is(
    command: list[str], data: str, sqlite_url: str, environ: dict[str, str], tmp_path: Path
) -> None:
    old = {"DATA_DIR": str(tmp_path / data), "DATABASE_URL": sqlite_url, "PORT": str(free_port())}
    with process(command, old, tmp_path) as service:
        until(lambda: is_ready(service, int(old["PORT"])), what="that it works")
        assert is_open(tmp_path / "ledger.sqlite3")
        early = move(sqlite_url, environ | BOTH, tmp_path)
        assert (early.status, "NOT complete" in early.out) == (1, True), early
        assert service.stop() == 0
    done = move(sqlite_url, environ | BOTH, tmp_path)
    assert (done.status, "both sides are equal" in done.out) == (0, True), done


@pytest.mark.usefixtures("source")
def test_a_copy_made_while_a_worker_of_an_earlier_release_works_is_not_whole(
    sqlite_url: str, environ: dict[str, str], tmp_path: Path
) -> None:
    with (tmp_path / "worker.lock").open("a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert move(sqlite_url, environ, tmp_path).status == 1


@pytest.mark.usefixtures("source")
def test_a_secret_that_does_not_lie_beside_the_ledger_is_pointed_out(
    sqlite_url: str, environ: dict[str, str], tmp_path: Path
) -> None:
    output = move(sqlite_url, environ, tmp_path).err
    assert output.count("\n") == 1
    assert (
        f"CALLBACK_SECRETS could not be checked, {tmp_path}/secrets/callback cannot be read: "
        "make sure" in output
    )


@pytest.mark.parametrize("origin", ["sqlite:////nowhere/ledger.sqlite3", "postgresql://host/db"])
def test_what_is_no_ledger_is_refused(origin: str, tmp_path: Path) -> None:
    found = invoke(
        ["receiver", "migrate", "--from", origin], {"DATA_DIR": str(tmp_path)}, folder=tmp_path
    )
    assert found.status == 2
    assert f"--from: {origin} is no ledger" in found.err
    assert "DATABASE_URL: must be the postgresql:// to copy to" in found.err
