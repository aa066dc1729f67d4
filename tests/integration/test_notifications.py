"""What transactions note is sent after their commits, and only then."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from ledgers import LedgerHarness, opened, stored, succeeded, urls
from postgres import KillablePostgres
from processes import Finished, python
from sqlalchemy import Connection
from waiting import until

from receiver.errors import LedgerError
from receiver.ledger import schema
from receiver.ledger.claims import MOST_CRASHES
from receiver.ledger.notifications import QueueName, events_queue, is_named, notify
from receiver.ledger.postgres import PostgresDatabase, conninfo
from receiver.ledger.sqlite import SqliteDatabase
from receiver.model import Source
from receiver.services import Services
from receiver.settings import Settings


@contextmanager
def listening(url: str) -> Iterator[Callable[[], list[str]]]:
    """Listen; yield a function that returns what was sent until now."""
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        connection.execute("LISTEN receiver")
        yield lambda: [found.payload for found in connection.notifies(timeout=0.5)]


def sent_by(url: str, change: Callable[[LedgerHarness], object]) -> list[str]:
    """Return the names that a change of the ledger sends."""
    with listening(url) as received:
        with opened(url) as ledger:
            change(ledger)
        return sorted(set(received()))


def test_a_transaction_sends_each_name_once_and_a_rolled_back_one_nothing(
    killable_url: str,
) -> None:
    with listening(killable_url) as received:
        with closing(PostgresDatabase(killable_url)) as database:

            def broken(connection: Connection) -> None:
                notify(connection, QueueName.HINTS)
                raise LedgerError("no")

            with pytest.raises(LedgerError):
                database.write(broken)

            def twice(connection: Connection) -> None:
                notify(connection, QueueName.ASSETS)
                notify(connection, QueueName.ASSETS)

            database.write(twice)
        assert received() == ["assets"]  # the end of the database sends what is left
    assert "notifications" not in [thread.name for thread in threading.enumerate()]


def test_a_restart_of_postgresql_does_not_end_the_sender(
    killable: KillablePostgres, killable_url: str
) -> None:
    with closing(PostgresDatabase(killable_url)) as database:
        database.write(lambda connection: notify(connection, QueueName.ASSETS))
        killable.kill()
        database._sender.send({"jobs"})
        killable.start()
        with listening(killable_url) as received:

            def is_received() -> bool:
                database.write(lambda connection: notify(connection, QueueName.ASSETS))
                return bool(received())

            until(is_received, what="a notification after the restart")


def test_each_change_that_makes_rows_due_names_their_work_queue(postgres_url: str) -> None:
    def deliver(ledger: LedgerHarness) -> None:
        ledger.deliver(ledger.waiting(), succeeded(*urls(2)))

    def finish(ledger: LedgerHarness) -> None:
        for claimed in ledger.assets.claim(2):
            ledger.assets.finish(claimed, stored(claimed))

    assert sent_by(postgres_url, deliver) == ["assets"]
    assert sent_by(postgres_url, finish) == ["complete jobs", "events"]
    assert sent_by(postgres_url, lambda ledger: ledger.failed("task-2")) == ["events"]
    assert sent_by(
        postgres_url, lambda ledger: ledger.operator.retry(ledger.queries.jobs()[0].ref)
    ) == ["jobs"]
    assert sent_by(postgres_url, lambda ledger: ledger.hints.add("task-3")) == ["hints"]


def test_fresh_urls_notify_assets(postgres_url: str) -> None:
    with opened(postgres_url) as ledger:
        ref = ledger.archiving(2)
        for claimed in ledger.assets.claim(2):
            ledger.assets.retry(claimed, ledger.clock() + 60, "not yet")
    fresh = succeeded(urls(2)[0], "https://files.test/fresh")
    assert sent_by(postgres_url, lambda ledger: ledger.deliver(ref, fresh, Source.POLL)) == [
        "assets"
    ]


def noted_by(ledger: LedgerHarness, change: Callable[[], object]) -> set[str]:
    """Return the names that a change of a SQLite ledger notes."""
    assert isinstance(ledger.database, SqliteDatabase)
    noted = set[str]()
    ledger.database.notified = noted.add
    change()
    return noted


@pytest.mark.parametrize("crashes", [0, 2])
def test_rows_of_suspects_notify_their_work_queue_and_the_other_one_when_they_go_there(
    sqlite_url: str, crashes: int
) -> None:
    suspects = crashes > 0
    with opened(sqlite_url) as ledger:
        ref = ledger.archiving()
        ledger.execute("UPDATE assets SET crashes = :crashes", crashes=crashes)
        (asset,) = ledger.assets.claim(1, suspects=suspects)
        retry = partial(ledger.assets.retry, asset, ledger.clock() + 1, "not yet")
        assert noted_by(ledger, retry) == ({"assets"} if suspects else set())
        ledger.waiting("task-2")
        ledger.clock.advance(ledger.timing.poll_after)
        ledger.execute("UPDATE jobs SET crashes = :crashes", crashes=crashes)
        (job,) = (ledger.jobs.claim_suspects if suspects else ledger.jobs.claim)(1)
        release = partial(ledger.jobs.release, job, ledger.clock() + 1)
        assert noted_by(ledger, release) == ({"jobs"} if suspects else set())

        ledger.execute("UPDATE assets SET crashes = :crashes", crashes=crashes)
        ledger.execute("UPDATE jobs SET crashes = :crashes", crashes=crashes)
        fresh = partial(ledger.deliver, ref, succeeded("https://files.test/fresh"), Source.POLL)
        assert noted_by(ledger, fresh) == {"assets", *["suspect assets"][:crashes]}
        ledger.execute("UPDATE assets SET due_at = due_at + 60")
        assert noted_by(ledger, partial(ledger.operator.expedite, ref)) == {
            *("assets", "jobs"),
            *["suspect assets", "suspect jobs"][:crashes],
        }


def test_the_retry_of_an_archived_job_notifies_the_complete_jobs(sqlite_url: str) -> None:
    with opened(sqlite_url) as ledger:
        ref = ledger.archived()
        # Its manifest was set aside.
        ledger.execute("UPDATE jobs SET crashes = :crashes", crashes=MOST_CRASHES)
        assert noted_by(ledger, partial(ledger.operator.retry, ref)) == {"complete jobs"}


def test_every_work_queue_has_a_name_that_notifies_it(tmp_path: Path) -> None:
    environ = {"DATA_DIR": str(tmp_path), "EVENT_URLS": "log:"}
    work_queues = [queue.name for queue in Services(Settings.load(environ)).work_queues(tmp_path)]
    assert sorted(work_queues) == sorted(
        [*(set(QueueName) - {QueueName.EVENTS}), events_queue("log:")]
    )
    for name in QueueName:
        named = [queue for queue in work_queues if is_named(queue, {name})]
        assert named == [events_queue("log:") if name is QueueName.EVENTS else name]


def test_a_process_that_ends_sends_its_last_notification(killable_url: str) -> None:
    schema.migrate(killable_url)
    program = (
        "import sys; from contextlib import closing; from receiver.ledger.hints import Hints;"
        "from receiver.ledger.postgres import PostgresDatabase; from ledgers import TIMING\n"
        "with closing(PostgresDatabase(sys.argv[1])) as database:"
        " Hints(database, TIMING, lambda: 1.0).add('task-1')"
    )
    with listening(killable_url) as received:
        with python("-c", program, killable_url) as process:
            assert process.ended() == Finished(0, "", "")
        assert received() == ["hints"]
