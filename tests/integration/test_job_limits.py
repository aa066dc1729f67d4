"""What one job may store: a clear reason on the file that exceeds it, and a way to get it."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from archiving import PNG, SIZE
from ledgers import LedgerHarness, opened
from outside_network import OutsideNetwork, answer, chunked
from unattended_worker import UnattendedWorker

from receiver.archive.job_limits import JobLimits
from receiver.errors import TooLargeError
from receiver.model import AssetState

URLS = [f"http://pictures.example/{number}.png" for number in range(4)]


@pytest.fixture
def worker(sqlite_url: str, tmp_path: Path) -> Iterator[UnattendedWorker]:
    with (
        OutsideNetwork(tmp_path / "picture") as network,
        opened(sqlite_url) as ledger,
        closing(UnattendedWorker(ledger, network, tmp_path)) as worker,
    ):
        yield worker


def states(ledger: LedgerHarness, ref: str) -> list[AssetState]:
    return [asset.state for asset in ledger.assets_of(ref)]


@pytest.mark.parametrize("script", [answer(body=PNG), chunked(PNG)], ids=["a length", "chunks"])
def test_a_file_that_exceeds_the_bytes_of_its_job_fails_and_a_retry_brings_it(
    worker: UnattendedWorker, script: object
) -> None:
    worker.serve(script)  # type: ignore[arg-type]  # a script of the parameters
    worker.limit_jobs(max_bytes=2 * SIZE)
    ref = worker.announce(*URLS[:3])
    worker.run_until_finished(ref)
    found = worker.ledger.assets_of(ref)
    assert [one.state for one in found].count(AssetState.ARCHIVED) == 2
    (lost,) = [one for one in found if one.state is not AssetState.ARCHIVED]
    assert lost.state is AssetState.FAILED
    assert f"more than {2 * SIZE} bytes (JOB_MAX_BYTES)" in lost.error
    assert f"receiver retry {ref}" in lost.error
    other = worker.announce(*URLS[:2], task="task-2")
    worker.run_until_finished(other)
    assert states(worker.ledger, other) == [AssetState.ARCHIVED] * 2, "each job has its own"
    worker.limit_jobs(max_bytes=3 * SIZE)
    worker.ledger.operator.retry(ref)
    worker.run_until_finished(ref)
    assert states(worker.ledger, ref) == [AssetState.ARCHIVED] * 3


def test_a_rejected_file_that_is_kept_counts_but_not_for_its_own_result(
    worker: UnattendedWorker,
) -> None:
    bad = b"\x89no picture" * (SIZE // 12)
    worker.serve(answer(body=bad), answer(body=PNG))
    worker.limit_jobs(max_bytes=len(bad) + SIZE - 1)
    ref = worker.announce(*URLS[:2])
    worker.run_until_finished(ref)
    assert states(worker.ledger, ref) == [AssetState.ARCHIVED, AssetState.FAILED]
    assert "rejected files included" in worker.ledger.assets_of(ref)[1].error


def test_results_beyond_the_number_of_files_fail_and_say_so(worker: UnattendedWorker) -> None:
    worker.serve(answer(body=PNG))
    worker.limit_jobs(max_files=2)
    ref = worker.announce(*URLS)
    worker.run_until_finished(ref)
    assert states(worker.ledger, ref) == [AssetState.ARCHIVED] * 2 + [AssetState.FAILED] * 2
    error = worker.ledger.assets_of(ref)[3].error
    assert "result 4 of a job that may have 2 (JOB_MAX_FILES)" in error
    assert f"receiver retry {ref}" in error


def test_downloads_at_the_same_time_share_what_is_left(worker: UnattendedWorker) -> None:
    ref = worker.announce(*URLS)
    found = worker.ledger.assets_of(ref)
    limits = JobLimits(lambda _ref: 100, max_files=4, max_bytes=1000)
    with ExitStack() as stack:
        counts = [stack.enter_context(limits.archiving(one)) for one in found[:3]]
        threads = [threading.Thread(target=count, args=(300,)) for count in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(TooLargeError), limits.archiving(found[3]) as count:
            count(1)
    with limits.archiving(found[3]) as count:
        count(900)
