"""Claims of dead workers are taken over, those of living ones never. Tests call the checks."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from ledgers import LedgerHarness, opened
from waiting import until

from receiver.errors import ClaimLostError
from receiver.ledger import liveness
from receiver.ledger.claims import GONE, LEASE, Claimed
from receiver.ledger.liveness import Liveness
from receiver.ledger.postgres import PostgresDatabase, conninfo
from receiver.ledger.rows import Asset
from receiver.services import Services
from receiver.settings import Settings


@pytest.fixture
def ledger(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerHarness]:
    """Open a ledger with a due asset; a new connection is trusted at once."""
    monkeypatch.setattr(liveness, "GRACE", 0.0)
    with opened(postgres_url) as ledger:
        ledger.archiving(1)
        yield ledger


@pytest.fixture
def mine(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Return the listening connection of worker 1."""
    with connect(postgres_url) as connection:
        yield connection


@pytest.fixture
def me(ledger: LedgerHarness, mine: psycopg.Connection) -> Liveness:
    """Return worker 1."""
    me = Liveness(1, LEASE, ledger.clock, ledger.claims.take_over)
    me.connected(mine)
    return me


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(conninfo(url), autocommit=True)


@contextmanager
def worker(url: str, number: int) -> Iterator[Claimed[Asset]]:
    """Have another worker claim the asset; it lives until the block ends."""
    with opened(url) as its:
        assert isinstance(its.database, PostgresDatabase)
        its.database.hold_lock(number)
        (claimed,) = its.assets.claim(1)
        assert claimed.token.startswith(f"{number}.")
        yield claimed


def await_end(mine: psycopg.Connection, number: int) -> None:
    """Wait until PostgreSQL has noticed the end of a worker."""
    locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = %s"
    until(lambda: not mine.execute(locks, [number]).fetchall(), what="the end of the worker")


def test_claims_of_a_dead_worker_are_taken_over_at_the_second_check(
    ledger: LedgerHarness, me: Liveness, mine: psycopg.Connection, postgres_url: str
) -> None:
    with worker(postgres_url, 2) as claimed:
        assert [me.check(mine) for _ in range(3)] == [False, False, False]
    await_end(mine, 2)
    assert [me.check(mine) for _ in range(3)] == [False, True, False]
    (again,) = ledger.assets.claim(1)
    assert again.row.crashes == 1
    with pytest.raises(ClaimLostError):
        ledger.assets.retry(claimed, ledger.clock(), "too late")


def test_a_worker_that_comes_back_between_two_checks_keeps_its_claims(
    ledger: LedgerHarness, me: Liveness, mine: psycopg.Connection, postgres_url: str
) -> None:
    with worker(postgres_url, 2):
        pass
    await_end(mine, 2)
    assert not me.check(mine)
    with connect(postgres_url) as its:
        liveness.hold(its, 2)
        assert not me.check(mine)
    assert not ledger.assets.claim(1)


def test_another_connection_of_the_same_worker_keeps_it_alive(
    me: Liveness, mine: psycopg.Connection, postgres_url: str
) -> None:
    with connect(postgres_url) as its:
        liveness.hold(its, 2)
        with worker(postgres_url, 2):
            pass
        assert [me.check(mine) for _ in range(3)] == [False, False, False]


def test_no_worker_is_missing_in_the_first_seconds_of_a_connection(
    me: Liveness,
    mine: psycopg.Connection,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(liveness, "GRACE", 600.0)
    with worker(postgres_url, 2):
        pass
    await_end(mine, 2)
    assert [me.check(mine) for _ in range(3)] == [False, False, False]


def test_claims_without_a_number_wait_for_the_end_of_their_leases(
    ledger: LedgerHarness, me: Liveness, mine: psycopg.Connection
) -> None:
    (claimed,) = ledger.assets.claim(1)
    assert "." not in claimed.token
    assert [me.check(mine) for _ in range(3)] == [False, False, False]


def test_a_connection_that_was_opened_before_holds_the_lock_too(
    ledger: LedgerHarness, me: Liveness, mine: psycopg.Connection
) -> None:
    database = ledger.database
    assert isinstance(database, PostgresDatabase)
    # One is in use at this moment; the fixture finds it if it is never closed.
    database.read(lambda _connection: database.hold_lock(7))
    (claimed,) = ledger.assets.claim(1)
    assert claimed.token.startswith("7.")
    assert [me.check(mine) for _ in range(3)] == [False, False, False]


def test_a_worker_takes_over_at_once_from_the_dead_worker_that_had_its_place(
    ledger: LedgerHarness, postgres_url: str, tmp_path: Path
) -> None:
    def services() -> Services:
        environ = {
            "DATABASE_URL": postgres_url.replace("+psycopg", ""),
            "DATA_DIR": str(tmp_path),
            "CALLBACK_SECRETS": "a-secret-of-sixteen-characters",
            "ARCHIVE_URL": "s3://never-opened",
            "ADMIN_TOKEN": "a-token-of-the-test",
        }
        return Services(Settings.load(environ)).open()

    def start_and_stop(worker: Services) -> None:
        process = worker.worker()
        worker.engine.stop()
        process.run()

    ledger.execute("UPDATE assets SET due_at = 1")
    (tmp_path / "worker-1.lock").write_bytes(b"\xff")  # no number
    with closing(services()) as first:
        start_and_stop(first)  # now its number stands in the first place
        (claimed,) = first.assets.claim(1)
        with closing(services()) as of_a_copied_folder:
            start_and_stop(of_a_copied_folder)
        assert first.queries.assets([claimed.row.ref])[claimed.row.ref][0].claim == claimed.token
        (tmp_path / "worker-1.lock").write_text(str(first.worker_number))
    with closing(services()) as second:
        start_and_stop(second)
        assert second.queries.assets([claimed.row.ref])[claimed.row.ref][0].claim == GONE
