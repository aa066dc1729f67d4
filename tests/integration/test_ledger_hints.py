"""The transactions of hints on both databases."""

from functools import partial

import pytest
from ledgers import BASE_URL, NOW, LedgerHarness
from side_by_side import side_by_side

from receiver.model import (
    new_ref,
)

pytestmark = pytest.mark.both_databases


def test_a_hint_is_stored_once_and_due_at_once(ledger: LedgerHarness) -> None:
    assert [ledger.hints.add("task-9"), ledger.hints.add("task-9")] == [True, True]
    (claimed,) = ledger.hints.claim(10)
    assert (claimed.row.provider_id, claimed.row.attempts) == ("task-9", 1)
    ledger.hints.adopt(ref := new_ref(NOW), claimed.row, BASE_URL)
    assert (ledger.job(ref).provider_id, ledger.everything()["hints"]) == ("task-9", [])


def test_a_hint_that_became_a_job_meanwhile_makes_no_second_one(ledger: LedgerHarness) -> None:
    ledger.hints.add("task-1")
    (claimed,) = ledger.hints.claim(1)
    ledger.waiting("task-1")
    ledger.hints.adopt(new_ref(NOW), claimed.row, BASE_URL)
    assert (sum(ledger.totals.counts().values()), ledger.everything()["hints"]) == (1, [])


def test_the_number_of_new_hints_per_minute_is_limited_for_all_processes(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.ledger.hints.MOST_A_MINUTE", 3)
    assert [ledger.hints.add(f"task-{number}") for number in range(4)] == [True, True, True, False]
    assert ledger.hints.add("task-2") is True, "it is known already"
    ledger.clock.advance(61)
    assert ledger.hints.add("task-4") is True


def test_the_oldest_hint_is_deleted_so_that_a_flood_does_not_stop_new_ones(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.ledger.hints.MOST_WAITING", 3)
    ledger.hints.add("task-0")
    (claimed,) = ledger.hints.claim(1)
    for number in range(1, 6):
        ledger.clock.advance(1)
        assert ledger.hints.add(f"task-{number}") is True
    assert sorted(row[0] for row in ledger.everything()["hints"]) == [
        "task-0",
        "task-4",
        "task-5",
    ], "a claimed hint is kept"
    ledger.hints.drop(claimed.row)


def test_the_same_hint_from_many_callbacks_at_once_is_stored_once(ledger: LedgerHarness) -> None:
    for number in range(5):
        assert side_by_side([partial(ledger.hints.add, f"task-{number}")] * 6) == [True] * 6
    assert len(ledger.everything()["hints"]) == 5
