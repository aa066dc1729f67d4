"""How jobs end on both databases, with one event each, and how an operator retries them."""

import json
from collections.abc import Callable

import pytest
from ledgers import NOW, TIMING, LedgerHarness, failed, opened, stored, succeeded, urls
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


def test_a_job_is_concluded_after_its_last_asset_and_each_end_has_one_event(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.archiving(2)
    first, second = ledger.assets.claim(2)
    ledger.assets.finish(first, stored(first))
    assert ledger.event_types(ref) == ["asset.archived"]
    ledger.assets.finish(second, stored(second))
    ledger.conclude(ref)
    assert ledger.event_types(ref) == ["asset.archived", "asset.archived", "job.archived"]
    job = ledger.job(ref)
    assert (job.state, job.outcome, job.finished_at, job.due_at, job.claim) == (
        JobState.ARCHIVED,
        Outcome.SUCCEEDED,
        NOW,
        None,
        None,
    )
    payload = json.loads(ledger.events.after()[0]["payload"])
    assert (payload["ref"], payload["index"], payload["sha256"], payload["size"]) == (
        ref,
        0,
        "0" * 64,
        1000,
    )


@pytest.mark.parametrize(("state", "event"), [(AssetState.FAILED, []), (AssetState.EXPIRED, [])])
def test_an_asset_that_is_given_up_says_why_and_is_not_announced_as_archived(
    ledger: LedgerHarness, state: AssetState, event: list[str]
) -> None:
    ref = ledger.archiving()
    (claimed,) = ledger.assets.claim(1)
    ledger.assets.give_up(claimed, state, "it is a cat")
    (asset,) = ledger.assets_of(ref)
    assert (asset.state, asset.error, asset.finished_at, asset.due_at, asset.claim) == (
        state,
        "it is a cat",
        NOW,
        None,
        None,
    )
    assert (ledger.event_types(ref), ledger.job(ref).due_at) == (event, NOW)


@pytest.mark.parametrize("make", [LedgerHarness.submitting, LedgerHarness.waiting])
def test_a_job_without_a_result_expires(
    ledger: LedgerHarness, make: Callable[[LedgerHarness], str]
) -> None:
    ref = make(ledger)
    ledger.jobs.expire(ref, "no word")
    job = ledger.job(ref)
    assert (job.state, job.message, job.reason, job.finished_at) == (
        JobState.EXPIRED,
        "no word",
        None,
        NOW,
    )
    assert ledger.event_types(ref) == ["job.expired"]


def test_a_job_whose_result_came_at_the_last_moment_does_not_expire(ledger: LedgerHarness) -> None:
    ref = ledger.archiving()
    before = ledger.everything()
    ledger.jobs.expire(ref, "no word")
    assert ledger.everything() == before


def test_the_risk_of_a_job_is_announced_once_a_round(ledger: LedgerHarness) -> None:
    ref = ledger.archiving()
    ledger.clock.advance(TIMING.url_lifetime * 3 / 4)
    (claimed,) = ledger.jobs.claim(1)
    assert [ledger.jobs.announce_risk(claimed, "hurry") for _ in range(3)] == [True, False, False]
    assert ledger.event_types(ref) == ["job.at_risk"]


def test_an_event_is_rolled_back_with_its_change(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    before = ledger.everything()

    def fail(connection: Connection) -> None:
        delivery = Delivery(ref, Source.CALLBACK, failed(), NOW)
        ledger.inbox._take(connection, Item(delivery, read_report(delivery.body), "0" * 64))
        raise PlannedError

    with pytest.raises(PlannedError):
        ledger.database.write(fail)
    assert ledger.everything() == before


def test_a_delivery_that_cannot_be_stored_notifies_no_worker() -> None:
    with opened("sqlite:////dev/null/ledger.sqlite3") as away:
        with pytest.raises(LedgerError):
            away.deliver(new_ref(NOW), succeeded())
        assert away.notified == 0


# An operator's retry.


def test_a_failed_job_is_polled_again_in_a_new_round(ledger: LedgerHarness) -> None:
    ref = ledger.failed()
    ledger.clock.advance(100)
    job = ledger.operator.retry(ref)
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
    assert ledger.deliver(ref, failed(), Source.POLL) is Decision.ENDED
    assert ledger.event_types(ref) == ["job.failed", "job.failed"]
    assert ledger.totals.audit().ok


def test_a_job_with_a_lost_asset_is_reopened_for_that_asset_only(ledger: LedgerHarness) -> None:
    ref = ledger.archiving(2)
    good, bad = ledger.assets.claim(2)
    ledger.assets.finish(good, stored(good))
    ledger.assets.give_up(bad, AssetState.EXPIRED, "gone")
    (claimed,) = ledger.jobs.claim(1)
    ledger.jobs.conclude(claimed, JobState.EXPIRED)
    ledger.clock.advance(10_000)
    job = ledger.operator.retry(ref)
    assert (job.state, job.outcome, job.due_at) == (
        JobState.ARCHIVING,
        Outcome.SUCCEEDED,
        NOW + 10_000,
    )
    assert ledger.pending(ref) == [bad.row.idx]
    assert ledger.deliver(ref, succeeded(*urls(2, "fresh")), Source.POLL) is Decision.REFRESHED
    (again,) = ledger.assets.claim(10)
    assert (again.row.idx, again.row.url, again.row.attempts) == (
        bad.row.idx,
        urls(2, "fresh")[1],
        1,
    )
    ledger.assets.finish(again, stored(again))
    ledger.conclude(ref)
    assert ledger.event_types(ref) == [
        "asset.archived",
        "job.expired",
        "asset.archived",
        "job.archived",
    ]
    assert ledger.totals.audit().ok


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (LedgerHarness.submitting, "is submitting: there is nothing to retry"),
        (LedgerHarness.waiting, "is waiting: there is nothing to retry"),
        (LedgerHarness.archiving, "is archiving: there is nothing to retry"),
        (LedgerHarness.archived, "is archived: there is nothing to retry"),
        (
            lambda ledger: ledger.jobs.record_refused(ledger.submitting(), "no").ref,
            "submit it again as a new job",
        ),
        (lambda _: "nowhere", "there is no job nowhere"),
    ],
)
def test_a_retry_that_cannot_help_is_refused_with_the_reason(
    ledger: LedgerHarness, make: Callable[[LedgerHarness], str], message: str
) -> None:
    ref = make(ledger)
    before = ledger.everything()
    with pytest.raises(ReceiverError, match=message):
        ledger.operator.retry(ref)
    assert ledger.everything() == before
