"""Releases that overlap: an old ledger is migrated, and old code works on the newest schema."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from ledgers import NOW, opened
from postgres import PostgresServer
from sqlalchemy import Connection, create_engine, text

from receiver.errors import LedgerError
from receiver.ledger import notifications, queue_schema, schema
from receiver.ledger.database import open_database
from receiver.model import JobState

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


@pytest.fixture
def queue_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Make a ledger on PostgreSQL."""
    url = postgres_server.make_database()
    schema.migrate(url)
    yield url
    postgres_server.drop_database(url)


def _to_0001(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


def _change(url: str, work: Callable[[Connection], Any]) -> Any:
    engine = create_engine(url)
    with engine.begin() as connection:
        found = work(connection)
    engine.dispose()
    return found


def _as_the_first_release(connection: Connection, number: int) -> None:
    for statement in FIRST_RELEASE.split(";"):
        connection.execute(
            text(statement), {"ref": f"{number:026}", "task": f"task-{number}", "now": NOW}
        )


def test_a_ledger_of_the_first_release_keeps_every_row_and_is_worked_with(first_url: str) -> None:
    _change(first_url, lambda connection: _as_the_first_release(connection, 1))
    schema.migrate(first_url)
    with opened(first_url) as books:
        schema.require_current(books.database)
        books.clock.advance(60)
        (claimed,) = books.assets.claim(2)
        assert (claimed.row.attempts, claimed.row.crashes) == (2, 1)
        assert [job.state for job in books.queries.jobs()] == [JobState.ARCHIVING]


def test_the_first_releases_statements_work_on_the_newest_schema(first_url: str) -> None:
    schema.migrate(first_url)
    _change(first_url, lambda connection: _as_the_first_release(connection, 2))
    with opened(first_url) as books:
        books.archived(2, "task-9")
        assert books.pending(f"{2:026}") == [0]


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


# Procrastinate's part.


def test_a_ledger_without_procrastinates_tables_is_refused_with_the_remedy(queue_url: str) -> None:
    _change(
        queue_url,
        lambda connection: connection.execute(text("DROP TABLE procrastinate_jobs CASCADE")),
    )
    with (
        closing(open_database(queue_url)) as database,
        pytest.raises(LedgerError, match=r"Procrastinate.*run `receiver migrate`"),
    ):
        schema.require_current(database)


def test_changes_of_procrastinate_are_applied_and_breaking_ones_wait_for_the_next_release(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.make_database()
    *before, expands, contracts = queue_schema._changes()
    assert ("_pre_" in expands, "_post_" in contracts) == (True, True)
    for name in before:  # as a release of Procrastinate's before the installed one had it
        _change(
            url, partial(queue_schema._run, script=queue_schema._folder() / "migrations" / name)
        )
    _change(url, partial(queue_schema._note, applied=before[-1], known=before[-1]))
    assert _change(url, queue_schema.is_old)
    for _ in range(2):  # a second run of the same release is no release later
        _change(url, queue_schema.bring_up)
        assert (_change(url, _newest), _change(url, queue_schema.is_old)) == (expands, False)
    _change(
        url, partial(queue_schema._note, applied=expands, known=expands)
    )  # as a release that knew no more
    for _ in range(2):
        _change(url, queue_schema.bring_up)
        assert _change(url, _newest) == contracts
    _change(url, lambda connection: notifications.notify_job(connection, "a-job", NOW))
    postgres_server.drop_database(url)


PENDING = ["1_post_", "2_pre_", "2_post_", "3_pre_", "3_post_"]


@pytest.mark.parametrize(
    ("pending", "new_release", "due"),
    [
        (PENDING[:1], False, []),
        (PENDING[:1], True, PENDING[:1]),
        (PENDING[:3], True, PENDING[:2]),
        (PENDING, True, PENDING[:4]),  # a release was skipped
        ([], True, []),
    ],
)
def test_what_contracts_waits_for_a_release_and_what_expands_does_not(
    pending: list[str], due: list[str], *, new_release: bool
) -> None:
    assert queue_schema._due(pending, new_release=new_release) == due


def _newest(connection: Connection) -> str:
    return queue_schema._read(connection.execute(queue_schema._FOUND).one()[1])[0]
