"""Migrations on both databases: they make what the tables say, and are atomic."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from ledgers import opened
from postgres import PostgresServer
from processes import Finished, python
from side_by_side import side_by_side
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine.interfaces import ReflectedIndex
from waiting import until

from receiver.errors import LedgerError
from receiver.ledger import schema
from receiver.ledger.database import require_writable
from receiver.ledger.tables import (
    metadata,
)
from receiver.services import Services
from receiver.settings import Settings

pytestmark = pytest.mark.both_databases


@pytest.fixture
def new_sqlite_url(tmp_path: Path) -> str:
    """Return the URL of a missing file in a missing folder."""
    return f"sqlite:///{tmp_path / 'new' / 'ledger.sqlite3'}"


@pytest.fixture
def new_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Make an empty PostgreSQL database."""
    url = postgres_server.make_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Name a ledger without a schema."""
    return str(
        request.getfixturevalue(
            {"sqlite": "new_sqlite_url", "postgresql": "new_postgres_url"}[request.param]
        )
    )


def is_described(_object: object, name: str | None, *_: object) -> bool:
    """Leave out the index of texts, which is another kind of table in each database."""
    return "job_words" not in str(name)


def run_on(url: str, work: Callable[[Connection], Any]) -> Any:
    """Inspect a database with a separate connection."""
    engine = create_engine(url)
    with engine.begin() as connection:
        found = work(connection)
    engine.dispose()
    return found


def describe_tables(connection: Connection) -> dict[str, object]:
    """Return everything that the database reports about our tables."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": [
                (column["name"], repr(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            ],
            "key": inspector.get_pk_constraint(table),
            "checks": sorted(
                (check["name"], check["sqltext"])
                for check in inspector.get_check_constraints(table)
            ),
            "unique": sorted(
                (rule["name"], rule["column_names"])
                for rule in inspector.get_unique_constraints(table)
            ),
            "foreign": inspector.get_foreign_keys(table),
            "indexes": sorted(
                (one["name"], one["column_names"], one["unique"], condition(one))
                for one in inspector.get_indexes(table)
            ),
        }
        for table in sorted(metadata.tables)
    }


def condition(index: ReflectedIndex) -> str:
    """Return the condition of a partial index, as the database writes it."""
    options = index.get("dialect_options", {})
    return str(options.get("sqlite_where", options.get("postgresql_where", "")))


# What a migration makes.


def test_a_migrated_schema_equals_the_tables(empty_url: str) -> None:
    schema.migrate(empty_url)
    assert (
        run_on(
            empty_url,
            lambda connection: compare_metadata(
                MigrationContext.configure(connection, opts={"include_object": is_described}),
                metadata,
            ),
        )
        == []
    )


def test_a_migrated_schema_has_the_checks_and_defaults_of_the_tables(empty_url: str) -> None:
    # Alembic compares no CHECK, no default and no condition of an index.
    schema.migrate(empty_url)
    migrated = run_on(empty_url, describe_tables)
    run_on(empty_url, metadata.drop_all)
    run_on(empty_url, metadata.create_all)
    assert migrated == run_on(empty_url, describe_tables)


def test_head_is_the_newest_migration_of_the_folder() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_migrating_again_changes_nothing(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        ledger.archiving()
        before = ledger.everything()
        schema.migrate(ledger_url)
        assert ledger.everything() == before
        schema.require_current(ledger.database)


# When a migration is disturbed.


def test_processes_that_migrate_at_once_wait_for_each_other(empty_url: str) -> None:
    migrate = "import sys; from receiver.ledger import schema; schema.migrate(sys.argv[1])"
    with python("-c", migrate, empty_url) as one, python("-c", migrate, empty_url) as other:
        assert one.ended() == other.ended() == Finished(0, "", "")
    with opened(empty_url) as ledger:
        schema.require_current(ledger.database)
        ledger.submitting()


def test_a_migration_that_is_killed_half_way_leaves_the_old_schema(empty_url: str) -> None:
    killed_at_the_first_index = """
import os, signal, sys
from alembic import op
from receiver.ledger import schema
op.create_index = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
schema.migrate(sys.argv[1])
"""
    with python("-c", killed_at_the_first_index, empty_url) as process:
        assert process.ended() == Finished(-signal.SIGKILL, "", "")
    until(
        lambda: run_on(empty_url, lambda connection: inspect(connection).get_table_names()) == [],
        what="an empty ledger",
    )
    schema.migrate(empty_url)
    with opened(empty_url) as ledger:
        schema.require_current(ledger.database)


def test_of_several_first_commands_at_once_none_finds_the_ledger_locked(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    def first_command(data: Path) -> None:
        with closing(Services(Settings.load({"DATA_DIR": str(data)})).open()) as services:
            require_writable(services.database)

    for number in range(10 if pytestconfig.getoption("thorough") else 4):
        side_by_side([partial(first_command, tmp_path / f"{number}")] * 6)


@pytest.mark.parametrize("found", [None, "0000"])
def test_a_ledger_of_another_schema_is_refused_with_the_remedy(
    empty_url: str, found: str | None
) -> None:
    if found:
        schema.migrate(empty_url)
        run_on(
            empty_url,
            lambda connection: connection.execute(
                text("UPDATE alembic_version SET version_num = :found"), {"found": found}
            ),
        )
    elif empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir()
    with opened(empty_url) as ledger:
        assert schema.version(ledger.database) == found
        with pytest.raises(
            LedgerError,
            match=f"schema is {found or 'missing'}, this release needs {schema.HEAD}: "
            "run `receiver migrate`",
        ):
            schema.require_current(ledger.database)


@pytest.mark.parametrize(
    "url",
    ["sqlite:////dev/null/ledger.sqlite3", "postgresql+psycopg://nobody@/nowhere?host=/dev/null"],
)
def test_a_ledger_that_cannot_be_reached_is_a_ledger_error(url: str) -> None:
    with pytest.raises(LedgerError):
        schema.migrate(url)
    with opened(url) as ledger, pytest.raises(LedgerError):
        schema.require_current(ledger.database)
