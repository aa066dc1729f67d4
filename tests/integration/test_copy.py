"""Moving up: an embedded ledger becomes one on PostgreSQL, row by row the same, however often it is interrupted or goes on meanwhile."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

import pytest
from ledgers import Books, opened, running, succeeded
from postgres import PostgresServer
from processes import Finished, run
from processes import running as process
from sqlalchemy import select, text

from receiver.errors import LedgerError, ReceiverError
from receiver.ledger import copy, schema
from receiver.ledger.database import Work, open_database
from receiver.ledger.outbox import Outbox
from receiver.ledger.tables import metadata
from receiver.model import JobState

T = TypeVar("T")


@pytest.fixture
def here(sqlite_url: str) -> Iterator[Books]:
    """Open a ledger on SQLite with something of everything in it."""
    with opened(sqlite_url) as books:
        Outbox(books.database, books.clock).begin(["log:"])
        books.archived(2, "task-1")
        books.failed("task-2")
        books.expired("task-3")
        books.archiving(2, "task-4")
        books.waiting("task-5")
        books.submitting("prompt with an umlaut: Fuchs über dem Fluß 🦊")
        books.ledger.hint("Task-b", b"one")
        books.ledger.hint("task-A", b"two")
        (claimed,) = books.ledger.claim_assets(1)
        books.ledger.retry_asset(claimed, books.clock() + 60, "not there yet")
        Outbox(books.database, books.clock).claim("log:", ["job.failed"], 1)  # type: ignore[list-item]
        yield books


@pytest.fixture
def there(postgres_server: PostgresServer) -> Iterator[Books]:
    """Open an empty ledger on PostgreSQL."""
    url = postgres_server.make_database()
    schema.migrate(url)
    with opened(url) as books:
        yield books
    postgres_server.drop_database(url)


def copied(here: Books, there: Books) -> tuple[int, int, int]:
    """Copy, and say how many rows were new, changed and gone."""
    done = copy.copy(here.database, there.database, lambda *_: None)
    return done.new, done.changed, done.gone


def everything(books: Books) -> dict[str, set[tuple[object, ...]]]:
    """Return the rows of all tables; the databases do not sort alike."""
    return {name: set(rows) for name, rows in books.everything().items()}


def test_a_copy_is_row_by_row_the_same_and_finds_nothing_the_second_time(here: Books, there: Books) -> None:
    copy.begin(there.database)
    new, changed, gone = copied(here, there)
    rows = sum(map(len, here.everything().values()))
    assert (new, changed, gone) == (rows, 0, 0)
    assert min(len(found) for found in here.everything().values()) > 0, "a table of which nothing was copied proves nothing"
    assert everything(here) == everything(there)
    assert copied(here, there) == (0, 0, 0)
    copy.finish(there.database)
    schema.require_current(there.database)
    assert here.reports.audit() == there.reports.audit()


def test_what_has_changed_come_or_gone_meanwhile_is_brought_over_by_the_next_run(
    here: Books, there: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "BATCH", 2)
    withdrawn = here.submitting()
    copied(here, there)
    here.ledger.withdraw(withdrawn)
    here.deliver(here.waiting("task-9"), running("task-9"))
    (ref,) = [job.ref for job in here.reports.jobs() if job.provider_id == "task-5"]
    here.deliver(ref, succeeded(provider_id="task-5"))
    here.execute("DELETE FROM hints WHERE provider_id = 'task-A'")
    here.execute("UPDATE deliveries SET body = x'' WHERE id = 1")
    new, changed, gone = copied(here, there)
    assert (new > 3, changed > 1, gone) == (True, True, 2)
    assert everything(here) == everything(there)


def test_a_copy_that_breaks_off_anywhere_is_taken_up_again(here: Books, there: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "BATCH", 2)
    for writes in (1, 3, 7):
        with pytest.raises(LedgerError):
            copy.copy(here.database, _Mortal(there, writes), lambda *_: None)
    assert 0 < sum(copy.counts(there.database).values()) < sum(copy.counts(here.database).values())
    copied(here, there)
    assert everything(here) == everything(there)


class _Mortal:
    """A database that takes so many writes and no more."""

    def __init__(self, books: Books, writes: int) -> None:
        self._database, self._left = books.database, writes
        self.read = self._database.read

    def write(self, work: Work[T]) -> T:
        self._left -= 1
        if self._left < 0:
            raise LedgerError("gone")
        return self._database.write(work)

    def close(self) -> None: ...


def test_new_rows_are_numbered_after_those_that_were_copied(here: Books, there: Books) -> None:
    copied(here, there)
    copy.finish(there.database)
    there.clock.advance(10)
    there.failed("task-99")
    for name in ("deliveries", "events"):
        numbers = [row.id for row in there.database.read(lambda c, name=name: c.execute(select(metadata.tables[name].c.id)).all())]  # type: ignore[misc]
        before = here.database.read(lambda c, name=name: c.execute(text(f"SELECT max(id) FROM {name}")).scalar())  # type: ignore[misc]  # noqa: S608
        assert before + 1 in numbers


def test_a_ledger_with_jobs_of_its_own_is_not_copied_over(here: Books, there: Books) -> None:
    there.submitting()
    with pytest.raises(ReceiverError, match="has jobs of its own"):
        copy.begin(there.database)
    assert len(here.reports.jobs()) == 6


def test_a_half_copy_is_refused_until_it_is_declared_whole(here: Books, there: Books) -> None:
    copy.begin(there.database)
    copied(here, there)
    with pytest.raises(LedgerError, match="not whole yet"):
        schema.require_current(there.database)
    copy.begin(there.database)  # to go on
    copy.finish(there.database)
    schema.require_current(there.database)


# The command.


@pytest.fixture
def environ(there: Books, tmp_path: Path) -> dict[str, str]:
    """Name the variables of the service to be."""
    url = there.database._engine.url.difference_update_query(["connect_timeout"])  # type: ignore[attr-defined]
    address = url.set(drivername="postgresql", query={"host": url.query["host"]}).render_as_string(hide_password=False)
    return {
        "DATABASE_URL": address,
        "DATA_DIR": str(tmp_path / "new"),
        "CALLBACK_SECRETS": "the-new-secret-of-ours",
        "ADMIN_TOKEN": "a-token-of-the-test",
    }


def test_the_command_moves_a_ledger_up_only_once_nobody_works_on_it_and_its_secret_is_known(
    here: Books, there: Books, sqlite_url: str, environ: dict[str, str], tmp_path: Path
) -> None:
    def move(**more: str) -> Finished:
        return run(["receiver", "migrate", "--from", sqlite_url], {**environ, **more}, folder=tmp_path)

    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "callback").write_text("the-old-secret-of-theirs\n")
    refused = move()
    assert (refused.status, "CALLBACK_SECRETS: must have the secret" in refused.err) == (2, True)
    both = {"CALLBACK_SECRETS": "the-new-secret-of-ours,the-old-secret-of-theirs"}
    with ExitStack() as stack:
        old = {"DATA_DIR": str(tmp_path), "DATABASE_URL": sqlite_url}
        worker = stack.enter_context(process(["receiver", "worker"], old, tmp_path))
        worker.says("worker started")
        early = move(**both)
        assert (early.status, "NOT whole" in early.out) == (1, True), early
        assert worker.stop() == 0
    done = move(**both)
    assert (done.status, "both sides have the same books" in done.out) == (0, True), done
    assert everything(here) == everything(there)
    with closing(open_database(environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))) as database:
        schema.require_current(database)
    assert len(there.reports.jobs(state=JobState.ARCHIVED)) == 1


@pytest.mark.parametrize("origin", ["sqlite:////nowhere/ledger.sqlite3", "postgresql://host/db"])
def test_what_is_no_ledger_is_refused(origin: str, tmp_path: Path) -> None:
    found = run(["receiver", "migrate", "--from", origin], {"DATA_DIR": str(tmp_path)}, folder=tmp_path)
    assert found.status == 2
    assert f"--from: {origin} is no ledger" in found.err
    assert "DATABASE_URL: must be the postgresql:// to copy to" in found.err
