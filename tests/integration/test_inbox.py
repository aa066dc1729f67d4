"""What each report does to a job, from whatever source it comes, on both databases."""

import json

import pytest
from ledgers import BASE_URL, NOW, TIMING, Books, failed, running, stored, succeeded, urls

from receiver.errors import UnreadableError
from receiver.model import (
    AssetState,
    Decision,
    JobState,
    Mode,
    Outcome,
    Reason,
    Source,
    new_ref,
)

pytestmark = pytest.mark.both_databases
PICTURE_ANSWER = b'{"data": [{"b64_json": "AAAA"}, {"url": "https://files.test/1.png"}]}'


@pytest.mark.parametrize(
    ("body", "state", "verdict"),
    [
        (running(), JobState.WAITING, Decision.PROGRESS),
        (succeeded(), JobState.ARCHIVING, Decision.ENDED),
        (failed(), JobState.FAILED, Decision.ENDED),
        (succeeded(""), JobState.WAITING, Decision.EMPTY),
    ],
    ids=["running", "succeeded", "failed", "empty"],
)
def test_an_unknown_job_is_adopted_by_its_callback(
    books: Books, body: bytes, state: JobState, verdict: Decision
) -> None:
    ref = new_ref(NOW - 60)
    assert books.deliver(ref, body) is verdict
    job = books.job(ref)
    assert (job.state, job.provider_id, job.model, job.base_url) == (state, "task-1", "", BASE_URL)
    assert job.deadline_at == NOW + TIMING.job_timeout
    assert books.verdicts(ref) == [verdict]


def test_an_unreadable_body_is_stored_even_for_an_unknown_job(books: Books) -> None:
    ref = new_ref(NOW)
    for body in (b"\x00\xff not JSON", b""):
        with pytest.raises(UnreadableError):
            books.deliver(ref, body)
    kept = books.queries.deliveries(ref)
    assert [(delivery.body, delivery.verdict) for delivery in kept] == [
        (b"\x00\xff not JSON", "unreadable"),
        (b"", "unreadable"),
    ]
    job = books.job(ref)
    assert (job.state, job.due_at) == (JobState.SUBMITTING, NOW + TIMING.poll_after)
    assert books.notified == 0


def test_a_running_report_postpones_the_poll(books: Books) -> None:
    ref = books.waiting()
    books.clock.advance(100)
    assert books.deliver(ref, running(progress=40)) is Decision.PROGRESS
    assert (books.job(ref).progress, books.job(ref).due_at) == (40, NOW + 100 + TIMING.poll_after)
    books.deliver(ref, running(progress=30))
    assert books.job(ref).progress == 40
    assert books.notified == 0


def test_polls_of_a_running_job_back_off_up_to_four_intervals_and_never_stop(books: Books) -> None:
    ref = books.waiting()
    waits = []
    while books.clock() < NOW + TIMING.job_timeout + 300:
        due = books.job(ref).due_at or 0
        books.clock.now = max(due, books.clock())
        assert len(books.jobs.claim(1)) == 1
        books.deliver(ref, running(), Source.POLL)
        waits.append((books.job(ref).due_at or 0) - books.clock())
    assert waits[:4] == [30, 60, 120, 120]
    assert 0 < min(waits) <= max(waits) <= 4 * TIMING.poll_interval


def test_a_success_makes_one_pending_asset_of_each_result(books: Books) -> None:
    ref = books.waiting()
    books.clock.advance(50)
    assert books.deliver(ref, succeeded(*urls(3))) is Decision.ENDED
    job, now = books.job(ref), NOW + 50
    assert (job.state, job.outcome, job.progress, job.ended_at, job.finished_at) == (
        JobState.ARCHIVING,
        Outcome.SUCCEEDED,
        100,
        now,
        None,
    )
    assert job.due_at == now + TIMING.url_lifetime * 3 / 4  # to announce the risk
    assert [(asset.idx, asset.url, asset.state) for asset in books.assets_of(ref)] == [
        (idx, url, AssetState.PENDING) for idx, url in enumerate(urls(3))
    ]
    assert {(asset.due_at, asset.expires_at) for asset in books.assets_of(ref)} == {
        (now, now + TIMING.url_lifetime)
    }
    assert (books.event_types(ref), books.notified) == ([], 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (failed(), Reason.PROVIDER_ERROR),
        (failed("input_moderation"), Reason.INPUT_MODERATION),
        (failed("output_moderation"), Reason.OUTPUT_MODERATION),
        (b'{"id":"task-1","status":"violation","error":"it broke"}', Reason.VIOLATION),
    ],
)
def test_a_failure_ends_the_job_with_its_reason(books: Books, body: bytes, reason: Reason) -> None:
    ref = books.waiting()
    assert books.deliver(ref, body) is Decision.ENDED
    job = books.job(ref)
    assert (job.state, job.outcome, job.reason, job.message) == (
        JobState.FAILED,
        Outcome.FAILED,
        reason,
        "it broke",
    )
    assert (job.ended_at, job.finished_at, job.due_at) == (NOW, NOW, None)
    (event,) = books.events.after()
    assert (event["type"], json.loads(event["payload"])["reason"]) == ("job.failed", reason)


@pytest.mark.parametrize("source", [Source.CALLBACK, Source.STREAM])
def test_an_empty_success_causes_a_poll_at_once(books: Books, source: Source) -> None:
    ref = books.waiting()
    for _ in range(2):
        assert books.deliver(ref, succeeded(""), source) is Decision.EMPTY
    assert (books.job(ref).state, books.job(ref).due_at, books.notified) == (
        JobState.WAITING,
        NOW,
        2,
    )


@pytest.mark.parametrize("first", [Source.CALLBACK, Source.POLL, Source.STREAM])
def test_a_result_that_a_poll_finds_empty_again_fails_the_job(books: Books, first: Source) -> None:
    ref = books.waiting()
    assert books.deliver(ref, succeeded(""), first) is Decision.EMPTY
    assert books.deliver(ref, succeeded(""), Source.POLL) is Decision.ENDED
    job = books.job(ref)
    assert (job.state, job.reason, job.outcome) == (
        JobState.FAILED,
        Reason.NO_RESULT,
        Outcome.SUCCEEDED,
    )
    assert books.event_types(ref) == ["job.failed"]


def test_after_an_empty_success_a_poll_can_bring_the_result(books: Books) -> None:
    ref = books.waiting()
    books.deliver(ref, succeeded(""))
    assert books.deliver(ref, succeeded(), Source.POLL) is Decision.ENDED
    assert books.pending(ref) == [0]


def test_a_report_of_another_task_causes_a_poll_of_the_right_one(books: Books) -> None:
    ref = books.waiting("task-1")
    assert books.deliver(ref, succeeded(provider_id="task-2")) is Decision.OTHER_ID
    job = books.job(ref)
    assert (job.state, job.provider_id, job.due_at, books.notified) == (
        JobState.WAITING,
        "task-1",
        NOW,
        1,
    )
    assert books.assets_of(ref) == []


def test_an_unconfirmed_callback_stores_only_the_id_and_causes_a_poll(
    books: Books,
) -> None:
    books.inbox = books.make_inbox(confirms=True)
    ref = books.submitting()
    assert books.deliver(ref, succeeded()) is Decision.UNCONFIRMED
    job = books.job(ref)
    assert (job.state, job.provider_id, job.due_at, job.outcome) == (
        JobState.WAITING,
        "task-1",
        NOW,
        None,
    )
    assert books.assets_of(ref) == []
    assert books.deliver(ref, succeeded(), Source.POLL) is Decision.ENDED
    assert books.pending(ref) == [0]


def test_a_poll_brings_new_urls_for_pending_assets(books: Books) -> None:
    ref = books.archiving(3)
    quick, slow = books.assets.claim(2)
    books.assets.finish(quick, stored(quick))
    books.clock.advance(600)
    fresh = [urls(3, "fresh")[0], urls(3, "fresh")[1], urls(3)[2]]
    assert books.deliver(ref, succeeded(*fresh), Source.POLL) is Decision.REFRESHED
    done, renewed, same = books.assets_of(ref)
    assert (done.state, done.url) == (AssetState.ARCHIVED, urls(3)[0])
    assert (renewed.idx, renewed.url, renewed.due_at, renewed.claim) == (
        slow.row.idx,
        fresh[1],
        NOW + 600,
        None,
    )
    assert renewed.expires_at == NOW + 600 + TIMING.url_lifetime
    assert (same.url, same.expires_at) == (fresh[2], NOW + TIMING.url_lifetime)
    assert books.deliver(ref, succeeded(*fresh), Source.POLL) is Decision.DUPLICATE
    assert books.notified == 2


# An answer that is its own result.


@pytest.mark.parametrize(
    ("body", "state", "reason", "pending"),
    [
        (PICTURE_ANSWER, JobState.ARCHIVING, None, [0, 1]),
        (b'{"data": []}', JobState.FAILED, Reason.NO_RESULT, []),
        (
            b'{"error": {"code": "moderation_blocked", "message": "no"}}',
            JobState.FAILED,
            Reason.INPUT_MODERATION,
            [],
        ),
    ],
    ids=["pictures", "none", "moderated"],
)
def test_an_answer_that_is_its_own_result_ends_its_job(
    books: Books, body: bytes, state: JobState, reason: Reason | None, pending: list[int]
) -> None:
    ref = books.submitting(mode=Mode.SYNC)
    assert books.deliver(ref, body, Source.SYNC) is Decision.ENDED
    assert (books.job(ref).state, books.job(ref).reason, books.pending(ref)) == (
        state,
        reason,
        pending,
    )
    assert books.deliver(ref, body, Source.SYNC) is Decision.DUPLICATE
    assert books.totals.audit().ok


# Limits.


def test_a_job_that_is_always_reported_running_is_still_due_at_its_deadline(books: Books) -> None:
    ref = books.waiting()
    while books.clock() < NOW + TIMING.job_timeout:
        books.deliver(ref, running())
        books.clock.advance(60)
    books.deliver(ref, running())
    assert books.job(ref).due_at is not None
    assert [claimed.row.ref for claimed in books.jobs.claim(1)] == [ref]


def test_urls_that_change_with_every_poll_do_not_keep_an_asset_pending_for_ever(
    books: Books,
) -> None:
    ref = books.archiving(1)
    books.execute("UPDATE assets SET attempts = 300")
    assert books.deliver(ref, succeeded(*urls(1, "fresh")), Source.POLL) is Decision.DUPLICATE
    assert [asset.url for asset in books.assets_of(ref)] == urls(1)
