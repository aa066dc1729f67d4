"""A network that loses bytes without closing a connection: no thread waits for ever."""

import time
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import pytest
from relay import Relay, relay
from sqlalchemy import make_url, text
from waiting import until

from receiver.errors import LedgerError
from receiver.ledger.postgres import PostgresDatabase


@pytest.fixture
def between(postgres_url: str) -> Iterator[Relay]:
    """Run a relay before PostgreSQL."""
    with relay(f"{make_url(postgres_url).query['host']}/.s.PGSQL.5432") as between:
        yield between


@pytest.fixture
def database(postgres_url: str, between: Relay) -> Iterator[PostgresDatabase]:
    """Open the ledger through the relay."""
    name = make_url(postgres_url).database
    url = f"postgresql+psycopg://postgres@127.0.0.1:{between.port}/{name}"
    with closing(PostgresDatabase(url)) as database:
        yield database


def ask(database: PostgresDatabase, statement: str = "SELECT 1") -> object:
    return database.write(lambda connection: connection.execute(text(statement)).scalar())


def test_a_thread_whose_answer_is_lost_goes_on_within_5_s_after_the_network_is_whole(
    database: PostgresDatabase, between: Relay
) -> None:
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(ask(database))
        except LedgerError as error:
            ended.append(error)

    ask(database)
    with between.lossy():
        thread = Thread(target=work)
        thread.start()
        time.sleep(1)  # as long as the network is away; the thread waits meanwhile
    until(lambda: ended, within=5, what="that the thread goes on")
    thread.join()
    assert ask(database) == 1


def test_a_statement_that_takes_long_is_not_ended(database: PostgresDatabase) -> None:
    assert ask(database, "SELECT 1 FROM pg_sleep(4)") == 1
