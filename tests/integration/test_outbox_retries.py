"""An event is sent until its destination accepts it or three days pass; others do not wait."""

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from event_dispatching import dispatch_due, dispatcher_to, last_error, make_dispatcher
from event_server import SECRET, EventServer
from ledgers import LedgerHarness
from waiting import LIMIT, until

from receiver.errors import EventNotDeliveredError
from receiver.events import dispatcher
from receiver.events.dispatcher import RETRY_DELAYS
from receiver.events.event import Event
from receiver.worker.embedded import EmbeddedEngine
from receiver.worker.engine import WorkQueue
from receiver.worker.notifier import Notifier

# Until it is taken.


def test_an_event_keeps_its_id_and_body_through_all_attempts_and_its_job_waits(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    event_server.statuses = [400, 404, 410, 201]
    events_dispatcher = dispatcher_to(event_server, ledger)
    ref = ledger.archived()
    for _ in range(4):
        dispatch_due(events_dispatcher)
        ledger.clock.advance(1.3 * RETRY_DELAYS[-1])
    dispatch_due(events_dispatcher)
    assert event_server.types(ref) == ["asset.archived"] * 4 + ["job.archived"]
    assert (
        len({received.id for received in event_server.received[:4]})
        == len({received.body for received in event_server.received[:4]})
        == 1
    )
    assert (
        len({received.headers["webhook-timestamp"] for received in event_server.received[:4]}) == 4
    )
    assert all(received.is_signed_by(SECRET) for received in event_server.received)


def test_the_pauses_grow_and_after_the_deadline_the_event_is_set_aside_and_the_next_one_sent(
    ledger: LedgerHarness, event_server: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dispatcher, "RETRY_FOR", 5 * 3600.0
    )  # three days would only add more equal pauses
    event_server.status = 422
    events_dispatcher, ref = dispatcher_to(event_server, ledger), ledger.archived()
    began, pauses = ledger.clock(), []
    while len(set(event_server.types())) == 1 or not event_server.received:
        dispatch_due(events_dispatcher, rounds=1)
        due = events_dispatcher.next_due()
        assert due is not None
        pauses.append(due - ledger.clock())
        ledger.clock.now = max(due, ledger.clock())
    assert ledger.clock() - began == pytest.approx(dispatcher.RETRY_FOR, abs=1.3 * RETRY_DELAYS[0])
    for pause, expected in zip(pauses, RETRY_DELAYS, strict=False):
        assert 0.75 * expected <= pause <= 1.25 * expected
    (row,) = ledger.events.set_aside()
    assert (row.ref, row.attempts) == (ref, event_server.types().count("asset.archived"))
    assert row.error == "127.0.0.1 answered 422"
    assert event_server.types()[-1] == "job.archived"


@pytest.mark.parametrize(
    ("retry_after", "pause"), [("120", 120), ("999999", 3600), ("-1", 0), ("soon", 0), ("1e9", 0)]
)
def test_a_destination_may_ask_for_more_time_within_reason(
    ledger: LedgerHarness, event_server: EventServer, retry_after: str, pause: float
) -> None:
    event_server.status, event_server.headers = 429, {"Retry-After": retry_after}
    events_dispatcher = dispatcher_to(event_server, ledger)
    ledger.failed()
    dispatch_due(events_dispatcher, rounds=1)
    assert (events_dispatcher.next_due() or 0) - ledger.clock() == pytest.approx(
        max(pause, 5.0), rel=0.25
    )


def test_the_pauses_for_an_unreachable_destination_grow_and_it_gets_all_events_later(
    ledger: LedgerHarness,
) -> None:
    transport = UnreliableTransport()
    events_dispatcher = make_dispatcher(ledger, "log:")
    events_dispatcher._transport = transport
    refs = [ledger.failed(f"task-{number}") for number in range(30)]
    pauses = []
    for _ in range(10):
        for claimed in events_dispatcher.claim(1):
            events_dispatcher.send(claimed)
        due = events_dispatcher.next_due() or 0.0
        pauses.append(due - ledger.clock())
        ledger.clock.now = max(due, ledger.clock())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    transport.away = False
    for _ in range(10):
        ledger.clock.advance(RETRY_DELAYS[-1] * 1.3)
        dispatch_due(events_dispatcher, rounds=4)
    assert sorted(transport.received) == sorted(refs)


class UnreliableTransport:
    """A transport that fails while ``away`` is true."""

    def __init__(self) -> None:
        self.away = True
        self.received: list[str] = []

    def send(self, event: Event, _body: str) -> str:
        """Keep the event, or raise EventNotDeliveredError."""
        if self.away:
            raise EventNotDeliveredError("gone", away=True)
        self.received.append(event.ref)
        return "200"


# Slow destinations.


def test_a_slow_destination_delays_neither_another_nor_the_archiving(
    ledger: LedgerHarness, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        slow, quick = stack.enter_context(EventServer()), stack.enter_context(EventServer())
        slow.gate.clear()
        dispatchers = [dispatcher_to(slow, ledger), dispatcher_to(quick, ledger)]
        work_queues = [
            WorkQueue(
                events_dispatcher.destination.name,
                2,
                events_dispatcher.next_due,
                events_dispatcher.claim,
                events_dispatcher.send,
            )
            for events_dispatcher in dispatchers
        ]
        engine = EmbeddedEngine(
            ledger.claims, Notifier(tmp_path / "worker.fifo"), ledger.clock, poll_interval=0.02
        )
        thread = threading.Thread(target=engine.run, args=(work_queues,))
        thread.start()
        try:
            for number in range(12):
                ledger.failed(f"task-{number}")
            until(lambda: len(quick.received) == 12, what="all sent to the quick one")
            assert slow.waiting == 2
            slow.gate.set()
            until(lambda: len(slow.received) == 12, what="all sent to the slow one")
        finally:
            slow.gate.set()
            engine.stop()
            thread.join(LIMIT)
        assert not thread.is_alive()


def test_an_unexpected_error_of_ours_is_a_failed_attempt(
    ledger: LedgerHarness, event_server: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    events_dispatcher = dispatcher_to(event_server, ledger)
    ledger.failed()
    monkeypatch.setattr(events_dispatcher._serializer, "body", lambda _event: 1 / 0)
    dispatch_due(events_dispatcher, rounds=1)
    assert last_error(ledger) == "unexpected error in the attempt (ZeroDivisionError); see the log"
