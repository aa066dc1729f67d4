"""A job or a hint that crashes workers is set aside and ends as it can."""

from collections.abc import Callable

import pytest
from ledgers import Books, stored
from poison import CrashHarness

from receiver.errors import ReceiverError
from receiver.jobs.reconcile import MOST_HINT_ATTEMPTS
from receiver.ledger.claims import MOST_CRASHES, SUSPICIOUS_CRASHES
from receiver.model import JobState

# Jobs and hints


def crash_workers(books: Books, ref: str, times: int = MOST_CRASHES) -> None:
    """Kill ``times`` workers that claimed the job; let the pause pass."""
    for _ in range(times):
        books.clock.now = max(books.clock.now, books.job(ref).due_at or 0.0)
        assert books.jobs.claim(1)[0].row.ref == ref
        books.claims.take_over()
    books.clock.now = books.job(ref).due_at or 0.0


@pytest.mark.parametrize("begin", [Books.waiting, Books.submitting])
def test_a_job_without_a_result_that_crashes_workers_expires_with_the_reason(
    crash_harness: CrashHarness, begin: Callable[[Books], str]
) -> None:
    ref = begin(crash_harness.books)
    crash_workers(crash_harness.books, ref)
    crash_harness.reconcile_suspects()
    job = crash_harness.books.job(ref)
    assert (job.state, crash_harness.books.event_types(ref)) == (JobState.EXPIRED, ["job.expired"])
    assert f"the worker was gone {MOST_CRASHES} times" in job.message


def test_a_complete_job_that_crashes_workers_has_no_manifest_until_an_operator_retries_it(
    crash_harness: CrashHarness,
) -> None:
    books = crash_harness.books
    ref = books.archiving()
    (claimed,) = books.assets.claim(1)
    books.assets.finish(claimed, stored(claimed))
    crash_workers(books, ref)
    crash_harness.reconcile_suspects()
    job = books.job(ref)
    assert job.state is JobState.ARCHIVED
    assert job.message.startswith("no manifest, set aside: ")
    assert not crash_harness.has_objects()
    assert books.event_types(ref) == ["asset.archived", "job.archived"]
    assert books.operator.retry(ref).state is JobState.ARCHIVING
    (complete,) = books.jobs.claim(1, complete=True)
    crash_harness.reconciler.reconcile_job(complete)
    job = books.job(ref)
    assert (job.state, job.message, job.crashes, crash_harness.has_objects()) == (
        JobState.ARCHIVED,
        "",
        0,
        True,
    )
    assert books.event_types(ref) == ["asset.archived", "job.archived", "job.archived"]
    assert books.totals.audit().ok
    with pytest.raises(ReceiverError, match="nothing to retry"):
        books.operator.retry(ref)


def test_a_job_with_work_left_that_is_set_aside_still_ends_with_its_last_asset(
    crash_harness: CrashHarness,
) -> None:
    books = crash_harness.books
    ref = books.archiving(2)
    crash_workers(books, ref)
    crash_harness.reconcile_suspects()
    job = books.job(ref)
    assert (job.state, job.claim) == (JobState.ARCHIVING, None)
    assert job.due_at is not None
    assert job.due_at >= max(asset.expires_at for asset in books.assets_of(ref))
    for claimed in books.assets.claim(2):
        books.assets.finish(claimed, stored(claimed))
    (complete,) = books.jobs.claim(1, complete=True)
    crash_harness.reconciler.reconcile_job(complete)
    assert books.job(ref).state is JobState.ARCHIVED
    assert books.job(ref).message == ""


def test_an_answer_from_the_provider_resets_the_crashes_of_a_job(
    crash_harness: CrashHarness,
) -> None:
    books = crash_harness.books
    ref = books.waiting()
    crash_workers(books, ref, SUSPICIOUS_CRASHES)
    crash_harness.reconcile_suspects()  # the provider is unavailable, which is a result too
    assert books.job(ref).crashes == 0


def test_a_hint_that_crashes_workers_is_deleted(crash_harness: CrashHarness) -> None:
    assert crash_harness.books.hints.add("their-task")
    for _ in range(MOST_HINT_ATTEMPTS):
        assert crash_harness.books.hints.claim(1)
        crash_harness.books.claims.take_over()
    (claimed,) = crash_harness.books.hints.claim(1)
    crash_harness.reconciler.verify_hint(claimed)
    assert crash_harness.books.everything()["hints"] == []
