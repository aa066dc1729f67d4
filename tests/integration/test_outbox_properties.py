"""Random failures of dispatchers: every event ends exactly once, and a job's events in order."""

from collections import defaultdict

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from ledgers import LedgerHarness
from sqlalchemy import Connection, delete, select

from receiver.errors import ClaimLostError
from receiver.ledger.claims import LEASE, Claimed
from receiver.ledger.events import NewEvent, write_events
from receiver.ledger.jobs import find_job
from receiver.ledger.outbox import Outbox
from receiver.ledger.rows import EventDelivery
from receiver.ledger.tables import metadata, sendings
from receiver.model import EventDeliveryState, EventType

pytestmark = pytest.mark.both_databases

# One ledger serves all examples of a test; each example empties it first.
PACE = examples(6)
TO, JOBS = "log:", 3
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("happens"), st.integers(0, JOBS - 1)),
        st.tuples(
            st.sampled_from(
                ["claim", "sent", "failed", "given up", "sent again", "lease ends", "worker dies"]
            ),
            st.integers(0, 4),
        ),
    ),
    max_size=40,
)


class RandomRound:
    """One destination with some jobs, and our own record of what was delivered, in which order."""

    def __init__(self, ledger: LedgerHarness) -> None:
        ledger.database.write(
            lambda connection: [
                connection.execute(delete(table)) for table in reversed(metadata.sorted_tables)
            ]
        )
        self.ledger = ledger
        self.outbox = Outbox(ledger.database, ledger.clock)
        self.outbox.register([TO])
        self.refs = [ledger.submitting() for _ in range(JOBS)]
        self.happened = 0
        self.held: list[Claimed[EventDelivery]] = []
        self.delivered: defaultdict[str, list[int]] = defaultdict(list)
        self.sent_again = False

    def act(self, what: str, which: int) -> None:
        """Let one thing happen."""
        if what == "happens":
            self.happened += 1
            self.ledger.database.write(lambda connection: self._emit(connection, self.refs[which]))
        elif what == "claim":
            self.held += self.outbox.claim(TO, tuple(EventType), which + 1)
        elif what == "lease ends":
            self.ledger.clock.advance(LEASE + 1)
        elif what == "worker dies":
            self.ledger.claims.take_over()
        elif what == "sent again":
            for row in self.ledger.events.set_aside()[:1]:
                self.sent_again = True
                self.outbox.resend(row.event)
        elif self.held:
            self._end(what, self.held.pop(which % len(self.held)))

    def _emit(self, connection: Connection, ref: str) -> None:
        job = find_job(connection, ref, locked=True)
        assert job is not None
        event = NewEvent(EventType.ASSET_ARCHIVED, {"ref": ref}, self.happened)
        write_events(connection, job, self.ledger.clock(), [event])

    def _end(self, what: str, claimed: Claimed[EventDelivery]) -> None:
        try:
            if what == "sent":
                self.outbox.mark_sent(claimed)
                self.delivered[claimed.row.ref].append(claimed.row.event)
            elif what == "failed":
                self.outbox.retry(claimed, self.ledger.clock() + 5, "no")
            else:
                self.outbox.set_aside(claimed, "never")
        except ClaimLostError:
            pass  # another has it by now

    def check(self) -> None:
        """Of a job's pending events only the first is due, unless one was sent again meanwhile."""
        pending = (
            select(sendings)
            .where(sendings.c.state == EventDeliveryState.PENDING)
            .order_by(sendings.c.event)
        )
        of: defaultdict[str, list[bool]] = defaultdict(list)
        for row in self.ledger.database.read(lambda connection: connection.execute(pending).all()):
            of[row.ref].append(row.due_at is not None)
        for due in of.values():
            assert due[0]
            assert self.sent_again or not any(due[1:])

    def drain(self) -> None:
        """Tell everything that is left."""
        for _ in range(100):
            self.ledger.clock.advance(LEASE + 10)
            if (
                not (claims := self.outbox.claim(TO, tuple(EventType), 50))
                and self.outbox.next_due(TO) is None
            ):
                return
            for claimed in claims:
                self._end("sent", claimed)
        raise AssertionError("it does not come to an end")


@PACE
@given(happenings=HAPPENINGS)
def test_every_event_comes_to_its_end_once_and_a_jobs_events_in_their_order(
    ledger: LedgerHarness, happenings: list[tuple[str, int]]
) -> None:
    here = RandomRound(ledger)
    for what, which in happenings:
        here.act(what, which)
        here.check()
    here.drain()
    aside = [row.event for row in ledger.events.set_aside()]
    delivered = [event for events in here.delivered.values() for event in events]
    assert sorted([*delivered, *aside]) == [
        event["id"] for event in ledger.events.after(limit=1000)
    ]
    assert here.sent_again or all(events == sorted(events) for events in here.delivered.values())
