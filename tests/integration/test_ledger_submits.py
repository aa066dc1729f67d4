"""The transactions of a submit on both databases: row, key, answer, and an early callback."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from ledgers import BASE_URL, NOW, TIMING, LedgerHarness, failed, running, succeeded
from side_by_side import side_by_side
from sqlalchemy import Connection

from receiver.errors import KeyTakenError, ReceiverError, UnreadableError
from receiver.ledger.jobs import Jobs, find_job
from receiver.ledger.rows import Job
from receiver.ledger.tables import jobs
from receiver.model import (
    Decision,
    JobState,
    Mode,
    Reason,
    Submission,
)

pytestmark = pytest.mark.both_databases


def test_a_job_is_stored_before_it_is_posted(ledger: LedgerHarness) -> None:
    job = ledger.job(ledger.submitting())
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
    assert (job.prompt, job.model, json.loads(ledger.queries.params(job.ref)), job.base_url) == (
        "a red fox",
        "gpt-image-1.5",
        {"aspectRatio": "1:1"},
        BASE_URL,
    )


@pytest.mark.parametrize(
    "prompt", ["", "红色的狐狸 🦊", 'it\'s 100 % "quoted"; DROP TABLE jobs; --', "x" * 100_000]
)
def test_a_prompt_is_stored_unchanged(ledger: LedgerHarness, prompt: str) -> None:
    assert ledger.job(ledger.submitting(prompt)).prompt == prompt


@pytest.mark.parametrize(
    ("mode", "wait"), [(Mode.WEBHOOK, TIMING.poll_after), (Mode.POLL, TIMING.poll_interval)]
)
def test_an_accepted_job_waits_and_is_polled_in_time(
    ledger: LedgerHarness, mode: Mode, wait: float
) -> None:
    job = ledger.jobs.record_accepted(ledger.submitting(mode=mode), "task-1")
    assert (job.state, job.provider_id, job.due_at) == (JobState.WAITING, "task-1", NOW + wait)


def test_a_refused_job_fails_with_the_providers_message(ledger: LedgerHarness) -> None:
    job = ledger.jobs.record_refused(ledger.submitting(), "insufficient credits")
    assert (job.state, job.reason, job.message) == (
        JobState.FAILED,
        Reason.REFUSED,
        "insufficient credits",
    )
    assert (job.finished_at, job.due_at, job.ended_at, job.outcome) == (NOW, None, None, None)
    assert ledger.event_types(job.ref) == ["job.failed"]


def test_a_refusal_after_a_callback_changes_nothing(ledger: LedgerHarness) -> None:
    ref = ledger.submitting()
    ledger.deliver(ref, running())
    before = ledger.everything()
    ledger.jobs.record_refused(ref, "no")
    assert ledger.everything() == before


@pytest.mark.parametrize("change", [Jobs.record_accepted, Jobs.record_refused, Jobs.expire])
def test_a_job_that_is_not_there_is_named(
    ledger: LedgerHarness, change: Callable[[Jobs, str, str], object]
) -> None:
    with pytest.raises(ReceiverError, match="there is no job nowhere"):
        change(ledger.jobs, "nowhere", "word")


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
    ledger: LedgerHarness, body: bytes, state: JobState
) -> None:
    ref = ledger.submitting()
    ledger.deliver(ref, body)
    overtaken = ledger.everything()
    assert ledger.job(ref).state is state
    job = ledger.jobs.record_accepted(ref, "task-1")
    assert (job.state, job.provider_id) == (state, "task-1")
    (row,), place = overtaken["jobs"], jobs.columns.keys().index("answered_at")
    answered = (*row[:place], ledger.job(ref).answered_at, *row[place + 1 :])
    assert ledger.everything() == {**overtaken, "jobs": [answered]}


def test_a_callback_without_an_id_leaves_the_id_to_the_submits_answer(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.submitting()
    ledger.deliver(ref, succeeded(provider_id=None))
    assert ledger.job(ref).provider_id is None
    assert ledger.jobs.record_accepted(ref, "task-1").provider_id == "task-1"


def with_key(ledger: LedgerHarness, key: str | None = "order-1") -> Job:
    return ledger.jobs.submit(Submission("a red fox", "gpt-image-1.5", {}, key=key), BASE_URL)


def test_a_callers_key_is_taken_by_one_job_and_its_holder_is_named(ledger: LedgerHarness) -> None:
    holder = with_key(ledger)
    with pytest.raises(KeyTakenError) as error:
        with_key(ledger)
    assert (error.value.ref, ledger.jobs.key_holder("order-1")) == (holder.ref, holder)
    assert (
        len(
            {
                with_key(ledger, "order-2").ref,
                with_key(ledger, None).ref,
                with_key(ledger, None).ref,
            }
        )
        == 3
    )


def test_a_refused_job_has_not_spent_its_key(ledger: LedgerHarness) -> None:
    first = with_key(ledger)
    ledger.jobs.record_refused(first.ref, "no credit")
    assert ledger.jobs.key_holder("order-1") is None
    second = with_key(ledger)
    assert ledger.jobs.key_holder("order-1") == second
    assert ledger.job(first.ref).key is None


def test_of_many_submits_with_one_key_at_once_one_makes_a_job(ledger: LedgerHarness) -> None:
    for number in range(4):
        refs = side_by_side([partial(ref_for_key, ledger, f"order-{number}")] * 6)
        assert len(set(refs)) == 1
    assert sum(ledger.totals.counts().values()) == 4


def ref_for_key(ledger: LedgerHarness, key: str) -> str:
    try:
        return with_key(ledger, key).ref
    except KeyTakenError as error:
        return error.ref


def test_a_job_that_never_reached_the_provider_is_withdrawn(ledger: LedgerHarness) -> None:
    ledger.jobs.withdraw(with_key(ledger).ref)
    assert ledger.everything()["jobs"] == []
    assert with_key(ledger).key == "order-1"


@pytest.mark.parametrize("body", [running(), b"no report"])
def test_a_job_with_a_report_is_not_withdrawn(ledger: LedgerHarness, body: bytes) -> None:
    ref = ledger.submitting()
    with suppress(UnreadableError):
        ledger.deliver(ref, body)
    before = ledger.everything()
    ledger.jobs.withdraw(ref)
    ledger.jobs.withdraw("nowhere")
    assert ledger.everything() == before


def test_reading_a_job_does_not_wait_for_a_transaction_that_changes_it(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.waiting()

    def read_while_locked(connection: Connection) -> Job:
        assert find_job(connection, ref, locked=True) is not None
        return ledger.jobs.get(ref)

    assert ledger.database.write(read_while_locked).ref == ref


def test_an_id_that_is_another_jobs_is_left_out(ledger: LedgerHarness) -> None:
    first = ledger.waiting("task-1")
    by_answer = ledger.jobs.record_accepted(ledger.submitting(), "task-1")
    assert (by_answer.state, by_answer.provider_id) == (JobState.WAITING, None)
    by_callback = ledger.submitting()
    assert ledger.deliver(by_callback, running("task-1")) is Decision.PROGRESS
    assert ledger.job(by_callback).provider_id is None
    assert ledger.job(first).provider_id == "task-1"
