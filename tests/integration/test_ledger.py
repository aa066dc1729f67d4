"""The transactions of jobs and hints on both databases, except what reports change."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from ledgers import BASE_URL, NOW, TIMING, Books, failed, opened, running, stored, succeeded, urls
from side_by_side import side_by_side
from sqlalchemy import Connection

from receiver.errors import KeyTakenError, LedgerError, ReceiverError, UnreadableError
from receiver.ingest.inbox import Item
from receiver.ledger.jobs import Jobs, find_job
from receiver.ledger.rows import Job
from receiver.model import (
    AssetState,
    Decision,
    Delivery,
    JobState,
    Mode,
    Outcome,
    Reason,
    Source,
    Submission,
    new_ref,
)
from receiver.providers.grsai.reports import read_report

pytestmark = pytest.mark.both_databases


class StubbornError(Exception):
    """Raised in the middle of a transaction."""


# A job's beginning.


def test_a_job_is_written_down_before_it_is_posted(books: Books) -> None:
    job = books.job(books.submitting())
    assert (job.state, job.provider_id, job.outcome, job.round, job.attempts) == (
        JobState.SUBMITTING,
        None,
        None,
        0,
        0,
    )
    assert (job.submitted_at, job.deadline_at, job.due_at) == (
        NOW,
        NOW + TIMING.job_timeout,
        NOW + TIMING.job_timeout,
    )
    assert (job.prompt, job.model, json.loads(books.queries.params(job.ref)), job.base_url) == (
        "a red fox",
        "gpt-image-1.5",
        {"aspectRatio": "1:1"},
        BASE_URL,
    )


@pytest.mark.parametrize(
    "prompt", ["", "红色的狐狸 🦊", 'it\'s 100 % "quoted"; DROP TABLE jobs; --', "x" * 100_000]
)
def test_a_prompt_is_kept_to_the_letter(books: Books, prompt: str) -> None:
    assert books.job(books.submitting(prompt)).prompt == prompt


@pytest.mark.parametrize(
    ("mode", "wait"), [(Mode.WEBHOOK, TIMING.poll_after), (Mode.POLL, TIMING.poll_interval)]
)
def test_an_accepted_job_waits_and_is_asked_about_in_time(
    books: Books, mode: Mode, wait: float
) -> None:
    job = books.jobs.record_accepted(books.submitting(mode=mode), "task-1")
    assert (job.state, job.provider_id, job.due_at) == (JobState.WAITING, "task-1", NOW + wait)


def test_a_refused_job_failed_in_the_providers_words(books: Books) -> None:
    job = books.jobs.record_refused(books.submitting(), "insufficient credits")
    assert (job.state, job.reason, job.message) == (
        JobState.FAILED,
        Reason.REFUSED,
        "insufficient credits",
    )
    assert (job.finished_at, job.due_at, job.ended_at, job.outcome) == (NOW, None, None, None)
    assert books.event_types(job.ref) == ["job.failed"]


def test_a_refusal_after_a_callback_changes_nothing(books: Books) -> None:
    ref = books.submitting()
    books.deliver(ref, running())
    before = books.everything()
    books.jobs.record_refused(ref, "no")
    assert books.everything() == before


@pytest.mark.parametrize("happening", [Jobs.record_accepted, Jobs.record_refused, Jobs.expire])
def test_a_job_that_is_not_there_is_named(
    books: Books, happening: Callable[[Jobs, str, str], object]
) -> None:
    with pytest.raises(ReceiverError, match="there is no job nowhere"):
        happening(books.jobs, "nowhere", "word")


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (running(), JobState.WAITING),
        (succeeded(), JobState.ARCHIVING),
        (failed(), JobState.FAILED),
        (succeeded(""), JobState.WAITING),
    ],
    ids=["running", "succeeded", "failed", "empty"],
)
def test_a_callback_may_overtake_the_submits_answer(
    books: Books, body: bytes, state: JobState
) -> None:
    ref = books.submitting()
    books.deliver(ref, body)
    overtaken = books.everything()
    assert books.job(ref).state is state
    job = books.jobs.record_accepted(ref, "task-1")
    assert (job.state, job.provider_id) == (state, "task-1")
    assert books.everything() == overtaken


def test_a_callback_without_an_id_leaves_the_id_to_the_submits_answer(books: Books) -> None:
    ref = books.submitting()
    books.deliver(ref, succeeded(provider_id=None))
    assert books.job(ref).provider_id is None
    assert books.jobs.record_accepted(ref, "task-1").provider_id == "task-1"


def with_key(books: Books, key: str | None = "order-1") -> Job:
    return books.jobs.submit(Submission("a red fox", "gpt-image-1.5", {}, key=key), BASE_URL)


def test_a_callers_key_is_taken_by_one_job_and_its_holder_is_named(books: Books) -> None:
    holder = with_key(books)
    with pytest.raises(KeyTakenError) as taken:
        with_key(books)
    assert (taken.value.ref, books.jobs.key_holder("order-1")) == (holder.ref, holder)
    assert (
        len({with_key(books, "order-2").ref, with_key(books, None).ref, with_key(books, None).ref})
        == 3
    )


def test_a_refused_job_has_not_spent_its_key(books: Books) -> None:
    first = with_key(books)
    books.jobs.record_refused(first.ref, "no credit")
    assert books.jobs.key_holder("order-1") is None
    second = with_key(books)
    assert books.jobs.key_holder("order-1") == second
    assert books.job(first.ref).key is None


def test_of_many_submits_with_one_key_at_once_one_makes_a_job(books: Books) -> None:
    for number in range(4):
        refs = side_by_side([partial(ref_for_key, books, f"order-{number}")] * 6)
        assert len(set(refs)) == 1
    assert sum(books.totals.counts().values()) == 4


def ref_for_key(books: Books, key: str) -> str:
    try:
        return with_key(books, key).ref
    except KeyTakenError as taken:
        return taken.ref


def test_a_job_that_never_reached_the_provider_is_taken_back(books: Books) -> None:
    books.jobs.withdraw(with_key(books).ref)
    assert books.everything()["jobs"] == []
    assert with_key(books).key == "order-1"


@pytest.mark.parametrize("body", [running(), b"no report"])
def test_a_job_with_a_report_is_not_withdrawn(books: Books, body: bytes) -> None:
    ref = books.submitting()
    with suppress(UnreadableError):
        books.deliver(ref, body)
    before = books.everything()
    books.jobs.withdraw(ref)
    books.jobs.withdraw("nowhere")
    assert books.everything() == before


def test_reading_a_job_does_not_wait_for_a_transaction_that_changes_it(books: Books) -> None:
    ref = books.waiting()

    def look_while_it_is_locked(connection: Connection) -> Job:
        assert find_job(connection, ref, locked=True) is not None
        return books.jobs.get(ref)

    assert books.database.write(look_while_it_is_locked).ref == ref


def test_an_id_that_is_another_jobs_is_left_out(books: Books) -> None:
    first = books.waiting("task-1")
    by_answer = books.jobs.record_accepted(books.submitting(), "task-1")
    assert (by_answer.state, by_answer.provider_id) == (JobState.WAITING, None)
    by_callback = books.submitting()
    assert books.deliver(by_callback, running("task-1")) is Decision.PROGRESS
    assert books.job(by_callback).provider_id is None
    assert books.job(first).provider_id == "task-1"


# Ends.


def test_the_last_asset_has_its_job_concluded_and_each_end_has_one_event(books: Books) -> None:
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


@pytest.mark.parametrize("bring", [Books.submitting, Books.waiting])
def test_a_job_without_a_result_expires(books: Books, bring: Callable[[Books], str]) -> None:
    ref = bring(books)
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

    def stumble(connection: Connection) -> None:
        delivery = Delivery(ref, Source.CALLBACK, failed(), NOW)
        books.inbox._take(connection, Item(delivery, read_report(delivery.body), "0" * 64))
        raise StubbornError

    with pytest.raises(StubbornError):
        books.database.write(stumble)
    assert books.everything() == before


def test_a_delivery_that_cannot_be_stored_notifies_no_worker() -> None:
    with opened("sqlite:////dev/null/ledger.sqlite3") as away:
        with pytest.raises(LedgerError):
            away.deliver(new_ref(NOW), succeeded())
        assert away.notified == 0


# An operator's retry.


def test_a_failed_job_is_asked_for_again_in_a_new_round(books: Books) -> None:
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


def test_a_job_with_a_lost_asset_is_opened_again_for_that_asset_only(books: Books) -> None:
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
    ("bring", "complaint"),
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
def test_a_retry_that_cannot_help_is_refused_and_says_why(
    books: Books, bring: Callable[[Books], str], complaint: str
) -> None:
    ref = bring(books)
    before = books.everything()
    with pytest.raises(ReceiverError, match=complaint):
        books.operator.retry(ref)
    assert books.everything() == before


# Hints.


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
    (held,) = books.hints.claim(1)
    for number in range(1, 6):
        books.clock.advance(1)
        assert books.hints.add(f"task-{number}") is True
    assert sorted(row[0] for row in books.everything()["hints"]) == [
        "task-0",
        "task-4",
        "task-5",
    ], "what is just looked into stays"
    books.hints.drop(held.row)


def test_the_same_hint_from_many_callbacks_at_once_is_stored_once(books: Books) -> None:
    for number in range(5):
        assert side_by_side([partial(books.hints.add, f"task-{number}")] * 6) == [True] * 6
    assert len(books.everything()["hints"]) == 5
