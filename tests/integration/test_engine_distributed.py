"""The engine of several machines: notifications, polling for lost ones, and dead workers."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine_harness import OFTEN, DistributedHarness, Gate, at_work
from ledgers import Books, opened, stored, succeeded, urls
from processes import ROOT
from procrastinate.sql import queries
from sqlalchemy import text
from waiting import until

from receiver.errors import LedgerError
from receiver.ledger import due_notifications, notifications
from receiver.ledger.claims import LEASE
from receiver.ledger.notifications import QueueName, queue_of
from receiver.ledger.outbox import Outbox
from receiver.model import AssetState, Source
from receiver.services import Services
from receiver.settings import Settings
from receiver.worker import pool
from receiver.worker.engine import WorkQueue


@pytest.fixture
def harness(postgres_url: str, tmp_path: Path) -> Iterator[DistributedHarness]:
    """Return a harness on PostgreSQL."""
    with opened(postgres_url) as books:
        yield DistributedHarness(books, tmp_path, postgres_url)


@pytest.fixture
def gate(harness: DistributedHarness) -> Iterator[Gate]:
    """Have the work last until the gate is opened, at the latest when the test ends."""
    harness.work = gate = Gate()
    yield gate
    gate.open()


def forget_wakes(books: Books) -> None:
    """Lose every wake."""
    books.execute("DELETE FROM procrastinate_jobs")


# What is woken, and when.


def test_a_success_wakes_somebody_for_each_picture_in_the_transaction_that_stores_it(
    harness: DistributedHarness,
) -> None:
    ref = harness.books.waiting()
    assert harness.wakes() == []
    harness.books.deliver(ref, succeeded(*urls(3)))
    assert harness.wakes() == [f"assets/{ref}/{idx}" for idx in range(3)]


def test_a_transaction_that_is_rolled_back_wakes_nobody(harness: DistributedHarness) -> None:
    def wake_and_fail(connection: object) -> None:
        notifications.notify_job(connection, "a-job", harness.books.clock())  # type: ignore[arg-type]
        raise LedgerError("no")

    with pytest.raises(LedgerError):
        harness.books.database.write(wake_and_fail)
    assert harness.wakes() == []


def test_the_last_picture_wakes_somebody_to_conclude_the_job(harness: DistributedHarness) -> None:
    ref = harness.books.archiving(2)
    forget_wakes(harness.books)
    first, last = harness.books.assets.claim(2)
    harness.books.assets.finish(first, stored(first))
    assert harness.wakes() == []
    harness.books.assets.finish(last, stored(last))
    assert harness.wakes() == [f"jobs/{ref}"]


def test_fresh_urls_an_operators_retry_and_a_strangers_hint_wake_somebody(
    harness: DistributedHarness,
) -> None:
    books = harness.books
    ref = books.archiving(2)
    for claimed in books.assets.claim(2):
        books.assets.retry(claimed, books.clock() + 60, "not yet")
    forget_wakes(books)
    books.deliver(ref, succeeded(urls(2)[0], "https://files.test/fresh"), Source.POLL)
    assert harness.wakes() == [f"assets/{ref}/1"]
    forget_wakes(books)
    lost = books.failed("task-2")
    books.operator.retry(lost)
    assert harness.wakes() == [f"jobs/{lost}"]
    forget_wakes(books)
    books.hints.add("task-3")
    assert harness.wakes() == ["hints/task-3"]


def test_a_row_has_one_wake_however_often_it_becomes_due(harness: DistributedHarness) -> None:
    ref = harness.books.archiving()
    for version in ("second", "third"):
        harness.books.deliver(ref, succeeded(f"https://files.test/{version}"), Source.POLL)
    assert harness.wakes() == [f"assets/{ref}/0"]


def test_two_who_wake_for_one_row_at_once_both_have_their_say_and_there_is_one_wake(
    harness: DistributedHarness,
) -> None:
    ref, books = harness.books.archiving(), harness.books
    forget_wakes(books)
    with opened(harness.url) as other, ExitStack() as stack:
        engine = other.database._engine  # type: ignore[attr-defined]
        first = stack.enter_context(engine.begin())
        notifications.notify_assets(
            first, ref, [0], books.clock()
        )  # not committed yet: invisible, and in the way
        second = threading.Thread(
            target=books.deliver, args=(ref, succeeded("https://files.test/fresh"), Source.POLL)
        )
        second.start()
        waits = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        until(
            lambda: other.database.read(lambda connection: connection.execute(waits).scalar()),
            what="the second in the way of the first",
        )
        stack.close()
        second.join(10)
    assert harness.wakes() == [f"assets/{ref}/0"]
    assert books.assets_of(ref)[0].url == "https://files.test/fresh"


def test_an_event_wakes_each_destination_once_however_much_there_is_to_tell(
    harness: DistributedHarness,
) -> None:
    name = (
        "https://a.host.whose.name.is.too.long.for.a.channel.of.postgresql.example.com (0123abcd)"
    )
    Outbox(harness.books.database, harness.books.clock).register([name, "log:"])
    harness.books.failed("task-1")
    harness.books.failed("task-2")
    assert sorted(harness.wakes()) == sorted(
        queue_of(notifications.events_queue(destination)) for destination in (name, "log:")
    )


@pytest.mark.parametrize("deadline", [0.0, 1_700_000_000.0, 9e99])
def test_a_deadline_of_any_time_is_a_priority(harness: DistributedHarness, deadline: float) -> None:
    harness.books.database.write(
        lambda connection: notifications.notify(
            connection, QueueName.ASSETS, {"assets/x/0": deadline}
        )
    )
    assert harness.wakes() == ["assets/x/0"]


def test_the_function_that_takes_wakes_is_the_one_the_installed_procrastinate_calls() -> None:
    assert "procrastinate_defer_jobs_v1(" in queries["defer_jobs"]
    assert "::procrastinate_job_to_defer_v1[]" in queries["defer_jobs"]


def test_every_lane_has_a_queue_that_is_woken_and_every_queue_a_lane(tmp_path: Path) -> None:
    environ = {"DATA_DIR": str(tmp_path), "EVENT_URLS": "log:"}
    work_queues = [queue.name for queue in Services(Settings.load(environ)).work_queues(tmp_path)]
    assert sorted(work_queues) == sorted([*QueueName, notifications.events_queue("log:")])
    assert set(due_notifications._DUE_ROWS) == set(QueueName)


# The sweep.


def test_the_sweep_wakes_for_what_is_due_and_has_no_wake_each_in_its_lane(
    harness: DistributedHarness,
) -> None:
    books = harness.books
    pending, complete = books.archiving(1, "task-1"), books.archiving(1, "task-2")
    books.execute(
        "UPDATE assets SET state = 'failed', due_at = NULL, finished_at = :now WHERE ref = :ref",
        now=1.0,
        ref=complete,
    )
    books.execute("UPDATE jobs SET due_at = :now WHERE ref = :ref", now=1.0, ref=complete)
    polled, not_yet = books.waiting("task-3"), books.submitting()
    crashed_asset, crashed_job = books.archiving(1, "task-4"), books.waiting("task-5")
    books.execute("UPDATE assets SET crashes = 2 WHERE ref = :ref", ref=crashed_asset)
    books.execute("UPDATE jobs SET crashes = 2 WHERE ref = :ref", ref=crashed_job)
    books.hints.add("task-x")
    Outbox(books.database, books.clock).register(["log:"])
    books.failed("task-6")
    forget_wakes(books)
    books.clock.advance(121)
    assert books.notify_due() == 6
    question = text("SELECT queue_name, queueing_lock FROM procrastinate_jobs")
    found = dict(
        books.database.read(lambda connection: [tuple(row) for row in connection.execute(question)])
    )
    assert found == {
        "assets": f"assets/{pending}/0",
        "suspect assets": f"assets/{crashed_asset}/0",
        "complete jobs": f"jobs/{complete}",
        "jobs": f"jobs/{polled}",
        "suspect jobs": f"jobs/{crashed_job}",
        "hints": "hints/task-x",
        queue_of(notifications.events_queue("log:")): queue_of(notifications.events_queue("log:")),
    }
    assert books.job(not_yet).due_at is not None


def test_the_sweep_wakes_for_nothing_twice_and_for_no_row_that_is_in_somebodys_hand(
    harness: DistributedHarness,
) -> None:
    harness.order(2)
    forget_wakes(harness.books)
    harness.books.assets.claim(1)
    assert (harness.books.notify_due(), harness.books.notify_due(), len(harness.wakes())) == (
        1,
        0,
        1,
    )
    forget_wakes(harness.books)
    harness.books.clock.advance(LEASE)
    assert harness.books.notify_due() == 2


def test_the_sweep_adds_no_wakes_where_enough_wait(
    harness: DistributedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.order(3)
    monkeypatch.setattr(due_notifications, "ENOUGH", 3)
    harness.books.execute("UPDATE procrastinate_jobs SET queueing_lock = queueing_lock || '/other'")
    assert harness.books.notify_due() == 0


def test_a_lost_wake_is_made_good_by_the_sweep(harness: DistributedHarness) -> None:
    harness.order()
    forget_wakes(harness.books)
    with at_work(harness.engine(sweep=OFTEN), harness.queue()):
        until(harness.archived, within=10, what="the work")


def test_work_due_later_is_begun_when_it_is_due(harness: DistributedHarness) -> None:
    harness.books.clock.follow(time.time)
    (ref,) = harness.order()
    harness.books.execute("UPDATE assets SET due_at = due_at + 0.5")
    with at_work(harness.engine(sweep=OFTEN), harness.queue()):
        until(harness.archived, within=10, what="the work")
    asset = harness.asset(ref)
    assert asset.finished_at is not None
    assert asset.finished_at - asset.announced_at >= 0.5


# Hands.


def test_every_thread_is_used_and_no_more_than_allowed(
    harness: DistributedHarness, gate: Gate
) -> None:
    harness.order(8)
    with at_work(harness.engine(), harness.queue(3)):
        until(lambda: gate.inside == 3, what="three hands at work")
        until(
            lambda: len(harness.wakes()) >= 5,
            what="five wakes that wait, or more where the sweep doubled one",
        )
        assert (gate.inside, len(harness.claimed)) == (3, 3)
        gate.open()
        until(lambda: harness.archived() == 8, what="all of the work")
    assert len(harness.claimed) == 8


def test_more_hands_than_asyncio_has_by_default_work_side_by_side(
    harness: DistributedHarness, gate: Gate
) -> None:
    harness.order(40)
    with at_work(harness.engine(), harness.queue(40)):
        until(lambda: gate.inside == 40, what="forty hands at work")
        gate.open()
        until(lambda: harness.archived() == 40, what="all of the work")


def test_a_wake_is_heard_at_once_and_gone_when_its_work_is_done(
    harness: DistributedHarness,
) -> None:
    with at_work(harness.engine(), harness.queue()):
        harness.order()
        until(harness.archived, what="the first, by which the engine is awake")
        harness.order()
        until(
            lambda: harness.archived() == 2,
            within=4.0,
            what="the work, before a hand would look by itself",
        )
        until(
            lambda: (
                [
                    lock
                    for lock in harness.wakes("doing") + harness.wakes()
                    if lock.startswith("assets")
                ]
                == []
            ),
            what="no wake left",
        )


def test_one_wake_of_a_chained_lane_stands_for_all_that_is_due(harness: DistributedHarness) -> None:
    harness.order(5)
    harness.books.execute("DELETE FROM procrastinate_jobs WHERE id > 1")
    queue = harness.queue()
    chained = WorkQueue(queue.name, 1, queue.next_due, queue.claim, queue.run, chained=True)
    with at_work(harness.engine(), chained):
        until(lambda: harness.archived() == 5, what="all of the work")


def test_two_machines_share_the_work_and_nothing_is_done_twice(
    harness: DistributedHarness, tmp_path: Path
) -> None:
    with opened(harness.url) as other_books:
        other = DistributedHarness(other_books, tmp_path, harness.url)
        both_at_work = threading.Barrier(2)
        harness.work = other.work = lambda _claimed: both_at_work.wait(20)
        with at_work(harness.engine(), harness.queue()), at_work(other.engine(), other.queue()):
            refs = harness.order(10)
            until(lambda: harness.archived() == 10, what="all of the work")
    assert sorted(harness.claimed + other.claimed) == sorted(refs)
    assert len(harness.claimed) == 5


# Deaths.


def test_the_wakes_of_a_dead_process_are_given_to_the_living(
    harness: DistributedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "HEARTBEAT_TIMEOUT", 0.5)
    (ref,) = harness.order()
    harness.books.execute(
        "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute')"
    )
    harness.books.execute(
        "UPDATE procrastinate_jobs SET status = 'doing',"
        " worker_id = (SELECT max(id) FROM procrastinate_workers)"
    )
    with at_work(harness.engine(), harness.queue()):
        until(
            lambda: harness.asset(ref).state is AssetState.ARCHIVED,
            what="the work of the dead",
        )
        until(
            lambda: [lock for lock in harness.wakes("doing") if lock.startswith("assets")] == [],
            what="no wake left in dead hands",
        )


def test_a_process_taken_for_dead_while_it_was_cut_off_works_again(
    harness: DistributedHarness,
) -> None:
    with at_work(harness.engine(), harness.queue()):
        harness.order()
        until(harness.archived, what="the first")
        harness.books.execute("DELETE FROM procrastinate_workers")
        harness.order()
        until(lambda: harness.archived() == 2, what="work by a worker that is registered anew")


def test_a_drain_ends_even_if_nothing_can_be_handed_back(
    harness: DistributedHarness, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.order()
    with at_work(engine := harness.engine(grace=0.05), harness.queue()) as thread:
        until(lambda: gate.inside, what="work in hand")

        def away(_held: object) -> None:
            raise LedgerError("away")

        monkeypatch.setattr(harness.books.claims, "release", away)
        engine.stop()
        thread.join(5)
        assert not thread.is_alive()
        gate.open()


def test_a_claim_that_breaks_off_stops_neither_lane_nor_engine(harness: DistributedHarness) -> None:
    queue, troubles = harness.queue(), [ZeroDivisionError("a mistake"), LedgerError("away")]

    def claim(limit: int) -> list[object]:
        if troubles:
            raise troubles.pop()
        return list(queue.claim(limit))

    harness.order(3)
    with at_work(
        harness.engine(sweep=OFTEN),
        WorkQueue(queue.name, 1, queue.next_due, claim, queue.run),  # type: ignore[arg-type]
    ):
        until(lambda: harness.archived() == 3, what="all of the work, the lost wakes' too")


def test_web_processes_do_without_procrastinate() -> None:
    asked = (
        "import sys; from receiver.services import Services; "
        "print('procrastinate' in sys.modules, 'psycopg' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == "False False\n"
