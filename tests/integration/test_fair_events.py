"""The order of deliveries: thousands of dead webhooks, or new ones, do not delay the others."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from event_dispatching import job_webhook_dispatcher
from event_server import EventServer
from ledgers import BASE_URL, NOW, LedgerHarness
from sqlalchemy import Connection, func, insert, select, update
from waiting import LIMIT, until

from receiver.events.job_webhooks import THREADS
from receiver.ledger.event_queue import JOB_WEBHOOKS, TURNS, is_retry
from receiver.ledger.outbox import Outbox
from receiver.ledger.tables import destinations, events, jobs, sendings
from receiver.model import EventType, Submission
from receiver.worker.embedded import EmbeddedEngine
from receiver.worker.engine import WorkQueue
from receiver.worker.notifier import Notifier

pytestmark = pytest.mark.both_databases
ALL = tuple(EventType)
DEAD_HOSTS = 3000
# Attempts of a delivery that has failed for hours.
MANY = 7


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Listen at all addresses of this machine and never accept: every client waits."""
    with socket.create_server(("0.0.0.0", 0), backlog=128) as server:
        yield server


def host(number: int, port: int) -> str:
    """Return an address of this machine."""
    return f"127.{number % 250}.{number // 250}.9:{port}"


def waiting(
    ledger: LedgerHarness, count: int, attempts: int, *, port: int = 1, first: int = 0
) -> None:
    """Insert jobs that each name a host of their own and have an event that is due."""
    refs = [f"{number:026}" for number in range(first, first + count)]
    job = {
        **dict.fromkeys(("base_url", "model", "prompt"), ""),
        "provider": "grsai",
        "api": "draw",
        "mode": "poll",
        "params": "{}",
        "state": "expired",
        "submitted_at": NOW,
        "deadline_at": NOW,
        "finished_at": NOW,
    }
    event = {"type": "job.expired", "idx": -1, "round": 0, "created_at": NOW, "payload": "{}"}
    due = {"destination": JOB_WEBHOOKS, "state": "pending", "since": NOW, "attempts": attempts}
    error = "timed out" if attempts else ""

    def fill(connection: Connection) -> None:
        if not connection.execute(select(destinations)).first():
            connection.execute(insert(destinations).values(name=JOB_WEBHOOKS, cursor=0))
        webhooks = [f"http://{host(number, port)}/" for number in range(first, first + count)]
        connection.execute(
            insert(jobs),
            [{**job, "ref": ref, "webhook": url} for ref, url in zip(refs, webhooks, strict=True)],
        )
        connection.execute(insert(events), [{**event, "ref": ref} for ref in refs])
        numbers = {row.ref: row.id for row in connection.execute(select(events))}
        connection.execute(
            insert(sendings),
            [
                {**due, "event": numbers[ref], "ref": ref, "error": error, "due_at": NOW - 1}
                for ref in refs
            ],
        )
        newest = select(func.max(events.c.id)).scalar_subquery()
        connection.execute(update(destinations).values(cursor=newest))

    ledger.database.write(fill)


def expired(ledger: LedgerHarness, webhook: str, task: str = "task-1") -> str:
    """Submit a job that has one event."""
    ref = ledger.jobs.submit(Submission("a fox", "m", {}, webhook=webhook), BASE_URL).ref
    ledger.jobs.record_accepted(ref, task)
    ledger.jobs.expire(ref, "no report")
    return ref


def running(ledger: LedgerHarness) -> int:
    """Return how many deliveries are claimed."""
    query = select(func.count()).where(sendings.c.claim.isnot(None))
    return ledger.database.read(lambda connection: connection.execute(query).scalar_one())


def test_a_new_event_does_not_wait_for_the_retries_of_thousands_of_dead_hosts(
    ledger: LedgerHarness, silent_server: socket.socket, event_server: EventServer, tmp_path: Path
) -> None:
    silent_port = silent_server.getsockname()[1]
    waiting(ledger, DEAD_HOSTS, MANY, port=silent_port)
    hosts = [host(number, silent_port) for number in range(DEAD_HOSTS)]
    dispatcher = job_webhook_dispatcher(ledger, *hosts, event_server.address)
    queue = WorkQueue(
        "events", dispatcher.threads, dispatcher.next_due, dispatcher.claim, dispatcher.send
    )
    notifier = Notifier(tmp_path / "worker.fifo")
    engine = EmbeddedEngine(ledger.claims, notifier, ledger.clock, poll_interval=0.05)
    thread = threading.Thread(target=engine.run, args=([queue],))
    thread.start()
    try:
        until(lambda: running(ledger) == THREADS - THREADS // 4, what="all that retries may have")
        ref = expired(ledger, event_server.url)
        until(lambda: event_server.types(ref) == ["job.expired"], what="the new event is sent")
        assert running(ledger) >= THREADS - THREADS // 4, "no host has answered meanwhile"
    finally:
        engine.stop()
        silent_server.close()  # ends what hangs
        thread.join(LIMIT)
    assert not thread.is_alive()
    until(lambda: not any(each.name == "events-worker" for each in threading.enumerate()))


def test_a_new_event_does_not_wait_for_thousands_that_were_not_tried_yet_either(
    ledger: LedgerHarness,
) -> None:
    waiting(ledger, DEAD_HOSTS, 0)
    ref = expired(ledger, "https://shop.test/")
    outbox = Outbox(ledger.database, ledger.clock)
    first, second = (outbox.claim(JOB_WEBHOOKS, ALL, 1, turn=turn)[0].row for turn in range(2))
    assert first.event == 1, "the oldest has its turn too"
    assert second.ref == ref


def test_a_host_that_failed_once_is_tried_before_those_that_failed_for_hours(
    ledger: LedgerHarness,
) -> None:
    waiting(ledger, 50, MANY)
    waiting(ledger, 1, 1, first=50)
    outbox = Outbox(ledger.database, ledger.clock)
    (claimed,) = outbox.claim(JOB_WEBHOOKS, ALL, 1)
    assert claimed.row.attempts == 2


def test_retries_have_their_turn_however_many_new_events_come(ledger: LedgerHarness) -> None:
    waiting(ledger, 20, MANY)
    outbox = Outbox(ledger.database, ledger.clock)
    retried = 0
    for turn in range(40 * TURNS):
        waiting(ledger, 4, 0, first=20 + 4 * turn)
        claimed = outbox.claim(JOB_WEBHOOKS, ALL, 4, turn=turn)
        assert len(claimed) == 4
        retried += sum(map(is_retry, claimed))
        for one in claimed:
            outbox.mark_sent(one)
        if retried == 20:
            return
    pytest.fail(f"only {retried} of 20 were tried again")


def test_a_quarter_of_the_threads_takes_no_retries_and_has_them_again_when_one_ends(
    ledger: LedgerHarness,
) -> None:
    waiting(ledger, 2 * THREADS, MANY)
    dispatcher = job_webhook_dispatcher(ledger)
    first = dispatcher.claim(THREADS)
    assert len(first) == THREADS - THREADS // 4
    assert dispatcher.claim(THREADS - len(first)) == []
    dispatcher.send(first[0])
    assert len(dispatcher.claim(4)) == 1
