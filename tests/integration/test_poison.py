"""A row that crashes workers is found, worked on alone and set aside; other rows are not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import NOW, LedgerHarness, stored
from poison import CrashHarness, killed_workers, queue_of

from receiver.ledger.claims import CRASH_PAUSE, LEASE, MOST_CRASHES, SUSPICIOUS_CRASHES, Claimed
from receiver.ledger.rows import Asset, Job
from receiver.model import AssetState, JobState, Reason
from receiver.services import Services
from receiver.settings import Settings

THREADS = 16


def asset_row(ledger: LedgerHarness) -> Callable[[], Asset]:
    ref = ledger.archiving()
    return lambda: ledger.assets_of(ref)[0]


def job_row(ledger: LedgerHarness) -> Callable[[], Job]:
    ref = ledger.waiting()
    ledger.clock.advance(ledger.timing.poll_after)
    return lambda: ledger.job(ref)


Begin = Callable[[LedgerHarness], Callable[[], Asset | Job]]
ROWS = pytest.mark.parametrize("begin", [asset_row, job_row])


@ROWS
def test_each_kill_counts_and_from_the_second_on_the_row_is_alone_and_paused_longer_and_longer(
    ledger: LedgerHarness, begin: Begin
) -> None:
    kills = killed_workers(ledger, begin(ledger))
    seen = [next(kills) for _ in range(MOST_CRASHES + 1)]
    assert [crashes for crashes, _, _ in seen] == list(range(MOST_CRASHES + 1))
    assert [queue for _, queue, _ in seen] == ["others"] * SUSPICIOUS_CRASHES + ["suspects"] * (
        MOST_CRASHES + 1 - SUSPICIOUS_CRASHES
    )
    assert [pause for _, _, pause in seen] == pytest.approx(
        [0, 0, *(CRASH_PAUSE * number for number in range(1, MOST_CRASHES))]
    )


@ROWS
def test_a_lease_that_ran_out_counts_like_a_kill(ledger: LedgerHarness, begin: Begin) -> None:
    read_row = begin(ledger)
    for crashes in range(3):
        assert queue_of(ledger, read_row()) == (
            "others" if crashes < SUSPICIOUS_CRASHES else "suspects"
        )
        assert read_row().crashes == crashes
        ledger.clock.advance(LEASE)


def release(ledger: LedgerHarness, claimed: Claimed[Asset] | Claimed[Job]) -> None:
    ledger.claims.release([claimed])


def report_failure(ledger: LedgerHarness, claimed: Claimed[Asset] | Claimed[Job]) -> None:
    if isinstance(claimed.row, Asset):
        ledger.assets.retry(
            Claimed(claimed.row, claimed.token), ledger.clock.now, "the source was away"
        )
    else:
        ledger.jobs.release(Claimed(claimed.row, claimed.token), ledger.clock.now)


@ROWS
@pytest.mark.parametrize("end", [release, report_failure])
def test_a_worker_that_reports_its_result_has_not_crashed(
    ledger: LedgerHarness, begin: Begin, end: Callable[[LedgerHarness, object], None]
) -> None:
    read_row = begin(ledger)
    for _ in range(2 * MOST_CRASHES):
        (claimed,) = ledger.assets.claim(1) or ledger.jobs.claim(1)
        end(ledger, claimed)
    assert (read_row().crashes, read_row().claim) == (0, None)


@ROWS
def test_an_attempt_that_reports_its_end_resets_the_crashes(
    ledger: LedgerHarness, begin: Begin
) -> None:
    read_row = begin(ledger)
    kills = killed_workers(ledger, read_row)
    for _ in range(MOST_CRASHES):
        next(kills)
    (claimed,) = ledger.assets.claim(1, suspects=True) or ledger.jobs.claim_suspects(1)
    report_failure(ledger, claimed)
    assert read_row().crashes == 0
    assert queue_of(ledger, read_row()) == "others"


@ROWS
def test_a_drain_keeps_the_crashes_of_a_row(ledger: LedgerHarness, begin: Begin) -> None:
    read_row = begin(ledger)
    kills = killed_workers(ledger, read_row)
    for _ in range(3):
        next(kills)
    (claimed,) = ledger.assets.claim(1, suspects=True) or ledger.jobs.claim_suspects(1)
    release(ledger, claimed)
    assert (read_row().crashes, queue_of(ledger, read_row())) == (3, "suspects")


# Assets


def test_an_asset_is_set_aside_and_archived_after_an_operators_retry(
    crash_harness: CrashHarness,
) -> None:
    ledger = crash_harness.ledger
    ref = ledger.archiving()
    kills = killed_workers(ledger, lambda: ledger.assets_of(ref)[0])
    for _ in range(MOST_CRASHES):
        next(kills)
    (claimed,) = ledger.assets.claim(1, suspects=True)
    crash_harness.archiver.archive(claimed)
    (asset,) = ledger.assets_of(ref)
    assert (asset.state, asset.crashes) == (AssetState.FAILED, MOST_CRASHES)
    assert asset.error.startswith(
        f"set aside: the worker was gone {MOST_CRASHES} times with it in hand"
    )
    assert f"`receiver retry {ref}`" in asset.error
    (complete,) = ledger.jobs.claim(1, complete=True)
    crash_harness.reconciler.reconcile_job(complete)
    job = ledger.job(ref)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert "set aside" in job.message
    assert ledger.totals.audit().ok
    ledger.operator.retry(ref)
    (again,) = ledger.assets.claim(1)
    assert again.row.crashes == 0
    ledger.assets.finish(again, stored(again))
    assert ledger.assets_of(ref)[0].state is AssetState.ARCHIVED


class RestartedWorkers:
    """Workers with many threads, one after the other; the asset ``poison`` kills each."""

    def __init__(self, crash_harness: CrashHarness, poison: str, *, at_once: bool) -> None:
        self.crash_harness = crash_harness
        self.ledger = crash_harness.ledger
        self.poison = poison
        self.at_once = at_once  # whether it kills before or after all other threads
        self.kills = 0

    def run(self) -> None:
        """Run workers, each started after the last was killed, until no asset is pending."""
        while (due := self.ledger.queries.next_due("assets")) is not None:
            self.ledger.clock.now = max(self.ledger.clock.now, due)
            self._run_worker()

    def _run_worker(self) -> None:
        while claims := self.ledger.assets.claim(THREADS) + self.ledger.assets.claim(
            1, suspects=True
        ):
            for claimed in sorted(claims, key=self._order):
                if claimed.row.crashes >= MOST_CRASHES:
                    self.crash_harness.archiver.archive(claimed)
                elif claimed.row.ref == self.poison:
                    self.kills += 1
                    self.ledger.claims.take_over()
                    return
                else:
                    self.ledger.assets.finish(claimed, stored(claimed))

    def _order(self, claimed: Claimed[Asset]) -> bool:
        return (claimed.row.ref == self.poison) is not self.at_once


@pytest.mark.parametrize("at_once", [True, False])
def test_only_the_row_that_kills_is_set_aside_however_many_run_beside_it(
    crash_harness: CrashHarness, *, at_once: bool
) -> None:
    refs = [crash_harness.ledger.archiving(1, f"task-{number}") for number in range(3 * THREADS)]
    workers = RestartedWorkers(crash_harness, refs[THREADS // 2], at_once=at_once)
    workers.run()
    ends = {ref: crash_harness.ledger.assets_of(ref)[0].state for ref in refs}
    assert ends == {
        ref: AssetState.FAILED if ref == workers.poison else AssetState.ARCHIVED for ref in refs
    }
    assert workers.kills == MOST_CRASHES
    assert crash_harness.ledger.clock.now - NOW < 2 * MOST_CRASHES * CRASH_PAUSE


def test_suspects_have_one_thread_each_for_assets_and_jobs(tmp_path: Path) -> None:
    services = Services(Settings.load({"DATA_DIR": str(tmp_path)})).open()
    concurrency = {queue.name: queue.concurrency for queue in services.work_queues(tmp_path)}
    services.close()
    assert (concurrency["suspect assets"], concurrency["suspect jobs"]) == (1, 1)


def test_a_pause_does_not_start_again_when_another_worker_dies(ledger: LedgerHarness) -> None:
    read_row = asset_row(ledger)
    kills = killed_workers(ledger, read_row)
    for _ in range(SUSPICIOUS_CRASHES):
        next(kills)
    ledger.assets.claim(1, suspects=True)
    ledger.claims.take_over()
    due_at = read_row().due_at
    ledger.clock.advance(CRASH_PAUSE / 2)
    assert ledger.claims.take_over() == 0, "the worker that dies now had no claim"
    assert read_row().due_at == due_at
