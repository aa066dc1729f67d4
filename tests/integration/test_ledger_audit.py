"""The audit on both databases: its numbers add up, and a broken invariant is named."""

from collections.abc import Callable
from functools import partial

import pytest
from ledgers import LedgerHarness
from side_by_side import side_by_side
from sqlalchemy import Connection, func, select

from receiver.ledger.queries import totals
from receiver.ledger.tables import jobs
from receiver.model import JobState

pytestmark = pytest.mark.both_databases


def one_of_each(ledger: LedgerHarness) -> dict[str, str]:
    """Create one job in each state; return their refs by state."""
    return {
        "submitting": ledger.submitting(),
        "waiting": ledger.waiting("task-1"),
        "archived": ledger.archived(2, "task-3"),
        "archiving": ledger.archiving(2, "task-2"),
        "failed": ledger.failed("task-4"),
        "expired": ledger.expired("task-5"),
    }


def test_the_numbers_of_the_audit_add_up(ledger: LedgerHarness) -> None:
    one_of_each(ledger)
    ledger.failed("task-6")
    audit = ledger.totals.audit()
    assert (audit.submitted, audit.archived, audit.failed, audit.expired, audit.in_flight) == (
        7,
        1,
        2,
        1,
        3,
    )
    assert (audit.difference, audit.broken, audit.ok) == (0, {}, True)
    assert ledger.totals.counts() == {**dict.fromkeys(map(str, JobState), 1), "failed": 2}


def test_the_audit_of_an_empty_ledger_is_ok(ledger: LedgerHarness) -> None:
    audit = ledger.totals.audit()
    assert (audit.submitted, audit.difference, audit.ok) == (0, 0, True)
    assert ledger.totals.counts() == dict.fromkeys(JobState, 0)


def test_a_recent_audit_examines_new_jobs_and_trusts_the_state_of_old_ones(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = one_of_each(ledger)
    ledger.clock.advance(totals.RECENT + 1)
    new = ledger.failed("task-6")
    monkeypatch.setattr(totals, "FEW", 0)
    assert ledger.totals.recent_audit(ledger.clock()) == ledger.totals.audit()
    for ref in (old["failed"], new):
        ledger.execute("DELETE FROM events WHERE ref = :ref", ref=ref)
    found = ledger.totals.recent_audit(ledger.clock())
    assert (found.failed, found.difference) == (1, 1)
    assert found.broken == {"every end is announced by its event": [new]}
    monkeypatch.setattr(totals, "FEW", 20_000)
    assert ledger.totals.recent_audit(ledger.clock()) == ledger.totals.audit()


INVARIANTS = [
    (
        "an archived job has assets, all of them archived",
        "archived",
        "DELETE FROM assets WHERE ref = :ref",
    ),
    (
        "an archived job has assets, all of them archived",
        "archived",
        "UPDATE assets SET state = 'failed' WHERE ref = :ref AND idx = 1",
    ),
    (
        "a final job has no pending asset",
        "expired",
        (
            "INSERT INTO assets (ref, idx, state, url, announced_at, expires_at, due_at) "
            "VALUES (:ref, 0, 'pending', '', 0, 0, 0)"
        ),
    ),
    ("an archiving job has assets", "archiving", "DELETE FROM assets WHERE ref = :ref"),
    *(
        (
            "every end is announced by its event",
            state,
            "DELETE FROM events WHERE ref = :ref AND type LIKE 'job.%'",
        )
        for state in ("archived", "failed", "expired")
    ),
    (
        "every end is announced by its event",
        "failed",
        "UPDATE events SET round = 1 WHERE ref = :ref",
    ),
]


@pytest.mark.parametrize(("invariant", "state", "violation"), INVARIANTS)
def test_a_violated_invariant_is_named_with_the_job_that_violates_it(
    ledger: LedgerHarness, invariant: str, state: str, violation: str
) -> None:
    refs = one_of_each(ledger)
    ledger.execute(violation, ref=refs[state])
    audit = ledger.totals.audit()
    assert (audit.broken, audit.ok) == ({invariant: [refs[state]]}, False)


@pytest.mark.parametrize(
    ("state", "violation", "difference"),
    [
        ("failed", "DELETE FROM events WHERE ref = :ref", 1),
        (
            "waiting",
            (
                "INSERT INTO events (ref, idx, round, type, created_at, payload) "
                "VALUES (:ref, -1, 0, 'job.failed', 0, '{}')"
            ),
            -1,
        ),
    ],
)
def test_a_job_that_is_nowhere_or_in_two_places_makes_a_difference(
    ledger: LedgerHarness, state: str, violation: str, difference: int
) -> None:
    refs = one_of_each(ledger)
    ledger.execute(violation, ref=refs[state])
    assert (ledger.totals.audit().difference, ledger.totals.audit().ok) == (difference, False)


def test_of_many_jobs_that_violate_an_invariant_twenty_are_named(ledger: LedgerHarness) -> None:
    for number in range(25):
        ledger.failed(f"task-{number}")
    ledger.execute("DELETE FROM events")
    assert [len(refs) for refs in ledger.totals.audit().broken.values()] == [20]


def test_an_audit_reads_one_snapshot_while_others_write(ledger: LedgerHarness) -> None:
    ledger.waiting()

    def count_twice(connection: Connection) -> list[int]:
        counts = []
        for _ in range(2):
            counts.append(connection.execute(select(func.count()).select_from(jobs)).scalar_one())
            ledger.failed(f"task-{len(counts) + 1}")
        return counts

    assert ledger.database.read(count_twice) == [1, 1]
    assert ledger.totals.audit().submitted == 3


def test_the_audit_holds_while_jobs_come_and_end(ledger: LedgerHarness) -> None:
    def live(number: int) -> None:
        for turn in range(6):
            ledger.failed(f"task-{number}-{turn}")

    def audit_repeatedly() -> None:
        assert [audit.difference for audit in (ledger.totals.audit() for _ in range(12))] == [
            0
        ] * 12

    threads: list[Callable[[], None]] = [partial(live, number) for number in range(3)]
    side_by_side([*threads, audit_repeatedly])
    assert ledger.totals.audit().failed == 18
