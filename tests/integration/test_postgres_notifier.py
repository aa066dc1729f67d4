"""The listening connection: lost in every way, it comes back; and without it polling works."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
from engine_harness import at_work
from ledgers import opened, stored
from postgres import KillablePostgres
from waiting import until

from receiver.ledger import schema
from receiver.ledger.claims import Claimed
from receiver.ledger.postgres import conninfo
from receiver.ledger.rows import Asset
from receiver.worker.embedded import EmbeddedEngine
from receiver.worker.engine import WorkQueue
from receiver.worker.notifier import ALL, Listener
from receiver.worker.postgres_notifier import PostgresNotifier

CUT_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class NoWatch:
    """Counts connections."""

    connections = 0

    def connected(self, _connection: object) -> None:
        self.connections += 1

    def check(self, _connection: object) -> bool:
        return False


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(conninfo(url), autocommit=True)


@contextmanager
def listening(url: str, watch: NoWatch) -> Iterator[Listener]:
    """Listen; no thread may be left after that."""
    with PostgresNotifier(conninfo(url), watch).listen() as listener:
        until(lambda: watch.connections == 1, what="the connection")
        yield listener
    until(
        lambda: "listener" not in [thread.name for thread in threading.enumerate()],
        what="the end of the listening thread",
    )


def wait_for(url: str, listener: Listener, name: str) -> None:
    """Wait until a notification that is sent now arrives."""

    def arrives() -> bool:
        with connect(url) as connection:
            connection.execute("SELECT pg_notify('receiver', %s)", [name])
        return name in listener.wait(0.5)

    until(arrives, what=f"a notification of {name}")


def test_a_notification_of_another_process_arrives_with_its_name(killable_url: str) -> None:
    with listening(killable_url, NoWatch()) as listener:
        wait_for(killable_url, listener, "assets")


def test_a_cut_connection_comes_back_and_everything_is_looked_at_once(killable_url: str) -> None:
    with listening(killable_url, watch := NoWatch()) as listener:
        until(lambda: ALL in listener.wait(0.1), what="the first look")
        with connect(killable_url) as connection:
            connection.execute(CUT_ALL)
        until(lambda: ALL in listener.wait(0.1), what="a look after the loss")
        assert watch.connections == 2
        wait_for(killable_url, listener, "assets")


def test_a_restart_of_postgresql_is_survived(killable: KillablePostgres, killable_url: str) -> None:
    with listening(killable_url, watch := NoWatch()) as listener:
        killable.kill()
        killable.start()
        until(lambda: watch.connections == 2, what="the second connection")
        wait_for(killable_url, listener, "jobs")


def test_it_waits_while_no_connection_is_free(killable_url: str) -> None:
    with listening(killable_url, watch := NoWatch()) as listener:
        with ExitStack() as others:

            def take_all() -> None:
                with suppress(psycopg.OperationalError):
                    while True:
                        others.enter_context(connect(killable_url))

            first = others.enter_context(connect(killable_url))
            take_all()
            first.execute(CUT_ALL + " AND query LIKE 'LISTEN%'")
            take_all()
        until(lambda: watch.connections == 2, what="the second connection")
        wait_for(killable_url, listener, "jobs")


def test_it_stops_at_once_while_postgresql_is_unavailable() -> None:
    notifier = PostgresNotifier("host=/nonexistent", NoWatch())
    with notifier.listen():
        pass
    notifier.notify()
    assert "listener" not in [thread.name for thread in threading.enumerate()]


def test_threads_may_notify_while_it_stops() -> None:
    notifier, over, errors = PostgresNotifier("host=/nonexistent", NoWatch()), threading.Event(), []

    def notify_until_over() -> None:
        try:
            while not over.is_set():
                notifier.notify()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=notify_until_over)
    thread.start()
    for _ in range(20):
        with notifier.listen():
            pass
    over.set()
    thread.join()
    assert not errors


def test_the_engine_works_without_any_notification_by_polling(killable_url: str) -> None:
    schema.migrate(killable_url)
    with opened(killable_url) as ledger:

        def archive(claimed: Claimed[Asset]) -> None:
            ledger.assets.finish(claimed, stored(claimed))

        queue = WorkQueue(
            "assets",
            2,
            lambda: None,
            ledger.assets.claim,
            archive,
        )
        silent = PostgresNotifier("host=/nonexistent", NoWatch())
        engine = EmbeddedEngine(
            ledger.claims, silent, ledger.clock, poll_interval=0.05, claim_first=True
        )
        with at_work(engine, queue):
            ref = ledger.archiving(1)
            until(lambda: ledger.assets_of(ref)[0].state == "archived", what="the asset")
