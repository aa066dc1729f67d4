"""The transactions of hints on both databases."""

from functools import partial

import pytest
from ledgers import BASE_URL, NOW, Books
from side_by_side import side_by_side

from receiver.model import (
    new_ref,
)

pytestmark = pytest.mark.both_databases


def test_a_hint_is_stored_once_and_due_at_once(books: Books) -> None:
    assert [books.hints.add("task-9"), books.hints.add("task-9")] == [True, True]
    (claimed,) = books.hints.claim(10)
    assert (claimed.row.provider_id, claimed.row.attempts) == ("task-9", 1)
    books.hints.adopt(ref := new_ref(NOW), claimed.row, BASE_URL)
    assert (books.job(ref).provider_id, books.everything()["hints"]) == ("task-9", [])


def test_a_hint_that_became_a_job_meanwhile_makes_no_second_one(books: Books) -> None:
    books.hints.add("task-1")
    (claimed,) = books.hints.claim(1)
    books.waiting("task-1")
    books.hints.adopt(new_ref(NOW), claimed.row, BASE_URL)
    assert (sum(books.totals.counts().values()), books.everything()["hints"]) == (1, [])


def test_the_number_of_new_hints_per_minute_is_limited_for_all_processes(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.ledger.hints.MOST_A_MINUTE", 3)
    assert [books.hints.add(f"task-{number}") for number in range(4)] == [True, True, True, False]
    assert books.hints.add("task-2") is True, "it is known already"
    books.clock.advance(61)
    assert books.hints.add("task-4") is True


def test_the_oldest_hint_is_deleted_so_that_a_flood_does_not_stop_new_ones(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.ledger.hints.MOST_WAITING", 3)
    books.hints.add("task-0")
    (claimed,) = books.hints.claim(1)
    for number in range(1, 6):
        books.clock.advance(1)
        assert books.hints.add(f"task-{number}") is True
    assert sorted(row[0] for row in books.everything()["hints"]) == [
        "task-0",
        "task-4",
        "task-5",
    ], "a claimed hint is kept"
    books.hints.drop(claimed.row)


def test_the_same_hint_from_many_callbacks_at_once_is_stored_once(books: Books) -> None:
    for number in range(5):
        assert side_by_side([partial(books.hints.add, f"task-{number}")] * 6) == [True] * 6
    assert len(books.everything()["hints"]) == 5
