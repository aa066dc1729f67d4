"""Ledgers for tests: each test gets one of its own, on SQLite and on PostgreSQL, and must leave no connection behind."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ledgers import Books, opened
from postgres import PostgresServer, empty
from waiting import until

from receiver.ledger import schema

BOTH = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate one SQLite file, to be copied: that is faster than another migration."""
    path = tmp_path_factory.mktemp("template") / "ledger.sqlite3"
    schema.migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """Migrate one PostgreSQL database, to be emptied for each test."""
    url = postgres_server.make_database()
    schema.migrate(url)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> Iterator[str]:
    """Make a SQLite ledger for one test."""
    path = tmp_path / "ledger.sqlite3"
    shutil.copy(sqlite_template, path)
    yield f"sqlite:///{path}"
    assert open_files(path) == []


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, migrated_postgres: str) -> Iterator[str]:
    """Make a PostgreSQL ledger for one test."""
    empty(migrated_postgres)
    yield migrated_postgres
    until(lambda: postgres_server.connections(migrated_postgres) == 0, within=5, what="every connection closed")


@pytest.fixture(params=BOTH)
def ledger_url(request: pytest.FixtureRequest) -> str:
    """Make a ledger on each of the two databases."""
    return str(request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]))


@pytest.fixture
def books(ledger_url: str) -> Iterator[Books]:
    """Open a ledger on each of the two databases."""
    with opened(ledger_url) as books:
        yield books


def open_files(path: Path) -> list[str]:
    """Return which files of the ledger at ``path`` this process has open, as far as the system tells."""
    found = []
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(FileNotFoundError):  # the one that was open for this list
            found.append(str(link.readlink()))
    return [target for target in found if target.startswith(str(path))]
