"""SQLite with many writers: they share few commits, none is lost, one failure affects no other."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from ledgers import LedgerHarness, is_sound, opened, run
from processes import python
from side_by_side import side_by_side
from small_disks import files_no_larger_than
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from waiting import LIMIT, until
from writer_process import refs_in, writer_process

from receiver.errors import LedgerError
from receiver.ledger.sqlite import SqliteDatabase


class OwnMistakeError(Exception):
    """Raised by one write of a group."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let writers wait only half a second."""
    for module in ("group_commit", "sqlite"):
        monkeypatch.setattr(f"receiver.ledger.{module}.WRITE_TIMEOUT", 0.5)
    return 0.5


@pytest.fixture
def path(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite:///"))


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    with opened(sqlite_url) as ledger:
        yield ledger


def sqlite(ledger: LedgerHarness) -> SqliteDatabase:
    assert isinstance(ledger.database, SqliteDatabase)
    return ledger.database


Work = Callable[[Connection], object]


def in_one_group(ledger: LedgerHarness, works: list[Work]) -> list[Future[object]]:
    """Queue all these writes before the first one is committed."""
    database = sqlite(ledger)
    with ThreadPoolExecutor(len(works)) as threads:
        queue = database._group_commit
        with queue._leads:
            futures = []
            for number, work in enumerate(works, start=1):
                futures.append(threads.submit(database.write, work))
                until(lambda: len(queue._queue) == number)  # noqa: B023 - called before the next turn
        queue._signal_next()
        return futures


def note(name: str, size: int = 1) -> Work:
    """Return a write of a row with this name and about ``size`` bytes."""
    values: dict[str, object] = {"name": name + " " * size}
    return partial(
        run,
        statement="INSERT INTO hints (provider_id, received_at, due_at) VALUES (:name, 0, 0)",
        values=values,
    )


def notes(ledger: LedgerHarness) -> list[str]:
    return [str(row[0]).strip() for row in ledger.everything()["hints"]]


@contextmanager
def commits_counted(ledger: LedgerHarness) -> Iterator[list[str]]:
    seen: list[str] = []
    ledger.database.write(lambda connection: _driver(connection).set_trace_callback(seen.append))
    seen.clear()
    commits: list[str] = []
    yield commits
    ledger.database.write(lambda connection: _driver(connection).set_trace_callback(None))
    commits += [statement for statement in seen if statement == "COMMIT"]


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


# Many writers.


def test_every_write_of_many_threads_in_several_processes_is_stored(
    sqlite_url: str, path: Path
) -> None:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(writer_process(sqlite_url, threads=32, writes=4)) for _ in range(3)
        ]
        ends = [process.ended() for process in processes]
    assert [(end.status, end.err) for end in ends] == [(0, "")] * 3
    refs = [ref for end in ends for ref in refs_in(end.out)]
    assert len(refs) == len(set(refs)) == 3 * 32 * 4
    with opened(sqlite_url) as ledger:
        assert {job.ref for job in ledger.queries.jobs(limit=10_000)} == set(refs)
        assert ledger.totals.audit().ok
    assert is_sound(str(path))


def test_writes_that_wait_together_share_a_commit(ledger: LedgerHarness) -> None:
    with commits_counted(ledger) as commits:
        for future in in_one_group(ledger, [note(f"task-{number:02}") for number in range(20)]):
            future.result()
    assert len(commits) == 1
    assert len(notes(ledger)) == 20


@pytest.mark.parametrize("way", [SqliteDatabase.read, SqliteDatabase.write])
def test_a_commit_is_on_disk_before_it_returns_and_the_rules_hold_on_every_connection(
    ledger: LedgerHarness, way: Callable[..., object]
) -> None:
    def pragmas(connection: Connection) -> list[object]:
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    assert way(sqlite(ledger), pragmas) == ["wal", 2, 1]  # 2 is FULL


def test_a_write_returns_what_its_work_returned(ledger: LedgerHarness) -> None:
    def number(_: Connection, value: int) -> int:
        return value

    assert [
        future.result()
        for future in in_one_group(ledger, [partial(number, value=n) for n in range(100)])
    ] == list(range(100))


# One that fails.


def test_a_ledger_that_is_closed_during_a_commit_closes_after_it(ledger: LedgerHarness) -> None:
    """SQLite ends the process if a connection is closed while another thread uses it."""
    writing, go_on = threading.Event(), threading.Event()

    def work(connection: Connection) -> int:
        writing.set()
        assert go_on.wait(LIMIT)
        return int(connection.execute(text("SELECT 1")).scalar_one())

    with ThreadPoolExecutor(2) as threads:
        written = threads.submit(ledger.database.write, work)
        assert writing.wait(LIMIT)
        closed = threads.submit(ledger.database.close)
        with suppress(TimeoutError):
            closed.result(0.1)  # long enough for one that does not wait
        go_on.set()
        assert written.result(LIMIT) == 1
        closed.result(LIMIT)


def test_a_work_that_fails_inside_a_group_fails_alone(ledger: LedgerHarness) -> None:
    def mistake(connection: Connection) -> None:
        note("half done")(connection)
        raise OwnMistakeError

    good, bad, refused, last = in_one_group(
        ledger, [note("first"), mistake, note("first"), note("last")]
    )
    assert isinstance(bad.exception(), OwnMistakeError)
    assert isinstance(refused.exception(), IntegrityError)
    assert (good.exception(), last.exception()) == (None, None)
    assert notes(ledger) == ["first", "last"]


def test_a_statement_the_database_cannot_do_is_a_ledger_error_of_its_own(
    ledger: LedgerHarness,
) -> None:
    bad, good = in_one_group(
        ledger,
        [lambda connection: connection.exec_driver_sql("SELECT * FROM nowhere"), note("good")],
    )
    assert isinstance(bad.exception(), LedgerError)
    assert good.exception() is None
    assert notes(ledger) == ["good"]


def test_a_commit_that_fails_fails_every_write_of_its_group(
    ledger: LedgerHarness, path: Path
) -> None:
    ledger.database.write(note("before"))
    with files_no_larger_than(path.with_name(path.name + "-wal").stat().st_size + 100):
        futures = in_one_group(ledger, [note("first", 2000), note("second", 2000)])
    assert [type(future.exception()) for future in futures] == [LedgerError] * 2
    assert "disk I/O error" in str(futures[0].exception())
    assert notes(ledger) == ["before"]
    ledger.database.write(note("after"))
    assert notes(ledger) == ["after", "before"]


def test_a_commit_that_fails_leaves_the_file_to_others_and_the_next_write_succeeds(
    ledger: LedgerHarness, path: Path
) -> None:
    def refuse(action: int, name: str | None, *_: object) -> int:
        is_commit = (action, name) == (sqlite3.SQLITE_TRANSACTION, "COMMIT")
        return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK

    def work(connection: Connection) -> None:
        note("refused")(connection)
        _driver(connection).set_authorizer(refuse)

    with pytest.raises(LedgerError, match="not authorized"):
        ledger.database.write(work)
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as outsider:
        outsider.execute("BEGIN IMMEDIATE").close()
        outsider.execute("ROLLBACK").close()
    ledger.database.write(note("after"))
    assert notes(ledger) == ["after"]


def test_on_a_full_disk_no_write_of_the_group_is_stored_and_each_fails(
    ledger: LedgerHarness,
) -> None:
    ledger.database.write(note("before"))
    allow_pages(ledger, 3)
    futures = in_one_group(ledger, [note("small"), note("large", 100_000), note("behind")])
    assert [type(future.exception()) for future in futures] == [LedgerError] * 3
    assert "rolled its transaction back" in str(futures[0].exception())
    assert notes(ledger) == ["before"]
    allow_pages(ledger, 100_000)
    ledger.database.write(note("after"))
    assert notes(ledger) == ["after", "before"]


def test_on_a_full_disk_each_write_that_succeeded_is_stored(ledger: LedgerHarness) -> None:
    allow_pages(ledger, 20)
    works = [
        note(f"task-{number:02}", random.Random(number).choice([10, 3000, 20_000]))  # noqa: S311 - sizes
        for number in range(30)
    ]
    futures = [
        number
        for group in (works[:10], works[10:20], works[20:])
        for number in in_one_group(ledger, group)
    ]
    stored = {
        f"task-{number:02}" for number, future in enumerate(futures) if future.exception() is None
    }
    assert set(notes(ledger)) == stored
    assert {type(future.exception()) for future in futures} <= {LedgerError, type(None)}
    assert len(stored) < 30


def allow_pages(ledger: LedgerHarness, more: int) -> None:
    """Let the file grow by this many pages; then SQLite reports a full disk."""

    def limit(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + more}")

    ledger.database.write(limit)


# Others who hold the file.


def test_a_ledger_locked_by_an_outsider_is_a_ledger_error_in_bounded_time(
    impatient: float, path: Path, sqlite_url: str
) -> None:
    with (
        opened(sqlite_url) as ledger,
        closing(sqlite3.connect(path, isolation_level=None)) as outsider,
    ):
        ledger.database.write(note("before"))
        outsider.execute("BEGIN EXCLUSIVE")
        started = monotonic()
        failures = side_by_side(
            [partial(failure_of, ledger, note(f"task-{number}")) for number in range(8)]
        )
        assert [type(failure) for failure in failures] == [LedgerError] * 8
        assert monotonic() - started < 8 * impatient
        assert notes(ledger) == ["before"]  # reading goes on
        outsider.execute("ROLLBACK")
        ledger.database.write(note("after"))
        assert notes(ledger) == ["after", "before"]


def failure_of(ledger: LedgerHarness, work: Work) -> Exception | None:
    try:
        ledger.database.write(work)
    except LedgerError as error:
        return error
    return None


@pytest.mark.usefixtures("impatient")
def test_a_write_that_was_refused_is_not_done_later(sqlite_url: str) -> None:
    with opened(sqlite_url) as ledger:
        with (
            sqlite(ledger)._group_commit._leads,
            pytest.raises(LedgerError, match="took no write"),
        ):
            ledger.database.write(note("refused"))
        ledger.database.write(note("taken"))
        assert notes(ledger) == ["taken"]


def test_a_killed_process_that_held_the_file_lock_blocks_no_other(
    ledger: LedgerHarness, path: Path
) -> None:
    hold = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'ab');"
        "fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
    )
    with python("-c", hold, f"{path}.lock") as holder, ThreadPoolExecutor(1) as threads:
        assert holder.stdout.readline() == b"\n"
        write = threads.submit(ledger.database.write, note("patient"))
        until(
            lambda: a_process_waits_for(Path(f"{path}.lock")), what="the write waits for the lock"
        )
        holder.kill()
        write.result(timeout=20)
    assert notes(ledger) == ["patient"]


def a_process_waits_for(path: Path) -> bool:
    """Return whether a process waits for the lock of a file."""
    locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("-> FLOCK" in line and f":{path.stat().st_ino} " in line for line in locks)


@pytest.mark.parametrize("after", [1, 40, 150])
def test_what_a_killed_process_reported_as_stored_is_there(
    sqlite_url: str, path: Path, after: int
) -> None:
    with writer_process(sqlite_url, threads=8, writes=1000) as process:
        output = b"".join(process.stdout.readline() for _ in range(after + random.randrange(after)))  # noqa: S311 - any moment will do
        process.kill()
        refs = refs_in(output.decode() + process.ended().out)
    with opened(sqlite_url) as ledger:
        assert set(refs) <= {job.ref for job in ledger.queries.jobs(limit=100_000)}
        ledger.submitting()
    assert len(refs) >= after
    assert is_sound(str(path))
