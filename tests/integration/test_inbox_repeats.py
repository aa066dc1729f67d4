"""Reports after the end of a job, replayed or at the same instant: on both databases one counts."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from ledgers import BASE_URL, NOW, LedgerHarness, failed, running, succeeded, urls
from side_by_side import side_by_side

from receiver.model import (
    Api,
    Decision,
    Delivery,
    JobState,
    Proof,
    Provider,
    Source,
    Submission,
    new_ref,
)

pytestmark = pytest.mark.both_databases


@pytest.mark.parametrize(
    ("make", "body", "source", "verdict"),
    [
        (LedgerHarness.archiving, running(), Source.CALLBACK, Decision.LATE),
        (
            LedgerHarness.archiving,
            succeeded(*urls(1, "other")),
            Source.CALLBACK,
            Decision.DUPLICATE,
        ),
        (LedgerHarness.archiving, failed(), Source.POLL, Decision.CONTRADICTION),
        (LedgerHarness.archiving, succeeded(""), Source.POLL, Decision.DUPLICATE),
        *(
            (make, running(), source, Decision.LATE)
            for make in (LedgerHarness.archived, LedgerHarness.failed, LedgerHarness.expired)
            for source in (Source.CALLBACK, Source.POLL, Source.STREAM)
        ),
        (LedgerHarness.archived, succeeded(), Source.POLL, Decision.DUPLICATE),
        (LedgerHarness.archived, failed(), Source.CALLBACK, Decision.CONTRADICTION),
        (
            LedgerHarness.archived,
            succeeded(provider_id="task-2"),
            Source.CALLBACK,
            Decision.OTHER_ID,
        ),
        (LedgerHarness.failed, failed(), Source.CALLBACK, Decision.DUPLICATE),
        (LedgerHarness.failed, succeeded(), Source.POLL, Decision.CONTRADICTION),
        (LedgerHarness.expired, succeeded(), Source.CALLBACK, Decision.CONTRADICTION),
        (LedgerHarness.expired, failed(), Source.CALLBACK, Decision.CONTRADICTION),
    ],
)
def test_after_the_end_a_report_is_stored_and_changes_nothing(
    ledger: LedgerHarness,
    make: Callable[[LedgerHarness], str],
    body: bytes,
    source: Source,
    verdict: Decision,
) -> None:
    ref = make(ledger)
    before = ledger.everything()
    ledger.clock.advance(10)
    assert ledger.deliver(ref, body, source) is verdict
    after = ledger.everything()
    assert len(after.pop("deliveries")) == len(before.pop("deliveries")) + 1
    assert after == before


@pytest.mark.parametrize(
    "make", [LedgerHarness.archived, LedgerHarness.failed, LedgerHarness.expired]
)
def test_after_the_end_no_other_transaction_changes_a_job(
    ledger: LedgerHarness, make: Callable[[LedgerHarness], str]
) -> None:
    ref = make(ledger)
    before = ledger.everything()
    ledger.clock.advance(10)
    ledger.jobs.record_accepted(ref, "task-2")
    ledger.jobs.record_refused(ref, "no")
    ledger.jobs.expire(ref, "too late")
    ledger.hints.add("task-1")
    assert ledger.jobs.claim(10) == []
    assert ledger.everything() == before


def test_a_replayed_delivery_is_decided_again_and_not_stored_twice(ledger: LedgerHarness) -> None:
    ledger.inbox = ledger.make_inbox(confirms=True)
    ref = ledger.waiting()
    ledger.deliver(ref, succeeded())
    (kept,) = ledger.queries.deliveries(ref)
    ledger.inbox = ledger.make_inbox()
    again = Delivery(ref, Source(kept.source), kept.body, ledger.clock())
    assert ledger.inbox.accept(again, replayed=kept.id) is Decision.ENDED
    assert (ledger.verdicts(ref), ledger.pending(ref)) == (["ended"], [0])


# Several at once.


def test_simultaneous_reports_of_an_unknown_job_are_all_stored(
    ledger: LedgerHarness,
) -> None:
    for _ in range(5):
        ref = new_ref(NOW)
        bodies = [
            running(ref),
            running(ref),
            succeeded(provider_id=ref),
            succeeded(provider_id=ref),
        ]
        verdicts = side_by_side([partial(ledger.deliver, ref, body) for body in bodies])
        assert verdicts.count(Decision.ENDED) == 1
        assert (len(ledger.verdicts(ref)), ledger.pending(ref), ledger.job(ref).provider_id) == (
            4,
            [0],
            ref,
        )


@pytest.mark.parametrize("source", [Source.CALLBACK, Source.POLL])
def test_of_many_simultaneous_ends_one_counts(ledger: LedgerHarness, source: Source) -> None:
    ref = ledger.waiting()
    bodies = [
        succeeded(*urls(2)),
        failed(),
        succeeded(*urls(2)),
        failed(),
        running(),
        succeeded(""),
    ]
    verdicts = side_by_side([partial(ledger.deliver, ref, body, source) for body in bodies])
    assert verdicts.count(Decision.ENDED) == 1
    job = ledger.job(ref)
    assert (len(ledger.pending(ref)), ledger.event_types(ref)) == (
        (2, []) if job.state is JobState.ARCHIVING else (0, ["job.failed"])
    )
    assert len(ledger.verdicts(ref)) == len(bodies)
    assert ledger.totals.audit().ok


def test_a_late_callback_gives_an_expired_job_its_id_so_that_a_retry_is_possible(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.submitting()
    ledger.jobs.expire(ref, "the answer to the submit was lost")
    assert ledger.deliver(ref, succeeded()) is Decision.CONTRADICTION
    assert (ledger.job(ref).state, ledger.job(ref).provider_id) == (JobState.EXPIRED, "task-1")
    assert ledger.operator.retry(ref).state is JobState.WAITING


def test_replaying_an_empty_success_is_not_its_second_time(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    ledger.deliver(ref, succeeded(""), Source.POLL)
    (kept,) = ledger.queries.deliveries(ref)
    assert (
        ledger.inbox.accept(
            Delivery(ref, Source.POLL, kept.body, kept.received_at), replayed=kept.id
        )
        is Decision.EMPTY
    )
    assert ledger.job(ref).state is JobState.WAITING


def test_a_signed_report_about_another_job_is_not_believed_by_a_job_without_an_id(
    ledger: LedgerHarness,
) -> None:
    asked = Submission("a fox", "owner/name", {}, provider=Provider.REPLICATE, api=Api.QUEUE)
    known, unnamed = (ledger.jobs.submit(asked, BASE_URL).ref for _ in range(2))
    ledger.jobs.record_accepted(known, "t-1")
    body = b'{"id": "t-1", "status": "succeeded", "output": "https://files.example/of-t-1.png"}'
    signed = Delivery(unnamed, Source.CALLBACK, body, NOW, Provider.REPLICATE, Proof.BODY)
    assert ledger.inbox.accept(signed) is Decision.OTHER_ID
    assert ledger.assets_of(unnamed) == []
    assert ledger.inbox.accept(replace(signed, ref=known)) is Decision.ENDED


def test_the_id_in_the_answer_to_a_submit_replaces_one_that_nothing_proved(
    ledger: LedgerHarness,
) -> None:
    asked = Submission("a fox", "google/nano-banana", {}, provider=Provider.KIE, api=Api.QUEUE)
    ref = ledger.jobs.submit(asked, BASE_URL).ref
    body = b'{"data": {"taskId": "anybody-s", "state": "generating"}}'
    early = Delivery(ref, Source.CALLBACK, body, NOW, Provider.KIE, Proof.TASK)
    ledger.inbox.accept(early)
    assert ledger.jobs.record_accepted(ref, "ours").provider_id == "ours"
