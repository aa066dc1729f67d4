"""What each report does to a job, from whatever source it comes, on both databases."""

import json

import pytest
from ledgers import BASE_URL, NOW, TIMING, LedgerHarness, failed, running, stored, succeeded, urls

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
    ledger: LedgerHarness, body: bytes, state: JobState, verdict: Decision
) -> None:
    ref = new_ref(NOW - 60)
    assert ledger.deliver(ref, body) is verdict
    job = ledger.job(ref)
    assert (job.state, job.provider_id, job.model, job.base_url) == (state, "task-1", "", BASE_URL)
    assert job.deadline_at == NOW + TIMING.job_timeout
    assert ledger.verdicts(ref) == [verdict]


def test_an_unreadable_body_is_stored_even_for_an_unknown_job(ledger: LedgerHarness) -> None:
    ref = new_ref(NOW)
    for body in (b"\x00\xff not JSON", b""):
        with pytest.raises(UnreadableError):
            ledger.deliver(ref, body)
    kept = ledger.queries.deliveries(ref)
    assert [(delivery.body, delivery.verdict) for delivery in kept] == [
        (b"\x00\xff not JSON", "unreadable"),
        (b"", "unreadable"),
    ]
    job = ledger.job(ref)
    assert (job.state, job.due_at) == (JobState.SUBMITTING, NOW + TIMING.poll_after)
    assert ledger.notified == 0


def test_a_running_report_postpones_the_poll(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    ledger.clock.advance(100)
    assert ledger.deliver(ref, running(progress=40)) is Decision.PROGRESS
    assert (ledger.job(ref).progress, ledger.job(ref).due_at) == (40, NOW + 100 + TIMING.poll_after)
    ledger.deliver(ref, running(progress=30))
    assert ledger.job(ref).progress == 40
    assert ledger.notified == 0


def test_polls_of_a_running_job_back_off_up_to_four_intervals_and_never_stop(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.waiting()
    waits = []
    while ledger.clock() < NOW + TIMING.job_timeout + 300:
        due = ledger.job(ref).due_at or 0
        ledger.clock.now = max(due, ledger.clock())
        assert len(ledger.jobs.claim(1)) == 1
        ledger.deliver(ref, running(), Source.POLL)
        waits.append((ledger.job(ref).due_at or 0) - ledger.clock())
    assert waits[:4] == [30, 60, 120, 120]
    assert 0 < min(waits) <= max(waits) <= 4 * TIMING.poll_interval


def test_a_success_makes_one_pending_asset_of_each_result(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    ledger.clock.advance(50)
    assert ledger.deliver(ref, succeeded(*urls(3))) is Decision.ENDED
    job, now = ledger.job(ref), NOW + 50
    assert (job.state, job.outcome, job.progress, job.ended_at, job.finished_at) == (
        JobState.ARCHIVING,
        Outcome.SUCCEEDED,
        100,
        now,
        None,
    )
    assert job.due_at == now + TIMING.url_lifetime * 3 / 4  # to announce the risk
    assert [(asset.idx, asset.url, asset.state) for asset in ledger.assets_of(ref)] == [
        (idx, url, AssetState.PENDING) for idx, url in enumerate(urls(3))
    ]
    assert {(asset.due_at, asset.expires_at) for asset in ledger.assets_of(ref)} == {
        (now, now + TIMING.url_lifetime)
    }
    assert (ledger.event_types(ref), ledger.notified) == ([], 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (failed(), Reason.PROVIDER_ERROR),
        (failed("input_moderation"), Reason.INPUT_MODERATION),
        (failed("output_moderation"), Reason.OUTPUT_MODERATION),
        (b'{"id":"task-1","status":"violation","error":"it broke"}', Reason.VIOLATION),
    ],
)
def test_a_failure_ends_the_job_with_its_reason(
    ledger: LedgerHarness, body: bytes, reason: Reason
) -> None:
    ref = ledger.waiting()
    assert ledger.deliver(ref, body) is Decision.ENDED
    job = ledger.job(ref)
    assert (job.state, job.outcome, job.reason, job.message) == (
        JobState.FAILED,
        Outcome.FAILED,
        reason,
        "it broke",
    )
    assert (job.ended_at, job.finished_at, job.due_at) == (NOW, NOW, None)
    (event,) = ledger.events.after()
    assert (event["type"], json.loads(event["payload"])["reason"]) == ("job.failed", reason)


@pytest.mark.parametrize("source", [Source.CALLBACK, Source.STREAM])
def test_an_empty_success_causes_a_poll_at_once(ledger: LedgerHarness, source: Source) -> None:
    ref = ledger.waiting()
    for _ in range(2):
        assert ledger.deliver(ref, succeeded(""), source) is Decision.EMPTY
    assert (ledger.job(ref).state, ledger.job(ref).due_at, ledger.notified) == (
        JobState.WAITING,
        NOW,
        2,
    )


@pytest.mark.parametrize("first", [Source.CALLBACK, Source.POLL, Source.STREAM])
def test_a_result_that_a_poll_finds_empty_again_fails_the_job(
    ledger: LedgerHarness, first: Source
) -> None:
    ref = ledger.waiting()
    assert ledger.deliver(ref, succeeded(""), first) is Decision.EMPTY
    assert ledger.deliver(ref, succeeded(""), Source.POLL) is Decision.ENDED
    job = ledger.job(ref)
    assert (job.state, job.reason, job.outcome) == (
        JobState.FAILED,
        Reason.NO_RESULT,
        Outcome.SUCCEEDED,
    )
    assert ledger.event_types(ref) == ["job.failed"]


def test_after_an_empty_success_a_poll_can_bring_the_result(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    ledger.deliver(ref, succeeded(""))
    assert ledger.deliver(ref, succeeded(), Source.POLL) is Decision.ENDED
    assert ledger.pending(ref) == [0]


def test_a_report_of_another_task_causes_a_poll_of_the_right_one(ledger: LedgerHarness) -> None:
    ref = ledger.waiting("task-1")
    assert ledger.deliver(ref, succeeded(provider_id="task-2")) is Decision.OTHER_ID
    job = ledger.job(ref)
    assert (job.state, job.provider_id, job.due_at, ledger.notified) == (
        JobState.WAITING,
        "task-1",
        NOW,
        1,
    )
    assert ledger.assets_of(ref) == []


def test_an_unconfirmed_callback_stores_only_the_id_and_causes_a_poll(
    ledger: LedgerHarness,
) -> None:
    ledger.inbox = ledger.make_inbox(confirms=True)
    ref = ledger.submitting()
    assert ledger.deliver(ref, succeeded()) is Decision.UNCONFIRMED
    job = ledger.job(ref)
    assert (job.state, job.provider_id, job.due_at, job.outcome) == (
        JobState.WAITING,
        "task-1",
        NOW,
        None,
    )
    assert ledger.assets_of(ref) == []
    assert ledger.deliver(ref, succeeded(), Source.POLL) is Decision.ENDED
    assert ledger.pending(ref) == [0]


def test_a_poll_brings_new_urls_for_pending_assets(ledger: LedgerHarness) -> None:
    ref = ledger.archiving(3)
    quick, slow = ledger.assets.claim(2)
    ledger.assets.finish(quick, stored(quick))
    ledger.clock.advance(600)
    fresh = [urls(3, "fresh")[0], urls(3, "fresh")[1], urls(3)[2]]
    assert ledger.deliver(ref, succeeded(*fresh), Source.POLL) is Decision.REFRESHED
    done, renewed, same = ledger.assets_of(ref)
    assert (done.state, done.url) == (AssetState.ARCHIVED, urls(3)[0])
    assert (renewed.idx, renewed.url, renewed.due_at, renewed.claim) == (
        slow.row.idx,
        fresh[1],
        NOW + 600,
        None,
    )
    assert renewed.expires_at == NOW + 600 + TIMING.url_lifetime
    assert (same.url, same.expires_at) == (fresh[2], NOW + TIMING.url_lifetime)
    assert ledger.deliver(ref, succeeded(*fresh), Source.POLL) is Decision.DUPLICATE
    assert ledger.notified == 2


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
    ledger: LedgerHarness, body: bytes, state: JobState, reason: Reason | None, pending: list[int]
) -> None:
    ref = ledger.submitting(mode=Mode.SYNC)
    assert ledger.deliver(ref, body, Source.SYNC) is Decision.ENDED
    assert (ledger.job(ref).state, ledger.job(ref).reason, ledger.pending(ref)) == (
        state,
        reason,
        pending,
    )
    assert ledger.deliver(ref, body, Source.SYNC) is Decision.DUPLICATE
    assert ledger.totals.audit().ok


# Limits.


def test_a_job_that_is_always_reported_running_is_still_due_at_its_deadline(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.waiting()
    while ledger.clock() < NOW + TIMING.job_timeout:
        ledger.deliver(ref, running())
        ledger.clock.advance(60)
    ledger.deliver(ref, running())
    assert ledger.job(ref).due_at is not None
    assert [claimed.row.ref for claimed in ledger.jobs.claim(1)] == [ref]


def test_urls_that_change_with_every_poll_do_not_keep_an_asset_pending_for_ever(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.archiving(1)
    ledger.execute("UPDATE assets SET attempts = 300")
    assert ledger.deliver(ref, succeeded(*urls(1, "fresh")), Source.POLL) is Decision.DUPLICATE
    assert [asset.url for asset in ledger.assets_of(ref)] == urls(1)
