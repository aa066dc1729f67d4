"""No silent job: lost callbacks, odd answers, dead providers and URLs that expire."""

import json
from itertools import pairwise

import pytest
from ledgers import TIMING, failed, running, succeeded, urls
from reconciling import Provider, ReconcileHarness
from sqlalchemy import update

from receiver.errors import NoSuchTaskError, ProviderUnavailableError
from receiver.jobs.reconcile import MOST_UNKNOWN, NOT_YET
from receiver.ledger.rows import Job
from receiver.ledger.tables import jobs
from receiver.model import Api, AssetState, JobState, Mode, Reason, Source


def pauses(looks: list[Job], begin: float) -> list[float]:
    """Return the seconds between the polls of a job, as its row said after each."""
    dues = [begin, *(job.due_at for job in looks if job.due_at is not None)]
    return [later - earlier for earlier, later in pairwise(dues)]


# The provider has no result


@pytest.mark.parametrize("api", [Api.DRAW, Api.NEWER])
def test_no_such_task_means_not_yet_at_first_and_gone_when_it_is_said_again_and_again(
    harness: ReconcileHarness, api: Api
) -> None:
    ref = harness.posted(api, mode=Mode.POLL, result="gone")
    *young, gone = harness.reconcile_until_final(ref)
    assert [job.state for job in young] == [JobState.WAITING] * (MOST_UNKNOWN - 1)
    assert young[0].due_at is not None
    assert young[0].due_at - young[0].submitted_at <= NOT_YET
    assert (gone.state, gone.provider_id in gone.message) == (JobState.EXPIRED, True)  # type: ignore[operator] # it has an id
    assert "does not know its task" in gone.message
    assert harness.ledger.event_types(ref) == ["job.expired"]


def test_within_its_first_minute_no_task_is_gone_however_often_it_is_denied(
    harness: ReconcileHarness,
) -> None:
    ref = harness.posted(result="gone")
    for _ in range(2 * MOST_UNKNOWN):
        harness.ledger.execute(
            "UPDATE jobs SET due_at = :now WHERE ref = :ref", now=harness.ledger.clock.now, ref=ref
        )
        assert harness.reconcile(ref).state is JobState.WAITING
    harness.ledger.clock.advance(NOT_YET + 1)
    assert harness.reconcile(ref).state is JobState.EXPIRED


def test_a_task_the_provider_knew_a_moment_ago_is_not_gone_when_it_is_denied_once(
    harness: ReconcileHarness,
) -> None:
    unknown = NoSuchTaskError("no such task")
    harness.asks(Provider(running(), running(), running(), unknown, succeeded()))
    ref = harness.ledger.waiting()
    assert [harness.reconcile(ref).state for _ in range(5)] == [JobState.WAITING] * 4 + [
        JobState.ARCHIVING
    ]


def test_a_gateway_in_trouble_is_asked_again_and_again(harness: ReconcileHarness) -> None:
    ref = harness.posted(result={"mode": "gateway", "times": 4})
    begin = harness.ledger.job(ref).due_at
    assert begin is not None
    looked = [harness.reconcile(ref) for _ in range(5)]
    assert [job.state for job in looked] == [JobState.WAITING] * 4 + [JobState.ARCHIVING]
    interval = TIMING.poll_interval
    assert pauses(looked[:4], begin) == [interval, 2 * interval, 4 * interval, 4 * interval]


def test_a_task_under_way_is_asked_about_less_and_less_often(harness: ReconcileHarness) -> None:
    ref = harness.posted(delay=1000)
    looked = [harness.reconcile(ref) for _ in range(5)]
    assert {job.state for job in looked} == {JobState.WAITING}
    interval = TIMING.poll_interval
    begin = looked[0].submitted_at + TIMING.poll_after
    assert pauses(looked, begin) == [
        interval,
        2 * interval,
        4 * interval,
        4 * interval,
        4 * interval,
    ]
    assert set(harness.ledger.verdicts(ref)) == {"progress"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (running(), "still calls it running"),
        (succeeded(""), "reports success, but no result"),
        (running(provider_id="task-2"), "answers with another task"),
        (b"{}", "answer cannot be read"),
        (ProviderUnavailableError("the gateway is down"), "the gateway is down"),
        (NoSuchTaskError("no such task"), "no such task"),
    ],
)
def test_at_the_deadline_there_is_one_last_poll_and_the_end_says_what_a_person_can_do(
    harness: ReconcileHarness, answer: bytes | Exception, said: str
) -> None:
    provider = Provider(answer)
    harness.asks(provider)
    ref = harness.ledger.waiting()
    harness.ledger.clock.advance(TIMING.job_timeout)
    job = harness.reconcile(ref)
    assert (provider.asked, job.state) == (1, JobState.EXPIRED)
    assert job.message.startswith("no result within 3600 s (")
    assert job.message.endswith(
        f"{said}); the provider knows it as task-1: `receiver retry {ref}` asks once more"
    )
    assert harness.ledger.event_types(ref) == ["job.expired"]


def test_a_result_found_by_the_last_poll_counts(harness: ReconcileHarness) -> None:
    ref = harness.posted()
    harness.ledger.clock.advance(TIMING.job_timeout)
    assert harness.reconcile(ref).state is JobState.ARCHIVING


def test_a_job_whose_submit_answer_and_callback_are_lost_expires_at_its_deadline(
    harness: ReconcileHarness,
) -> None:
    ref = harness.ledger.submitting()
    (expired,) = harness.reconcile_until_final(ref)
    assert harness.ledger.clock.now == expired.deadline_at
    assert (expired.state, expired.provider_id) == (JobState.EXPIRED, None)
    assert "it may have been billed, look for it at the provider" in expired.message


def test_without_a_key_a_job_waits_for_its_callback_until_its_deadline(
    harness: ReconcileHarness,
) -> None:
    harness.asks(None)
    ref = harness.ledger.waiting()
    waiting, expired = harness.reconcile_until_final(ref)
    assert (waiting.state, waiting.due_at) == (JobState.WAITING, waiting.deadline_at)
    assert (expired.state, "GRSAI_API_KEY is not set" in expired.message) == (
        JobState.EXPIRED,
        True,
    )


def test_success_without_a_url_is_asked_once_more_and_then_a_failure(
    harness: ReconcileHarness,
) -> None:
    ref = harness.posted(result="no_url")
    waiting, lost = harness.reconcile_until_final(ref)
    assert (waiting.state, lost.state, lost.reason) == (
        JobState.WAITING,
        JobState.FAILED,
        Reason.NO_RESULT,
    )
    assert harness.ledger.verdicts(ref) == ["empty", "ended"]
    assert harness.ledger.event_types(ref) == ["job.failed"]


def test_a_callback_without_a_url_has_the_result_asked_at_once(harness: ReconcileHarness) -> None:
    ref = harness.posted()
    harness.ledger.deliver(ref, succeeded("", provider_id=harness.ledger.job(ref).provider_id))
    assert harness.ledger.job(ref).due_at == harness.ledger.clock.now
    assert harness.reconcile(ref).state is JobState.ARCHIVING


@pytest.mark.parametrize(
    ("api", "fail", "reason"),
    [
        (Api.DRAW, "input_moderation", Reason.INPUT_MODERATION),
        (Api.DRAW, "output_moderation", Reason.OUTPUT_MODERATION),
        (Api.DRAW, "error", Reason.PROVIDER_ERROR),
        (Api.NEWER, "violation", Reason.VIOLATION),
    ],
)
def test_a_failure_found_by_a_poll_is_the_job_s_end(
    harness: ReconcileHarness, api: Api, fail: str, reason: Reason
) -> None:
    (job,) = harness.reconcile_until_final(harness.posted(api, fail=fail))
    assert (job.state, job.reason) == (JobState.FAILED, reason)


# Polled, and a report came meanwhile


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (running(), "late"),
        (failed(), "contradiction"),
        (succeeded(*urls(1, "callback")), "duplicate"),
        (b"{}", "unreadable"),
    ],
)
def test_a_callback_that_comes_during_a_poll_decides(
    harness: ReconcileHarness,
    answer: bytes,
    verdict: str,
    late: bool,  # noqa: FBT001 - a column of the table
) -> None:
    ref = harness.ledger.waiting()

    def answer_slowly() -> bytes:
        harness.ledger.deliver(ref, succeeded(*urls(1, "callback")))
        return answer

    harness.asks(Provider(answer_slowly))
    harness.ledger.clock.advance(TIMING.job_timeout if late else 0)
    job = harness.reconcile(ref)
    assert (job.state, job.claim) == (JobState.ARCHIVING, None)
    assert [asset.url for asset in harness.ledger.assets_of(ref)] == urls(1, "callback")
    assert harness.ledger.verdicts(ref) == ["ended", verdict]


def test_a_callback_that_comes_while_the_provider_cannot_be_asked_decides(
    harness: ReconcileHarness,
) -> None:
    ref = harness.ledger.waiting()

    def fail_slowly() -> bytes:
        harness.ledger.deliver(ref, failed("output_moderation"))
        raise ProviderUnavailableError("the gateway is down")

    harness.asks(Provider(fail_slowly))
    harness.ledger.clock.advance(TIMING.job_timeout)
    assert harness.reconcile(ref).state is JobState.FAILED


# Results whose URLs expire


def test_a_job_near_the_end_of_its_urls_is_announced_once_in_a_round_and_fresh_urls_are_asked_for(
    harness: ReconcileHarness,
) -> None:
    harness.asks(
        Provider(
            ProviderUnavailableError("down"),
            succeeded(*urls(2, "first")),
            succeeded(*urls(2, "fresh")),
        )
    )
    ref = harness.ledger.archiving(2)
    begin = harness.ledger.job(ref).due_at
    assert begin == harness.ledger.clock.now + 0.75 * TIMING.url_lifetime
    assert harness.reconcile(ref).due_at == begin + TIMING.poll_interval
    assert "job.at_risk" in harness.ledger.event_types(ref)
    harness.reconcile(ref)
    assert [asset.url for asset in harness.ledger.assets_of(ref)] == urls(2, "first")
    harness.reconcile(ref)
    assert [(asset.url, asset.due_at) for asset in harness.ledger.assets_of(ref)] == [
        (url, harness.ledger.clock.now) for url in urls(2, "fresh")
    ]
    harness.ledger.clock.advance(TIMING.url_lifetime)
    harness.reconcile(ref)
    assert harness.ledger.event_types(ref) == ["job.at_risk"]
    (event,) = harness.ledger.events.after()
    message = json.loads(event["payload"])["message"]
    assert (
        message
        == "2 of its pictures not archived yet, the first URL expires in 1800 s: not tried yet"
    )


def test_an_operator_s_retry_opens_a_round_in_which_the_risk_is_announced_again(
    harness: ReconcileHarness,
) -> None:
    harness.asks(Provider(ProviderUnavailableError("down")))
    ref = harness.ledger.archiving()
    harness.reconcile(ref)
    (claimed,) = harness.ledger.assets.claim(1)
    harness.ledger.assets.give_up(claimed, AssetState.EXPIRED, "too late")
    assert harness.reconcile(ref).state is JobState.EXPIRED
    harness.ledger.operator.retry(ref)
    harness.reconcile(ref)
    assert harness.ledger.event_types(ref).count("job.at_risk") == 1
    harness.ledger.clock.advance(TIMING.url_lifetime)
    harness.reconcile(ref)
    assert harness.ledger.event_types(ref) == ["job.at_risk", "job.expired", "job.at_risk"]


def test_a_url_that_was_dead_from_the_start_is_replaced_and_its_picture_archived(
    harness: ReconcileHarness,
) -> None:
    ref = harness.posted(file="expired")
    harness.reconcile(ref)
    for _ in range(3):
        (dead,) = harness.archive(ref)
        assert dead.due_at is not None
        harness.ledger.clock.now = dead.due_at
    assert harness.reconcile(ref).state is JobState.ARCHIVING
    (asset,) = harness.archive(ref)
    assert asset.state is AssetState.ARCHIVED
    assert harness.ledger.job(ref).state is JobState.ARCHIVED
    assert harness.ledger.event_types(ref) == ["asset.archived", "job.archived"]


# A job whose callback is lost is archived nevertheless


@pytest.mark.parametrize("api", [Api.DRAW, Api.NEWER])
def test_a_job_whose_callback_is_lost_is_polled_and_archived(
    harness: ReconcileHarness, api: Api
) -> None:
    ref = harness.posted(api, variants=2)
    begin = harness.ledger.clock.now
    assert harness.reconcile(ref).state is JobState.ARCHIVING
    assert harness.ledger.clock.now == begin + TIMING.poll_after
    assert {asset.state for asset in harness.archive(ref)} == {AssetState.ARCHIVED}
    assert harness.ledger.job(ref).state is JobState.ARCHIVED
    assert [delivery.source for delivery in harness.ledger.queries.deliveries(ref)] == [Source.POLL]
    assert harness.ledger.event_types(ref) == ["asset.archived", "asset.archived", "job.archived"]
    assert harness.ledger.totals.audit().ok


def test_a_provider_that_only_a_later_release_knows_is_no_bug_and_the_job_waits(
    harness: ReconcileHarness,
) -> None:
    harness.asks(Provider(running()))
    ledger, ref = harness.ledger, harness.ledger.waiting()
    later = update(jobs).where(jobs.c.ref == ref).values(provider="later")
    ledger.database.write(lambda connection: connection.execute(later))
    assert harness.reconcile(ref).state is JobState.WAITING
    ledger.clock.advance(TIMING.job_timeout)
    job = harness.reconcile(ref)
    assert job.state is JobState.EXPIRED
    assert "this release does not know the provider 'later'" in job.message
