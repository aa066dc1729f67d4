"""Reports after the end of a job, replayed or at the same instant: on both databases one counts."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from ledgers import BASE_URL, NOW, Books, failed, running, succeeded, urls
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
        (Books.archiving, running(), Source.CALLBACK, Decision.LATE),
        (Books.archiving, succeeded(*urls(1, "other")), Source.CALLBACK, Decision.DUPLICATE),
        (Books.archiving, failed(), Source.POLL, Decision.CONTRADICTION),
        (Books.archiving, succeeded(""), Source.POLL, Decision.DUPLICATE),
        *(
            (make, running(), source, Decision.LATE)
            for make in (Books.archived, Books.failed, Books.expired)
            for source in (Source.CALLBACK, Source.POLL, Source.STREAM)
        ),
        (Books.archived, succeeded(), Source.POLL, Decision.DUPLICATE),
        (Books.archived, failed(), Source.CALLBACK, Decision.CONTRADICTION),
        (Books.archived, succeeded(provider_id="task-2"), Source.CALLBACK, Decision.OTHER_ID),
        (Books.failed, failed(), Source.CALLBACK, Decision.DUPLICATE),
        (Books.failed, succeeded(), Source.POLL, Decision.CONTRADICTION),
        (Books.expired, succeeded(), Source.CALLBACK, Decision.CONTRADICTION),
        (Books.expired, failed(), Source.CALLBACK, Decision.CONTRADICTION),
    ],
)
def test_after_the_end_a_report_is_stored_and_changes_nothing(
    books: Books, make: Callable[[Books], str], body: bytes, source: Source, verdict: Decision
) -> None:
    ref = make(books)
    before = books.everything()
    books.clock.advance(10)
    assert books.deliver(ref, body, source) is verdict
    after = books.everything()
    assert len(after.pop("deliveries")) == len(before.pop("deliveries")) + 1
    assert after == before


@pytest.mark.parametrize("make", [Books.archived, Books.failed, Books.expired])
def test_after_the_end_no_other_transaction_changes_a_job(
    books: Books, make: Callable[[Books], str]
) -> None:
    ref = make(books)
    before = books.everything()
    books.clock.advance(10)
    books.jobs.record_accepted(ref, "task-2")
    books.jobs.record_refused(ref, "no")
    books.jobs.expire(ref, "too late")
    books.hints.add("task-1")
    assert books.jobs.claim(10) == []
    assert books.everything() == before


def test_a_replayed_delivery_is_decided_again_and_not_stored_twice(books: Books) -> None:
    books.inbox = books.make_inbox(confirms=True)
    ref = books.waiting()
    books.deliver(ref, succeeded())
    (kept,) = books.queries.deliveries(ref)
    books.inbox = books.make_inbox()
    again = Delivery(ref, Source(kept.source), kept.body, books.clock())
    assert books.inbox.accept(again, replayed=kept.id) is Decision.ENDED
    assert (books.verdicts(ref), books.pending(ref)) == (["ended"], [0])


# Several at once.


def test_simultaneous_reports_of_an_unknown_job_are_all_stored(
    books: Books,
) -> None:
    for _ in range(5):
        ref = new_ref(NOW)
        bodies = [
            running(ref),
            running(ref),
            succeeded(provider_id=ref),
            succeeded(provider_id=ref),
        ]
        verdicts = side_by_side([partial(books.deliver, ref, body) for body in bodies])
        assert verdicts.count(Decision.ENDED) == 1
        assert (len(books.verdicts(ref)), books.pending(ref), books.job(ref).provider_id) == (
            4,
            [0],
            ref,
        )


@pytest.mark.parametrize("source", [Source.CALLBACK, Source.POLL])
def test_of_many_simultaneous_ends_one_counts(books: Books, source: Source) -> None:
    ref = books.waiting()
    bodies = [
        succeeded(*urls(2)),
        failed(),
        succeeded(*urls(2)),
        failed(),
        running(),
        succeeded(""),
    ]
    verdicts = side_by_side([partial(books.deliver, ref, body, source) for body in bodies])
    assert verdicts.count(Decision.ENDED) == 1
    job = books.job(ref)
    assert (len(books.pending(ref)), books.event_types(ref)) == (
        (2, []) if job.state is JobState.ARCHIVING else (0, ["job.failed"])
    )
    assert len(books.verdicts(ref)) == len(bodies)
    assert books.totals.audit().ok


def test_a_late_callback_gives_an_expired_job_its_id_so_that_a_retry_is_possible(
    books: Books,
) -> None:
    ref = books.submitting()
    books.jobs.expire(ref, "the answer to the submit was lost")
    assert books.deliver(ref, succeeded()) is Decision.CONTRADICTION
    assert (books.job(ref).state, books.job(ref).provider_id) == (JobState.EXPIRED, "task-1")
    assert books.operator.retry(ref).state is JobState.WAITING


def test_replaying_an_empty_success_is_not_its_second_time(books: Books) -> None:
    ref = books.waiting()
    books.deliver(ref, succeeded(""), Source.POLL)
    (kept,) = books.queries.deliveries(ref)
    assert (
        books.inbox.accept(
            Delivery(ref, Source.POLL, kept.body, kept.received_at), replayed=kept.id
        )
        is Decision.EMPTY
    )
    assert books.job(ref).state is JobState.WAITING


def test_a_signed_report_about_another_job_is_not_believed_by_a_job_without_an_id(
    books: Books,
) -> None:
    asked = Submission("a fox", "owner/name", {}, provider=Provider.REPLICATE, api=Api.QUEUE)
    known, unnamed = (books.jobs.submit(asked, BASE_URL).ref for _ in range(2))
    books.jobs.record_accepted(known, "t-1")
    body = b'{"id": "t-1", "status": "succeeded", "output": "https://files.example/of-t-1.png"}'
    signed = Delivery(unnamed, Source.CALLBACK, body, NOW, Provider.REPLICATE, Proof.BODY)
    assert books.inbox.accept(signed) is Decision.OTHER_ID
    assert books.assets_of(unnamed) == []
    assert books.inbox.accept(replace(signed, ref=known)) is Decision.ENDED


def test_the_id_in_the_answer_to_a_submit_replaces_one_that_nothing_proved(books: Books) -> None:
    asked = Submission("a fox", "google/nano-banana", {}, provider=Provider.KIE, api=Api.QUEUE)
    ref = books.jobs.submit(asked, BASE_URL).ref
    body = b'{"data": {"taskId": "anybody-s", "state": "generating"}}'
    early = Delivery(ref, Source.CALLBACK, body, NOW, Provider.KIE, Proof.TASK)
    books.inbox.accept(early)
    assert books.jobs.record_accepted(ref, "ours").provider_id == "ours"
