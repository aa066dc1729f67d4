"""Releases that overlap: an old ledger is migrated, and old code works on the newest schema."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from ledgers import NOW, opened
from postgres import PostgresServer
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from receiver.errors import LedgerError
from receiver.ledger import schema
from receiver.ledger.database import open_database
from receiver.ledger.queries.job_list import Wanted
from receiver.model import Api, JobState, Submission

# What the first release (schema 0001) writes, by the columns it knows.
FIRST_RELEASE = """
INSERT INTO jobs (ref, provider, base_url, api, mode, model, prompt, params, state,
    submitted_at, deadline_at, due_at)
VALUES (:ref, 'grsai', 'https://provider.test', 'draw', 'webhook', 'm', 'a fox', '{}', 'submitting',
    :now, :now + 3600, :now + 3600);
UPDATE jobs SET provider_id = :task, state = 'waiting', due_at = :now + 120, claim = NULL
    WHERE jobs.ref = :ref;
UPDATE jobs SET provider_id = :task, state = 'archiving', outcome = 'succeeded', progress = 100,
    due_at = :now + 5400, claim = NULL,
ended_at = :now, attempts = 0 WHERE jobs.ref = :ref;
INSERT INTO assets (ref, idx, state, url, announced_at, expires_at, due_at)
VALUES (:ref, 0, 'pending', 'https://files.test/0.png', :now, :now + 7200, :now);
INSERT INTO deliveries (ref, source, verdict, received_at, digest, body)
    VALUES (:ref, 'callback', 'ended', :now, 'd', 'x');
UPDATE assets SET due_at = :now + 60, claim = :task, attempts = assets.attempts + 1
    WHERE assets.ref = :ref;
INSERT INTO events (type, ref, idx, round, created_at, payload)
    VALUES ('asset.archived', :ref, 0, 0, :now, '{}');
INSERT INTO hints (provider_id, received_at, due_at) VALUES (:task, :now, :now)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def first_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Make a ledger as the first release had it."""
    if request.param == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('tmp_path')}/ledger.sqlite3"
        _change(url, _to_0001)
        yield url
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.make_database()
    _change(url, _to_0001)
    yield url
    server.drop_database(url)


def _to_0001(connection: Connection) -> None:
    _to("0001", connection)


def _to(version: str, connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, version)


def _change(url: str, work: Callable[[Connection], Any]) -> Any:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def _as_the_first_release(connection: Connection, number: int) -> None:
    for statement in FIRST_RELEASE.split(";"):
        connection.execute(
            text(statement), {"ref": f"{number:026}", "task": f"task-{number}", "now": NOW}
        )


def test_a_ledger_of_the_first_release_keeps_every_row_and_is_worked_with(first_url: str) -> None:
    _change(first_url, lambda connection: _as_the_first_release(connection, 1))
    schema.migrate(first_url)
    with opened(first_url) as ledger:
        schema.require_current(ledger.database)
        ledger.clock.advance(60)
        (claimed,) = ledger.assets.claim(2)
        assert (claimed.row.attempts, claimed.row.crashes) == (2, 1)
        assert [job.state for job in ledger.queries.jobs()] == [JobState.ARCHIVING]


def test_the_first_releases_statements_work_on_the_newest_schema(first_url: str) -> None:
    schema.migrate(first_url)
    _change(first_url, lambda connection: _as_the_first_release(connection, 2))
    with opened(first_url) as ledger:
        ledger.archived(2, "task-9")
        assert ledger.pending(f"{2:026}") == [0]


def test_a_migrated_ledger_takes_jobs_of_other_providers_and_still_no_unknown_api(
    first_url: str,
) -> None:
    _change(first_url, lambda connection: _as_the_first_release(connection, 1))
    schema.migrate(first_url)
    api = text("UPDATE jobs SET provider = 'fal', api = :api")
    _change(first_url, lambda connection: connection.execute(api, {"api": "queue"}))
    with pytest.raises(IntegrityError, match="ck_jobs_api"):
        _change(first_url, lambda connection: connection.execute(api, {"api": "anything"}))
    with opened(first_url) as ledger:
        (job,) = ledger.queries.jobs()
        assert (job.provider, job.api, job.poll_url) == ("fal", Api.QUEUE, None)
        assert ledger.queries.deliveries(job.ref)[0].proof is None
        assert ledger.queries.webhook(job.ref) is None
        asked = Submission("a fox", "m", {}, folder="shop", webhook="https://shop.test/")
        new = ledger.jobs.submit(asked, "https://provider.test").ref
        assert ledger.queries.webhook(new) == asked.webhook
        assert [each.ref for each in ledger.job_list.page(Wanted(folder="shop")).jobs] == [new]


def _columns(connection: Connection) -> dict[tuple[str, str], tuple[str, bool]]:
    """Return each column's type, and whether a statement that does not know it can leave it out."""
    inspector = inspect(connection)
    return {
        (table, column["name"]): (
            repr(column["type"]),
            column["nullable"] or column["default"] is not None,
        )
        for table in inspector.get_table_names()
        for column in inspector.get_columns(table)
    }


def test_each_migration_only_adds(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    _change(url, _to_0001)
    before = _change(url, _columns)
    for number in range(2, int(schema.HEAD) + 1):
        _change(url, partial(_to, f"{number:04}"))
        after = _change(url, _columns)
        assert before.items() <= after.items()
        tables = {table for table, _ in before}
        new = {place for place in after.keys() - before.keys() if place[0] in tables}
        assert [place for place in new if not after[place][1]] == []
        before = after


@pytest.mark.parametrize(
    "first_url", ["postgresql"], indirect=True
)  # SQLite's readers block no writer
def test_a_migration_does_not_make_all_others_wait_behind_a_reader(
    first_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_LOCK_TIMEOUT", "50ms")
    with closing(open_database(first_url)) as database:

        def read_for_long(connection: Connection) -> None:
            connection.execute(text("SELECT count(*) FROM jobs"))
            with pytest.raises(LedgerError, match="lock timeout"):
                schema.migrate(first_url)

        database.read(read_for_long)
        assert schema.version(database) == "0001"
        schema.migrate(first_url)
        schema.require_current(database)


@pytest.mark.parametrize("first_url", ["postgresql"], indirect=True)
def test_tables_of_procrastinate_that_an_earlier_release_uses_are_left_alone(
    first_url: str,
) -> None:
    earlier = """
    CREATE TABLE procrastinate_jobs (id bigserial PRIMARY KEY, queueing_lock text);
    COMMENT ON TABLE procrastinate_jobs IS 'its_version its_version';
    INSERT INTO procrastinate_jobs (queueing_lock) VALUES ('assets/x/0')
    """
    for statement in earlier.split(";"):
        _change(first_url, partial(Connection.execute, statement=text(statement)))
    schema.migrate(first_url)
    with opened(first_url) as ledger:
        schema.require_current(ledger.database)
        ledger.archived()
        kept = text("SELECT queueing_lock FROM procrastinate_jobs")
        assert ledger.database.read(lambda connection: connection.execute(kept).scalar()) == (
            "assets/x/0"
        )
