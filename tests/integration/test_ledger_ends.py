"""How jobs end on both databases, with one event each, and how an operator retries them."""

import json
from collections.abc import Callable

import pytest
from ledgers import NOW, TIMING, Books, failed, opened, stored, succeeded, urls
from sqlalchemy import Connection

from receiver.errors import LedgerError, ReceiverError
from receiver.ingest.inbox import Item
from receiver.model import (
    AssetState,
    Decision,
    Delivery,
    JobState,
    Outcome,
    Source,
    new_ref,
)
from receiver.providers.grsai.reports import read_report

pytestmark = pytest.mark.both_databases


class PlannedError(Exception):
    """Raised in the middle of a transaction."""


# Ends.


def test_a_job_is_concluded_after_its_last_asset_and_each_end_has_one_event(books: Books) -> None:
    ref = books.archiving(2)
    first, second = books.assets.claim(2)
    books.assets.finish(first, stored(first))
    assert books.event_types(ref) == ["asset.archived"]
    books.assets.finish(second, stored(second))
    books.conclude(ref)
    assert books.event_types(ref) == ["asset.archived", "asset.archived", "job.archived"]
    job = books.job(ref)
    assert (job.state, job.outcome, job.finished_at, job.due_at, job.claim) == (
        JobState.ARCHIVED,
        Outcome.SUCCEEDED,
        NOW,
        None,
        None,
    )
    payload = json.loads(books.events.after()[0]["payload"])
    assert (payload["ref"], payload["index"], payload["sha256"], payload["size"]) == (
        ref,
        0,
        "0" * 64,
        1000,
    )


@pytest.mark.parametrize(("state", "event"), [(AssetState.FAILED, []), (AssetState.EXPIRED, [])])
def test_an_asset_that_is_given_up_says_why_and_is_not_announced_as_archived(
    books: Books, state: AssetState, event: list[str]
) -> None:
    ref = books.archiving()
    (claimed,) = books.assets.claim(1)
    books.assets.give_up(claimed, state, "it is a cat")
    (asset,) = books.assets_of(ref)
    assert (asset.state, asset.error, asset.finished_at, asset.due_at, asset.claim) == (
        state,
        "it is a cat",
        NOW,
        None,
        None,
    )
    assert (books.event_types(ref), books.job(ref).due_at) == (event, NOW)


@pytest.mark.parametrize("make", [Books.submitting, Books.waiting])
def test_a_job_without_a_result_expires(books: Books, make: Callable[[Books], str]) -> None:
    ref = make(books)
    books.jobs.expire(ref, "no word")
    job = books.job(ref)
    assert (job.state, job.message, job.reason, job.finished_at) == (
        JobState.EXPIRED,
        "no word",
        None,
        NOW,
    )
    assert books.event_types(ref) == ["job.expired"]


def test_a_job_whose_result_came_at_the_last_moment_does_not_expire(books: Books) -> None:
    ref = books.archiving()
    before = books.everything()
    books.jobs.expire(ref, "no word")
    assert books.everything() == before


def test_the_risk_of_a_job_is_announced_once_a_round(books: Books) -> None:
    ref = books.archiving()
    books.clock.advance(TIMING.url_lifetime * 3 / 4)
    (claimed,) = books.jobs.claim(1)
    assert [books.jobs.announce_risk(claimed, "hurry") for _ in range(3)] == [True, False, False]
    assert books.event_types(ref) == ["job.at_risk"]


def test_an_event_is_rolled_back_with_its_change(books: Books) -> None:
    ref = books.waiting()
    before = books.everything()

    def fail(connection: Connection) -> None:
        delivery = Delivery(ref, Source.CALLBACK, failed(), NOW)
        books.inbox._take(connection, Item(delivery, read_report(delivery.body), "0" * 64))
        raise PlannedError

    with pytest.raises(PlannedError):
        books.database.write(fail)
    assert books.everything() == before


def test_a_delivery_that_cannot_be_stored_notifies_no_worker() -> None:
    with opened("sqlite:////dev/null/ledger.sqlite3") as away:
        with pytest.raises(LedgerError):
            away.deliver(new_ref(NOW), succeeded())
        assert away.notified == 0


# An operator's retry.


def test_a_failed_job_is_polled_again_in_a_new_round(books: Books) -> None:
    ref = books.failed()
    books.clock.advance(100)
    job = books.operator.retry(ref)
    assert (job.state, job.round, job.reason, job.message, job.outcome) == (
        JobState.WAITING,
        1,
        None,
        "",
        None,
    )
    assert (job.finished_at, job.ended_at, job.due_at, job.deadline_at) == (
        None,
        None,
        NOW + 100,
        NOW + 100 + TIMING.job_timeout,
    )
    assert books.deliver(ref, failed(), Source.POLL) is Decision.ENDED
    assert books.event_types(ref) == ["job.failed", "job.failed"]
    assert books.totals.audit().ok


def test_a_job_with_a_lost_asset_is_reopened_for_that_asset_only(books: Books) -> None:
    ref = books.archiving(2)
    good, bad = books.assets.claim(2)
    books.assets.finish(good, stored(good))
    books.assets.give_up(bad, AssetState.EXPIRED, "gone")
    (claimed,) = books.jobs.claim(1)
    books.jobs.conclude(claimed, JobState.EXPIRED)
    books.clock.advance(10_000)
    job = books.operator.retry(ref)
    assert (job.state, job.outcome, job.due_at) == (
        JobState.ARCHIVING,
        Outcome.SUCCEEDED,
        NOW + 10_000,
    )
    assert books.pending(ref) == [bad.row.idx]
    assert books.deliver(ref, succeeded(*urls(2, "fresh")), Source.POLL) is Decision.REFRESHED
    (again,) = books.assets.claim(10)
    assert (again.row.idx, again.row.url, again.row.attempts) == (
        bad.row.idx,
        urls(2, "fresh")[1],
        1,
    )
    books.assets.finish(again, stored(again))
    books.conclude(ref)
    assert books.event_types(ref) == [
        "asset.archived",
        "job.expired",
        "asset.archived",
        "job.archived",
    ]
    assert books.totals.audit().ok


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Books.submitting, "is submitting: there is nothing to retry"),
        (Books.waiting, "is waiting: there is nothing to retry"),
        (Books.archiving, "is archiving: there is nothing to retry"),
        (Books.archived, "is archived: there is nothing to retry"),
        (
            lambda books: books.jobs.record_refused(books.submitting(), "no").ref,
            "submit it again as a new job",
        ),
        (lambda _: "nowhere", "there is no job nowhere"),
    ],
)
def test_a_retry_that_cannot_help_is_refused_with_the_reason(
    books: Books, make: Callable[[Books], str], message: str
) -> None:
    ref = make(books)
    before = books.everything()
    with pytest.raises(ReceiverError, match=message):
        books.operator.retry(ref)
    assert books.everything() == before
