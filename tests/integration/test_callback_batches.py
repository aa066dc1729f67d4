"""Callbacks that are taken together change the ledger exactly as if each were taken alone."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from ledgers import LedgerHarness, failed, running, succeeded, urls
from sqlalchemy import Connection, select

from receiver.ingest.inbox import Inbox, Item, read_report
from receiver.ledger import deliveries as deliveries_module
from receiver.ledger.group_commit import Batch
from receiver.ledger.tables import assets, deliveries, events, jobs
from receiver.model import Decision, Delivery, Source

pytestmark = pytest.mark.both_databases

TASKS = 6
TABLES = (jobs, assets, deliveries, events)


class UndoneError(Exception):
    """Ends a transaction whose changes were only looked at."""


def history(ledger: LedgerHarness, number: int) -> str:
    """Return a job in one of the states that a callback can find; its task has its number."""
    task = f"task-{number}"
    makers = (
        ledger.submitting,
        lambda: ledger.waiting(task),
        lambda: ledger.archiving(2, task),
        lambda: ledger.failed(task),
        lambda: ledger.expired(task),
        lambda: ledger.waiting(task),
    )
    return makers[number]()


@st.composite
def reports(draw: st.DrawFn) -> tuple[int, bytes, Source]:
    """Return for which job a report comes, its body and its source."""
    number = draw(st.integers(0, TASKS - 1))
    task = draw(
        st.sampled_from([f"task-{number}", f"task-{number}", None, "task-of-another", "task-1"])
    )
    body = draw(
        st.sampled_from(
            [
                succeeded(*urls(2), provider_id=task),
                succeeded(*urls(1, "second"), provider_id=task),
                succeeded("", provider_id=task),
                running(task or f"task-{number}", progress=50),
                failed(provider_id=task),
            ]
        )
    )
    return number, body, draw(st.sampled_from([Source.CALLBACK, Source.CALLBACK, Source.POLL]))


def items(
    ledger: LedgerHarness, refs: Sequence[str], drawn: Sequence[tuple[int, bytes, Source]]
) -> list[Item]:
    """Return the deliveries as the inbox queues them."""
    found = [Delivery(refs[number], source, body, ledger.clock()) for number, body, source in drawn]
    return [Item(one, read_report(one), sha256(one.body).hexdigest()) for one in found]


def together(taker: Inbox, connection: Connection, given_items: Sequence[Item]) -> list[Decision]:
    """Take items as a group commit does: first those that can be taken together."""
    results = taker._take_ordinary(connection, given_items)
    return [
        result or taker._take(connection, item)
        for item, result in zip(given_items, results, strict=True)
    ]


def alone(taker: Inbox, connection: Connection, given_items: Sequence[Item]) -> list[Decision]:
    """Take one item after the other."""
    return [taker._take(connection, item) for item in given_items]


def rows(connection: Connection) -> dict[str, list[Any]]:
    """Return every row, those of a job in their order, without their numbers."""
    found: dict[str, list[Any]] = {}
    for table in TABLES:
        columns = [column for column in table.columns if column.name != "id"]
        order = [table.c.ref, *(table.primary_key.columns)]
        found[table.name] = [
            tuple(row) for row in connection.execute(select(*columns).order_by(*order))
        ]
    return found


def outcome(
    ledger: LedgerHarness, take: Any, taker: Inbox, given_items: Sequence[Item]
) -> tuple[Any, Any]:
    """Return the decisions and all rows after the items were taken; the ledger stays as it was."""
    seen: list[tuple[Any, Any]] = []

    def work(connection: Connection) -> None:
        seen.append((take(taker, connection, given_items), rows(connection)))
        raise UndoneError

    with pytest.raises(UndoneError):
        ledger.database.write(work)
    return seen[-1]


@examples(13)
@given(drawn=st.lists(reports(), min_size=1, max_size=8), confirms=st.booleans(), data=st.data())
def test_a_batch_changes_what_its_callbacks_change_one_by_one(
    ledger: LedgerHarness,
    drawn: list[tuple[int, bytes, Source]],
    confirms: bool,  # noqa: FBT001 - a drawn value
    data: st.DataObject,
) -> None:
    if not hasattr(ledger, "histories"):
        ledger.histories = [history(ledger, number) for number in range(TASKS)]  # type: ignore[attr-defined]
    most = data.draw(st.sampled_from([0, 1, 200]), label="deliveries kept per job")
    taker = ledger.make_inbox(confirms=confirms)
    given_items = items(ledger, ledger.histories, drawn)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deliveries_module, "MOST_KEPT", most)
        assert outcome(ledger, together, taker, given_items) == outcome(
            ledger, alone, taker, given_items
        )


def test_ordinary_callbacks_are_taken_together_and_the_others_are_left(
    ledger: LedgerHarness,
) -> None:
    refs = [history(ledger, number) for number in range(TASKS)]
    success, progress = succeeded(*urls(2), provider_id="task-1"), running("task-5")
    drawn = [
        (1, success, Source.CALLBACK),
        (5, progress, Source.CALLBACK),
        (1, success, Source.CALLBACK),  # its job is in the batch already
        (2, succeeded(provider_id="task-2"), Source.CALLBACK),  # a duplicate
        (0, running("task-0"), Source.CALLBACK),  # its id may belong to another job
        (5, failed(provider_id="task-5"), Source.POLL),
    ]
    given_items = items(ledger, refs, drawn)
    found = ledger.database.write(lambda c: ledger.inbox._take_ordinary(c, given_items))
    assert found == [Decision.ENDED, Decision.PROGRESS, None, None, None, None]


def test_a_batch_that_fails_is_taken_one_by_one(ledger: LedgerHarness) -> None:
    ref, taker = ledger.waiting(), ledger.make_inbox()

    def fail(*_: object) -> list[Decision | None]:
        raise UndoneError

    taker._batch = Batch(one=taker._take, many=fail)
    delivery = Delivery(ref, Source.CALLBACK, succeeded(*urls(1)), ledger.clock())
    assert taker.accept(delivery) is Decision.ENDED
    assert len(ledger.assets_of(ref)) == 1
