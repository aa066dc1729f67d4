"""The webhooks of jobs, from the outbox to servers: signed, in order, and each host by itself."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from event_dispatching import dispatch_due, hosts_of, job_webhook_dispatcher
from event_server import SECRET, EventServer
from ledgers import BASE_URL, LedgerHarness
from waiting import until

from receiver.events import job_webhooks
from receiver.events.dispatcher import RETRY_FOR
from receiver.events.job_webhooks import HOST_THREADS
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.ledger.outbox import Outbox
from receiver.ledger.queries.events import DestinationStatus
from receiver.model import Submission

DEAD = "http://127.0.0.1:1/hook"


@pytest.fixture
def other_server() -> Iterator[EventServer]:
    with EventServer() as server:
        yield server


def posted(ledger: LedgerHarness, webhook: str | None, task: str, prompt: str = "a fox") -> str:
    """Submit a job with this webhook; return its ref."""
    ref = ledger.jobs.submit(Submission(prompt, "m", {}, webhook=webhook), BASE_URL).ref
    ledger.jobs.record_accepted(ref, task)
    return ref


def expired(ledger: LedgerHarness, webhook: str | None, task: str) -> str:
    """Submit a job that has one event."""
    ref = posted(ledger, webhook, task)
    ledger.jobs.expire(ref, "no report")
    return ref


def status(ledger: LedgerHarness) -> DestinationStatus:
    (found,) = ledger.events.destinations()
    return found


@pytest.mark.both_databases
def test_a_jobs_events_go_to_its_webhook_alone_and_signed(
    ledger: LedgerHarness, event_server: EventServer, other_server: EventServer
) -> None:
    before = expired(ledger, None, "task-0")
    assert ledger.events.destinations() == [], "no job has a webhook yet"
    one = posted(ledger, f"{event_server.url}/1?k=secret", "task-1")
    two = expired(ledger, other_server.url, "task-2")
    without = expired(ledger, None, "task-3")
    ledger.jobs.expire(one, "no report")
    dispatch_due(job_webhook_dispatcher(ledger, event_server.address, other_server.address))
    (received,) = event_server.received
    assert (received.path, received.event["data"]["ref"]) == ("/hook/1?k=secret", one)
    assert received.is_signed_by(SECRET)
    assert other_server.types(two) == other_server.types() == ["job.expired"]
    assert {before, without}.isdisjoint({one, two})
    found = status(ledger)
    assert (found.destination, found.waiting, found.not_handed) == (JOB_WEBHOOKS, 0, 0)
    assert found.recent.success_rate == 1.0


@pytest.mark.both_databases
def test_a_host_that_cannot_be_reached_delays_only_its_own_events(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    for number in range(20):
        expired(ledger, f"{DEAD}/{number}", f"dead-{number}")
    dispatcher = job_webhook_dispatcher(ledger, "127.0.0.1:1", event_server.address)
    claimed = dispatcher.claim(16)
    dispatcher.send(claimed[0])
    good = expired(ledger, event_server.url, "task-1")
    for one in claimed[1:]:
        dispatcher.send(one)  # postponed with a batch of the others
    assert status(ledger).failing == 1, "the others were not tried"
    assert [one.row.ref for one in dispatcher.claim(16)] == [good], "nothing stands before it"
    assert (dispatcher.next_due() or 0.0) > ledger.clock(), "the host pauses"


def test_the_end_of_the_pause_and_an_operator_bring_what_was_postponed(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    refs = [expired(ledger, event_server.url, f"task-{number}") for number in range(3)]
    hosts, refused = hosts_of(ledger), job_webhook_dispatcher(ledger)
    dispatcher = job_webhook_dispatcher(ledger, event_server.address, hosts=hosts)
    refused.send(refused.claim(1)[0])
    assert status(ledger).last_error.endswith("to FETCH_ALLOW"), "the policy holds at each delivery"
    start = f"http://{event_server.address}/"
    hosts.record(start, away=True)
    dispatch_due(dispatcher)
    assert event_server.received == []
    ledger.clock.advance(1.1)
    dispatch_due(dispatcher)
    assert [received.event["data"]["ref"] for received in event_server.received] == refs[1:]
    hosts.record(start, away=True)
    ledger.clock.advance(0.1)
    Outbox(ledger.database, ledger.clock).expedite(JOB_WEBHOOKS)
    dispatch_due(dispatcher)
    assert event_server.types(refs[0]) == ["job.expired"]


@pytest.mark.both_databases
def test_what_waited_three_days_for_a_dead_host_is_set_aside_without_another_attempt(
    ledger: LedgerHarness,
) -> None:
    expired(ledger, f"{DEAD}/1", "task-1")
    hosts = hosts_of(ledger)
    dispatcher = job_webhook_dispatcher(ledger, "127.0.0.1:1", hosts=hosts)
    dispatch_due(dispatcher, rounds=1)
    ledger.clock.advance(RETRY_FOR - 10)
    for number in range(2, 5):
        expired(ledger, f"{DEAD}/{number}", f"task-{number}")
    waits = dispatcher.claim(16)
    dispatcher.send(waits[0])  # the pause begins
    for one in waits[1:]:
        dispatcher.send(one)
    ledger.clock.advance(11)
    hosts.record("http://127.0.0.1:1/", away=True)
    dispatch_due(dispatcher)
    aside = ledger.events.set_aside()
    assert [row.event for row in aside] == [1], "the others came later"
    assert "could not be reached, so this delivery was not tried again" in aside[0].error
    ledger.clock.advance(RETRY_FOR)
    hosts.record("http://127.0.0.1:1/", away=True)
    dispatch_due(dispatcher)
    assert [row.event for row in ledger.events.set_aside()] == [1, 2, 3, 4]
    assert status(ledger).waiting == 0


def test_a_slow_host_gets_its_share_of_the_threads_and_its_answer_pauses_nothing(
    ledger: LedgerHarness,
    event_server: EventServer,
    other_server: EventServer,
) -> None:
    for number in range(2 * HOST_THREADS):
        expired(ledger, f"{event_server.url}/{number}", f"slow-{number}")
    good = expired(ledger, other_server.url, "task-1")
    dispatcher = job_webhook_dispatcher(ledger, event_server.address, other_server.address)
    event_server.gate.clear()
    event_server.status = 503
    claimed = dispatcher.claim(16)
    with ExitStack() as stack:
        for one in claimed[:HOST_THREADS]:
            thread = threading.Thread(target=dispatcher.send, args=(one,))
            thread.start()
            stack.callback(thread.join)
        stack.callback(event_server.gate.set)
        until(lambda: event_server.waiting == HOST_THREADS)
        for one in claimed[HOST_THREADS:]:
            dispatcher.send(one)
        assert other_server.types(good) == ["job.expired"], "it did not wait"
        assert len(event_server.received) == HOST_THREADS
    assert status(ledger).failing == HOST_THREADS
    assert "answered 503" in status(ledger).last_error
    event_server.status = 204
    another = expired(ledger, f"{event_server.url}/another", "task-2")
    dispatch_due(dispatcher, rounds=1)
    assert event_server.types(another) == ["job.expired"], "an answer pauses nothing"
    ledger.clock.advance(job_webhooks.POSTPONED)
    dispatch_due(dispatcher, rounds=1)
    assert len(event_server.received) > HOST_THREADS + 1, "what was postponed is due"


@pytest.mark.both_databases
def test_a_jobs_events_keep_their_order_when_the_first_has_to_wait(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    event_server.statuses = [500]
    ref = posted(ledger, event_server.url, "task-1")
    ledger.jobs.expire(ref, "no report")
    ledger.deliver(ref, b'{"id": "task-1", "status": "failed"}')
    dispatcher = job_webhook_dispatcher(ledger, event_server.address)
    for _ in range(3):
        dispatch_due(dispatcher)
        ledger.clock.advance(60)
    seen = event_server.types(ref)
    assert seen[0] == seen[1] == "job.expired"
    assert seen == sorted(seen, key=ledger.event_types(ref).index)


def test_an_address_that_a_host_redirects_to_is_not_followed(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    event_server.status, event_server.headers = 302, {"Location": DEAD}
    expired(ledger, event_server.url, "task-1")
    dispatch_due(job_webhook_dispatcher(ledger, event_server.address))
    assert "redirects are not followed, name the last address instead" in status(ledger).last_error
