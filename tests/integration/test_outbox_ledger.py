"""The outbox on both databases: nothing is missed, and events of a job are delivered in order."""

import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest
from ledgers import LedgerHarness, opened, stored
from sqlalchemy import select
from waiting import LIMIT

from receiver.errors import ClaimLostError, ReceiverError
from receiver.ledger import outbox as outbox_module
from receiver.ledger.claims import Claimed
from receiver.ledger.database import open_database
from receiver.ledger.outbox import KEPT, KEPT_ASIDE, Outbox
from receiver.ledger.restore import Past, restore
from receiver.ledger.rows import EventDelivery
from receiver.ledger.tables import events, sendings
from receiver.model import EventType

pytestmark = pytest.mark.both_databases

A, B = "https://a.test (00000000)", "log:"
ALL = tuple(EventType)


@pytest.fixture
def outbox(ledger: LedgerHarness) -> Outbox:
    outbox = Outbox(ledger.database, ledger.clock)
    outbox.register([A, B])
    return outbox


def types(ledger: LedgerHarness, claims: list[Claimed[EventDelivery]]) -> list[str]:
    of = {event["id"]: str(event["type"]) for event in ledger.events.after(limit=10_000)}
    return [of[claimed.row.event] for claimed in claims]


def deliver_all(outbox: Outbox, name: str = A, kinds: tuple[EventType, ...] = ALL) -> list[int]:
    """Deliver all events to a destination; return their numbers in order."""
    delivered = []
    while claims := outbox.claim(name, kinds, 10):
        for claimed in claims:
            outbox.mark_sent(claimed)
            delivered.append(claimed.row.event)
    return delivered


def states(ledger: LedgerHarness, name: str = A) -> list[str]:
    query = (
        select(sendings.c.state).where(sendings.c.destination == name).order_by(sendings.c.event)
    )
    return list(ledger.database.read(lambda connection: connection.execute(query).scalars().all()))


# What a destination gets.


def test_a_new_destination_gets_events_from_now_on_and_not_earlier_ones(
    ledger: LedgerHarness,
) -> None:
    ledger.archived()
    outbox = Outbox(ledger.database, ledger.clock)
    outbox.register([A])
    assert (outbox.next_due(A), outbox.claim(A, ALL, 10)) == (None, [])
    ref = ledger.failed("task-2")
    assert outbox.next_due(A) == 0.0
    (claimed,) = outbox.claim(A, ALL, 10)
    assert (claimed.row.ref, types(ledger, [claimed])) == (ref, ["job.failed"])


def test_a_known_destination_keeps_its_place_when_it_is_named_again(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.failed()
    Outbox(ledger.database, ledger.clock).register([A, B, A])
    assert len(outbox.claim(A, ALL, 10)) == 1


def test_each_destination_gets_each_event_once_whatever_the_other_does(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.archived(2)
    delivered = [event["id"] for event in ledger.events.after()]
    assert deliver_all(outbox, A) == delivered
    assert outbox.next_due(A) is None
    assert deliver_all(outbox, A) == []
    assert deliver_all(outbox, B) == delivered


def test_only_the_wanted_types_are_delivered_and_the_others_are_not_read_again(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.archived()
    ledger.failed("task-2")
    claims = outbox.claim(A, (EventType.JOB_FAILED,), 10)
    assert types(ledger, claims) == ["job.failed"]
    outbox.mark_sent(claims[0])
    assert (outbox.next_due(A), outbox.claim(A, ALL, 10)) == (None, [])


def test_more_events_than_fit_into_one_batch_are_all_delivered(
    ledger: LedgerHarness, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "BATCH", 2)
    for number in range(5):
        ledger.failed(f"task-{number}")
    assert sorted(deliver_all(outbox)) == [event["id"] for event in ledger.events.after()]


def test_what_a_rebuild_restores_is_never_delivered(ledger: LedgerHarness, outbox: Outbox) -> None:
    ref = ledger.failed()
    event = ledger.database.read(
        lambda connection: connection.execute(select(events)).one()
    )._asdict()
    job = ledger.database.read(
        lambda connection: connection.exec_driver_sql("SELECT * FROM jobs").mappings().one()
    )
    for table in ("events", "deliveries", "jobs"):
        ledger.execute(f"DELETE FROM {table}")  # noqa: S608 - our own word
    past = Past(
        dict(job),
        [],
        [],
        [{name: event[name] for name in ("ref", "type", "idx", "round", "created_at", "payload")}],
    )
    ledger.database.write(lambda connection: restore(connection, [past]))
    assert ledger.event_types(ref) == ["job.failed"]
    assert (deliver_all(outbox), ledger.events.following(0)[0]) == ([], [])
    assert outbox.next_due(A) is None


# The order of a job's events.


def test_a_later_event_of_a_job_waits_until_the_earlier_one_is_delivered(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    first, second = ledger.archived(2, "task-1"), ledger.failed("task-2")
    claims = outbox.claim(A, ALL, 10)
    assert [claimed.row.ref for claimed in claims] == [first, second]
    assert outbox.claim(A, ALL, 10) == []
    outbox.mark_sent(claims[1])
    assert outbox.claim(A, ALL, 10) == []
    outbox.mark_sent(claims[0])
    assert types(ledger, outbox.claim(A, ALL, 10)) == ["asset.archived"]


def test_an_event_that_fails_holds_back_its_own_job_only(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.archived(1, "task-1")
    (claimed,) = outbox.claim(A, ALL, 10)
    outbox.retry(claimed, ledger.clock() + 60, "no")
    other = ledger.failed("task-2")
    assert [delivered.row.ref for delivered in outbox.claim(A, ALL, 10)] == [other]
    assert outbox.next_due(A) == pytest.approx(ledger.clock() + 60)
    ledger.clock.advance(60)
    (again,) = outbox.claim(A, ALL, 1)
    assert (again.row.event, again.row.attempts, again.row.error) == (claimed.row.event, 2, "no")


def test_what_was_set_aside_no_longer_holds_its_job_back(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.archived()
    (claimed,) = outbox.claim(A, ALL, 10)
    outbox.set_aside(claimed, "never")
    assert types(ledger, outbox.claim(A, ALL, 10)) == ["job.archived"]
    assert [(row.event, row.error) for row in ledger.events.set_aside()] == [
        (claimed.row.event, "never")
    ]


def test_events_delivered_while_new_ones_are_queued_leave_none_that_never_becomes_due(
    ledger_url: str,
) -> None:
    with opened(ledger_url) as ledger, closing(open_database(ledger_url)) as other:
        outbox, second = Outbox(ledger.database, ledger.clock), Outbox(other, ledger.clock)
        outbox.register([A])
        ref = ledger.archiving(12)
        delivered: list[int] = []

        def deliver() -> None:
            while len(delivered) < 12:
                for claimed in second.claim(A, ALL, 4):
                    second.mark_sent(claimed)
                    delivered.append(claimed.row.event)

        thread = threading.Thread(target=deliver)
        thread.start()
        for claimed in ledger.assets.claim(12):
            ledger.assets.finish(claimed, stored(claimed))
        thread.join(LIMIT)
        assert not thread.is_alive(), f"stuck after {delivered}"
        assert delivered == [event["id"] for event in ledger.events.after() if event["ref"] == ref]


# Claims.


def test_a_lost_claim_changes_nothing(ledger: LedgerHarness, outbox: Outbox) -> None:
    ledger.failed()
    (claimed,) = outbox.claim(A, ALL, 1)
    ledger.clock.advance(61)
    (again,) = outbox.claim(A, ALL, 1)
    assert again.row.attempts == 2
    late: list[Callable[[], None]] = [
        partial(outbox.mark_sent, claimed),
        partial(outbox.set_aside, claimed, ""),
        partial(outbox.retry, claimed, 0, ""),
    ]
    for word in late:
        with pytest.raises(ClaimLostError):
            word()
    outbox.mark_sent(again)
    assert states(ledger) == ["sent"]


def test_leases_of_sendings_are_renewed_handed_back_and_taken_over_like_all_others(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.failed()
    (claimed,) = outbox.claim(A, ALL, 1)
    ledger.clock.advance(50)
    ledger.claims.renew([claimed])
    ledger.clock.advance(50)
    assert outbox.claim(A, ALL, 1) == []
    ledger.claims.release([claimed])
    assert len(outbox.claim(A, ALL, 1)) == 1
    assert ledger.claims.take_over() == 1
    assert len(outbox.claim(A, ALL, 1)) == 1


def test_two_processes_claim_no_event_twice(ledger_url: str) -> None:
    with opened(ledger_url) as ledger, closing(open_database(ledger_url)) as other:
        boxes = [Outbox(ledger.database, ledger.clock), Outbox(other, ledger.clock)]
        boxes[0].register([A])
        for number in range(30):
            ledger.failed(f"task-{number}")
        claimed: list[int] = []

        def take(box: Outbox) -> None:
            while found := box.claim(A, ALL, 3):
                claimed.extend(one.row.event for one in found)

        threads = [threading.Thread(target=take, args=(box,)) for box in boxes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert sorted(claimed) == [event["id"] for event in ledger.events.after()]


# Afterwards.


def test_what_was_delivered_is_pruned_after_a_week_and_what_was_set_aside_after_three_months(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.failed("task-1")
    ledger.failed("task-2")
    first, second = outbox.claim(A, ALL, 10)
    outbox.mark_sent(first)
    outbox.set_aside(second, "never")
    ledger.clock.advance(KEPT - 1)
    assert outbox.prune() == 0
    ledger.clock.advance(2)
    assert (outbox.prune(), states(ledger)) == (1, ["set_aside"])
    ledger.clock.advance(KEPT_ASIDE)
    assert (outbox.prune(), states(ledger)) == (1, [])
    assert len(ledger.events.after()) == 2


def test_what_was_set_aside_is_sent_again_on_request_and_before_what_waits_of_its_job(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.archived()
    (first,) = outbox.claim(A, ALL, 10)
    outbox.set_aside(first, "never")
    ledger.clock.advance(100)
    assert outbox.resend(first.row.event) == 1
    (again,) = outbox.claim(A, ALL, 10)
    assert (again.row.event, again.row.attempts, again.row.since) == (
        first.row.event,
        1,
        ledger.clock(),
    )
    outbox.mark_sent(again)
    assert types(ledger, outbox.claim(A, ALL, 10)) == ["job.archived"]


def test_what_was_set_aside_can_be_dismissed_and_nothing_else_changes(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.archived()
    (first,) = outbox.claim(A, ALL, 10)
    with pytest.raises(ReceiverError, match="is not set aside"):
        outbox.dismiss(first.row.event)
    outbox.set_aside(first, "never")
    assert outbox.dismiss(first.row.event) == 1
    assert states(ledger) == ["pending"]
    assert ledger.events.set_aside() == []
    for act in (outbox.dismiss, outbox.resend):
        with pytest.raises(ReceiverError, match="is not set aside"):
            act(first.row.event)
    assert types(ledger, outbox.claim(A, ALL, 10)) == ["job.archived"]
    assert len(ledger.events.after()) == 2


def test_nothing_is_sent_again_that_was_not_set_aside(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    ledger.failed()
    (claimed,) = outbox.claim(A, ALL, 10)
    with pytest.raises(ReceiverError, match="`receiver events` lists those"):
        outbox.resend(claimed.row.event)


def test_the_standing_says_what_waits_since_when_and_what_was_set_aside(
    ledger: LedgerHarness, outbox: Outbox
) -> None:
    began = ledger.clock()
    ledger.failed("task-1")
    ledger.archived(1, "task-2")
    outbox.set_aside(outbox.claim(A, ALL, 1)[0], "never")
    ledger.clock.advance(10)
    a, b = ledger.events.destinations()
    assert (a.destination, a.not_handed, a.waiting, a.due_since, a.set_aside) == (A, 0, 2, began, 1)
    assert (b.destination, b.not_handed, b.waiting, b.set_aside) == (B, 3, 0, 0)


def test_a_destination_is_deleted_with_its_deliveries_and_no_other_is_affected(
    ledger: LedgerHarness, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "BATCH", 2)
    ledger.archived(3)
    (claimed,) = outbox.claim(A, ALL, 10)
    delivered = deliver_all(outbox, B)
    ledger.failed("task-2")
    outbox.forget(A)
    assert [row.destination for row in ledger.events.destinations()] == [B]
    assert (states(ledger, A), states(ledger, B)) == ([], ["sent"] * len(delivered))
    assert (outbox.next_due(A), outbox.claim(A, ALL, 10)) == (
        None,
        [],
    )  # of a worker that still knows the claim
    with pytest.raises(ClaimLostError):
        outbox.mark_sent(claimed)
    outbox.register([A])
    assert (outbox.next_due(A), len(deliver_all(outbox, B))) == (None, 1)


def test_forgetting_that_is_stopped_half_way_leaves_no_event_that_waits_for_one_that_is_gone(
    ledger: LedgerHarness, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.archived(3)
    (claimed,) = outbox.claim(A, ALL, 10)
    monkeypatch.setattr(outbox_module, "BATCH", 2)
    assert not ledger.database.write(partial(outbox_module._delete_some, name=A))
    outbox.mark_sent(claimed)
    assert [len(deliver_all(outbox)), states(ledger)] == [1, ["sent"] * 2]


def test_an_unknown_destination_is_not_deleted(outbox: Outbox) -> None:
    with pytest.raises(
        ReceiverError,
        match=r"no destination 'https://b.test'; known are: https://a.test \(00000000\), log:",
    ):
        outbox.forget("https://b.test")


def test_following_continues_after_the_last_event_read_even_if_none_was_wanted(
    ledger: LedgerHarness,
) -> None:
    ledger.archived()
    found, upto = ledger.events.following(0, [EventType.JOB_FAILED])
    assert (found, upto) == ([], ledger.events.newest())
    ledger.failed("task-2")
    (row,) = ledger.events.following(upto)[0]
    assert (row.type, row.id) == ("job.failed", ledger.events.newest())
    assert ledger.events.following(row.id) == ([], row.id)
