"""Whether anybody has a ledger on SQLite open: asked before a copy of it is declared whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import LedgerHarness, opened
from processes import python

from receiver.errors import LedgerError
from receiver.ledger.sqlite import is_open


@pytest.fixture
def path(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite:///"))


@pytest.mark.parametrize(
    "first",
    [lambda ledger: ledger.totals.audit(), lambda ledger: ledger.submitting()],
    ids=["read", "write"],
)
def test_a_ledger_is_open_from_the_first_connection_until_it_is_closed(
    first: Callable[[LedgerHarness], object], sqlite_url: str, path: Path
) -> None:
    with opened(sqlite_url) as ledger:
        assert not is_open(path)
        assert not path.with_name(f"{path.name}.open").exists()
        first(ledger)
        assert is_open(path)
        ledger.database.close()
        assert not is_open(path)
        ledger.totals.audit()
        assert is_open(path), "opening again counts again"
    assert not is_open(path)
    assert path.with_name(f"{path.name}.open").stat().st_mode & 0o777 == 0o600


def test_it_is_open_until_the_last_one_has_closed_it_whatever_path_it_was_opened_by(
    sqlite_url: str, path: Path
) -> None:
    link = path.with_name("link.sqlite3")
    link.symlink_to(path)
    with opened(sqlite_url) as one, opened(f"sqlite:///{link}") as other:
        one.totals.audit()
        other.totals.audit()
        one.database.close()
        assert is_open(path)
        assert is_open(link)
        other.database.close()
        assert not is_open(path)


def test_asking_takes_nothing_from_those_who_have_it_open(sqlite_url: str, path: Path) -> None:
    with opened(sqlite_url) as ledger:
        ledger.submitting()
        assert [is_open(path), is_open(path)] == [True, True]
        ledger.submitting()
    assert [is_open(path), is_open(path)] == [False, False]


def test_a_killed_process_has_nothing_open(sqlite_url: str, path: Path) -> None:
    hold = (
        "import sys, time; from receiver.ledger import schema;"
        "from receiver.ledger.database import open_database;"
        "database = open_database(sys.argv[1]); schema.version(database);"
        "print(flush=True); time.sleep(60)"
    )
    with python("-c", hold, sqlite_url) as holder:
        assert holder.stdout.readline() == b"\n"
        assert is_open(path)
    assert not is_open(path)


def test_reading_and_writing_go_on_where_nothing_can_be_made_beside_the_ledger(
    sqlite_url: str, path: Path
) -> None:
    mark = path.with_name(f"{path.name}.open")
    mark.mkdir()
    with opened(sqlite_url) as ledger:
        ref = ledger.submitting()
        assert ledger.job(ref).ref == ref
        with pytest.raises(
            LedgerError,
            match=r"cannot find out whether the ledger is in use.*run this as the service",
        ):
            is_open(path)
        mark.rmdir()
        assert ledger.job(ref).ref == ref
        assert is_open(path), "it is made good as soon as it can be"
