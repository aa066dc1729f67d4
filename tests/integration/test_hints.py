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
    harness.books.hints.add("never-heard-of")
    for _ in range(MOST_HINT_ATTEMPTS):
        assert harness.books.queries.next_due("hints") == harness.books.clock.now
        harness.verify_hint()
        harness.books.clock.advance(TIMING.poll_interval)
    assert harness.books.queries.next_due("hints") is None
    assert harness.books.queries.jobs() == []


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
    harness.books.hints.add("task-1")
    harness.verify_hint()
    assert harness.books.queries.jobs() == []
    assert harness.books.queries.next_due("hints") == harness.books.clock.now + TIMING.poll_interval


@pytest.mark.parametrize("report", [running(), succeeded(*urls(1, "callback")), None])
def test_a_hint_whose_job_is_known_meanwhile_makes_no_second_job(
    harness: ReconcileHarness, report: bytes | None
) -> None:
    ref = ""

    def answer_slowly() -> bytes:
        nonlocal ref
        ref = harness.books.submitting()
        if report is None:
            harness.books.jobs.record_accepted(ref, "task-1")
        else:
            harness.books.deliver(ref, report)
        return succeeded(*urls(1, "poll"))

    harness.asks(Provider(answer_slowly))
    harness.books.hints.add("task-1")
    harness.verify_hint()
    assert [job.ref for job in harness.books.queries.jobs()] == [ref]
    assert harness.books.queries.next_due("hints") is None


def test_a_confirmed_hint_becomes_a_job_and_what_is_archived_comes_from_the_read_back(
    harness: ReconcileHarness,
) -> None:
    task_id = harness.ordered()
    harness.books.hints.add(task_id)
    harness.verify_hint()
    (job,) = harness.books.queries.jobs()
    assert (job.state, job.provider_id, job.base_url) == (
        JobState.ARCHIVING,
        task_id,
        harness.sandbox.url,
    )
    (asset,) = harness.archive(job.ref)
    assert asset.sha256 == harness.sandbox.task(task_id)["files"][0]["sha256"]
    assert harness.books.job(job.ref).state is JobState.ARCHIVED
    assert harness.books.queries.next_due("hints") is None


def test_a_task_still_running_is_adopted_and_archived_when_it_is_done(
    harness: ReconcileHarness,
) -> None:
    task_id = harness.ordered(delay=0.3)
    harness.books.hints.add(task_id)
    harness.verify_hint()
    (job,) = harness.books.queries.jobs()
    assert (job.state, job.provider_id) == (JobState.WAITING, task_id)
    until(
        lambda: harness.sandbox.task(task_id)["status"] == "succeeded", what="the end of the task"
    )
    assert harness.reconcile(job.ref).state is JobState.ARCHIVING
    harness.archive(job.ref)
    assert harness.books.job(job.ref).state is JobState.ARCHIVED
    assert harness.books.totals.audit().ok
