"""Hints: an id from a callback without a ticket becomes a job only if the provider confirms it."""

import pytest
from ledgers import TIMING, running, succeeded, urls
from reconciling import Provider, ReconcileHarness
from waiting import until

from receiver.errors import NoSuchTaskError, ProviderUnavailableError
from receiver.jobs.reconcile import MOST_HINT_ATTEMPTS
from receiver.model import JobState


def test_a_hint_that_is_not_confirmed_is_dropped_after_some_attempts(
    harness: ReconcileHarness,
) -> None:
    harness.ledger.hints.add("never-heard-of")
    for _ in range(MOST_HINT_ATTEMPTS):
        assert harness.ledger.queries.next_due("hints") == harness.ledger.clock.now
        harness.verify_hint()
        harness.ledger.clock.advance(TIMING.poll_interval)
    assert harness.ledger.queries.next_due("hints") is None
    assert harness.ledger.queries.jobs() == []


@pytest.mark.parametrize(
    "answer",
    [
        ProviderUnavailableError("down"),
        NoSuchTaskError("no such task"),
        b"{}",
        b'{"code":0,"msg":"success","data":{}}',
    ],
)
def test_an_answer_that_is_no_report_confirms_no_hint(
    harness: ReconcileHarness, answer: bytes | Exception
) -> None:
    harness.asks(Provider(answer))
    harness.ledger.hints.add("task-1")
    harness.verify_hint()
    assert harness.ledger.queries.jobs() == []
    assert (
        harness.ledger.queries.next_due("hints") == harness.ledger.clock.now + TIMING.poll_interval
    )


@pytest.mark.parametrize("report", [running(), succeeded(*urls(1, "callback")), None])
def test_a_hint_whose_job_is_known_meanwhile_makes_no_second_job(
    harness: ReconcileHarness, report: bytes | None
) -> None:
    ref = ""

    def answer_slowly() -> bytes:
        nonlocal ref
        ref = harness.ledger.submitting()
        if report is None:
            harness.ledger.jobs.record_accepted(ref, "task-1")
        else:
            harness.ledger.deliver(ref, report)
        return succeeded(*urls(1, "poll"))

    harness.asks(Provider(answer_slowly))
    harness.ledger.hints.add("task-1")
    harness.verify_hint()
    assert [job.ref for job in harness.ledger.queries.jobs()] == [ref]
    assert harness.ledger.queries.next_due("hints") is None


def test_a_confirmed_hint_becomes_a_job_and_what_is_archived_comes_from_the_read_back(
    harness: ReconcileHarness,
) -> None:
    task_id = harness.ordered()
    harness.ledger.hints.add(task_id)
    harness.verify_hint()
    (job,) = harness.ledger.queries.jobs()
    assert (job.state, job.provider_id, job.base_url) == (
        JobState.ARCHIVING,
        task_id,
        harness.sandbox.url,
    )
    (asset,) = harness.archive(job.ref)
    assert asset.sha256 == harness.sandbox.task(task_id)["files"][0]["sha256"]
    assert harness.ledger.job(job.ref).state is JobState.ARCHIVED
    assert harness.ledger.queries.next_due("hints") is None


def test_a_task_still_running_is_adopted_and_archived_when_it_is_done(
    harness: ReconcileHarness,
) -> None:
    task_id = harness.ordered(delay=0.3)
    harness.ledger.hints.add(task_id)
    harness.verify_hint()
    (job,) = harness.ledger.queries.jobs()
    assert (job.state, job.provider_id) == (JobState.WAITING, task_id)
    until(
        lambda: harness.sandbox.task(task_id)["status"] == "succeeded", what="the end of the task"
    )
    assert harness.reconcile(job.ref).state is JobState.ARCHIVING
    harness.archive(job.ref)
    assert harness.ledger.job(job.ref).state is JobState.ARCHIVED
    assert harness.ledger.totals.audit().ok
