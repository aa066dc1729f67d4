"""Hints of strangers: an id that anybody named is asked about, and becomes a job only by the provider's own word."""

import pytest
from ledgers import TIMING, running, succeeded, urls
from reconciling import Office, Provider
from waiting import until

from receiver.errors import NoSuchTaskError, ProviderUnavailableError
from receiver.jobs.reconcile import MOST_HINT_LOOKS
from receiver.model import JobState


def test_a_hint_nobody_confirms_is_forgotten_after_some_looks(office: Office) -> None:
    office.books.hints.add("never-heard-of")
    for _ in range(MOST_HINT_LOOKS):
        assert office.books.queries.next_due("hints") == office.books.clock.now
        office.look_into_hint()
        office.books.clock.advance(TIMING.poll_interval)
    assert office.books.queries.next_due("hints") is None
    assert office.books.queries.jobs() == []


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
    office: Office, answer: bytes | Exception
) -> None:
    office.asks(Provider(answer))
    office.books.hints.add("task-1")
    office.look_into_hint()
    assert office.books.queries.jobs() == []
    assert office.books.queries.next_due("hints") == office.books.clock.now + TIMING.poll_interval


@pytest.mark.parametrize("report", [running(), succeeded(*urls(1, "callback")), None])
def test_a_hint_whose_job_is_known_meanwhile_makes_no_second_job(
    office: Office, report: bytes | None
) -> None:
    ref = ""

    def answer_slowly() -> bytes:
        nonlocal ref
        ref = office.books.submitting()
        if report is None:
            office.books.jobs.record_accepted(ref, "task-1")
        else:
            office.books.deliver(ref, report)
        return succeeded(*urls(1, "poll"))

    office.asks(Provider(answer_slowly))
    office.books.hints.add("task-1")
    office.look_into_hint()
    assert [job.ref for job in office.books.queries.jobs()] == [ref]
    assert office.books.queries.next_due("hints") is None


def test_a_confirmed_hint_becomes_a_job_and_what_is_archived_comes_from_the_read_back(
    office: Office,
) -> None:
    task_id = office.ordered()
    office.books.hints.add(task_id)
    office.look_into_hint()
    (job,) = office.books.queries.jobs()
    assert (job.state, job.provider_id, job.base_url) == (
        JobState.ARCHIVING,
        task_id,
        office.sandbox.url,
    )
    (asset,) = office.bring_home(job.ref)
    assert asset.sha256 == office.sandbox.task(task_id)["files"][0]["sha256"]
    assert office.look(job.ref).state is JobState.ARCHIVED
    assert office.books.queries.next_due("hints") is None


def test_a_task_still_running_is_adopted_and_archived_when_it_is_done(office: Office) -> None:
    task_id = office.ordered(delay=0.3)
    office.books.hints.add(task_id)
    office.look_into_hint()
    (job,) = office.books.queries.jobs()
    assert (job.state, job.provider_id) == (JobState.WAITING, task_id)
    until(lambda: office.sandbox.task(task_id)["status"] == "succeeded", what="the end of the task")
    assert office.look(job.ref).state is JobState.ARCHIVING
    office.bring_home(job.ref)
    assert office.look(job.ref).state is JobState.ARCHIVED
    assert office.books.totals.audit().ok
