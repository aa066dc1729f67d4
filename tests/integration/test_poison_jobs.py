"""A job or a hint that crashes workers is set aside and ends as it can."""

from collections.abc import Callable

import pytest
from ledgers import LedgerHarness, stored
from poison import CrashHarness

from receiver.errors import ReceiverError
from receiver.jobs.reconcile import MOST_HINT_ATTEMPTS
from receiver.ledger.claims import MOST_CRASHES, SUSPICIOUS_CRASHES
from receiver.model import JobState

# Jobs and hints


def crash_workers(ledger: LedgerHarness, ref: str, times: int = MOST_CRASHES) -> None:
    """Kill ``times`` workers that claimed the job; let the pause pass."""
    for _ in range(times):
        ledger.clock.now = max(ledger.clock.now, ledger.job(ref).due_at or 0.0)
        assert ledger.jobs.claim(1)[0].row.ref == ref
        ledger.claims.take_over()
    ledger.clock.now = ledger.job(ref).due_at or 0.0


@pytest.mark.parametrize("begin", [LedgerHarness.waiting, LedgerHarness.submitting])
def test_a_job_without_a_result_that_crashes_workers_expires_with_the_reason(
    crash_harness: CrashHarness, begin: Callable[[LedgerHarness], str]
) -> None:
    ref = begin(crash_harness.ledger)
    crash_workers(crash_harness.ledger, ref)
    crash_harness.reconcile_suspects()
    job = crash_harness.ledger.job(ref)
    assert (job.state, crash_harness.ledger.event_types(ref)) == (JobState.EXPIRED, ["job.expired"])
    assert f"the worker was gone {MOST_CRASHES} times" in job.message


def test_a_complete_job_that_crashes_workers_has_no_manifest_until_an_operator_retries_it(
    crash_harness: CrashHarness,
) -> None:
    ledger = crash_harness.ledger
    ref = ledger.archiving()
    (claimed,) = ledger.assets.claim(1)
    ledger.assets.finish(claimed, stored(claimed))
    crash_workers(ledger, ref)
    crash_harness.reconcile_suspects()
    job = ledger.job(ref)
    assert job.state is JobState.ARCHIVED
    assert job.message.startswith("no manifest, set aside: ")
    assert not crash_harness.has_objects()
    assert ledger.event_types(ref) == ["asset.archived", "job.archived"]
    assert ledger.operator.retry(ref).state is JobState.ARCHIVING
    (complete,) = ledger.jobs.claim(1, complete=True)
    crash_harness.reconciler.reconcile_job(complete)
    job = ledger.job(ref)
    assert (job.state, job.message, job.crashes, crash_harness.has_objects()) == (
        JobState.ARCHIVED,
        "",
        0,
        True,
    )
    assert ledger.event_types(ref) == ["asset.archived", "job.archived", "job.archived"]
    assert ledger.totals.audit().ok
    with pytest.raises(ReceiverError, match="nothing to retry"):
        ledger.operator.retry(ref)


def test_a_job_with_work_left_that_is_set_aside_still_ends_with_its_last_asset(
    crash_harness: CrashHarness,
) -> None:
    ledger = crash_harness.ledger
    ref = ledger.archiving(2)
    crash_workers(ledger, ref)
    crash_harness.reconcile_suspects()
    job = ledger.job(ref)
    assert (job.state, job.claim) == (JobState.ARCHIVING, None)
    assert job.due_at is not None
    assert job.due_at >= max(asset.expires_at for asset in ledger.assets_of(ref))
    for claimed in ledger.assets.claim(2):
        ledger.assets.finish(claimed, stored(claimed))
    (complete,) = ledger.jobs.claim(1, complete=True)
    crash_harness.reconciler.reconcile_job(complete)
    assert ledger.job(ref).state is JobState.ARCHIVED
    assert ledger.job(ref).message == ""


def test_an_answer_from_the_provider_resets_the_crashes_of_a_job(
    crash_harness: CrashHarness,
) -> None:
    ledger = crash_harness.ledger
    ref = ledger.waiting()
    crash_workers(ledger, ref, SUSPICIOUS_CRASHES)
    crash_harness.reconcile_suspects()  # the provider is unavailable, which is a result too
    assert ledger.job(ref).crashes == 0


def test_a_hint_that_crashes_workers_is_deleted(crash_harness: CrashHarness) -> None:
    assert crash_harness.ledger.hints.add("their-task")
    for _ in range(MOST_HINT_ATTEMPTS):
        assert crash_harness.ledger.hints.claim(1)
        crash_harness.ledger.claims.take_over()
    (claimed,) = crash_harness.ledger.hints.claim(1)
    crash_harness.reconciler.verify_hint(claimed)
    assert crash_harness.ledger.everything()["hints"] == []
