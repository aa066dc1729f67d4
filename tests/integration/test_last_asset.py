"""The worker that archives a job's last asset ends the job too, in one transaction.

At each end the archived manifest must be the one that the ledger's rows make.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from archiving import ArchivingHarness
from ledgers import LedgerHarness, stored

from receiver import failpoints
from receiver.archive.archiver import Archiver
from receiver.archive.conclusion import Conclusion
from receiver.archive.manifest import manifest, manifest_key
from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import open_store
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ClaimLostError, StoreError
from receiver.failpoints import Point
from receiver.ledger.claims import Claimed
from receiver.ledger.rows import Asset
from receiver.model import AssetState, JobState
from submitter.sandbox import Sandbox


class WatchedStore(DirectoryStore):
    """A directory; ``before_create`` and ``after_create`` are called around a new manifest."""

    before_create: Callable[[], object] = bool
    after_create: Callable[[], object] = bool

    def create(self, key: str, data: bytes, *, content_type: str) -> bool:
        self.before_create()
        created = super().create(key, data, content_type=content_type)
        self.after_create()
        return created


@pytest.fixture
def archive(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path / "archive")


@pytest.fixture
def conclusion(ledger: LedgerHarness, archive: Store) -> Conclusion:
    return Conclusion(ledger.queries, archive, ledger.clock)


@pytest.fixture
def harness(
    ledger: LedgerHarness, archive: Store, sandbox: Sandbox, tmp_path: Path
) -> ArchivingHarness:
    return ArchivingHarness(ledger, archive, tmp_path, sandbox)


def finish(ledger: LedgerHarness, conclusion: Conclusion, claimed: Claimed[Asset]) -> bool:
    """Record an asset as archived, as the archiver does; return whether its job ended."""
    end = conclusion.prepare_with_last(claimed, stored(claimed))
    return ledger.assets.finish(claimed, stored(claimed), end)


def archived_manifest(store: Store, ref: str) -> bytes:
    """Return the manifest in the archive."""
    with store.open(manifest_key(ref)) as file:
        return file.read()


def manifest_of_ledger(ledger: LedgerHarness, ref: str) -> bytes:
    """Return the manifest that the ledger's rows make now."""
    record = ledger.queries.record(ref)
    assert record is not None
    return manifest(record.job, record.params, record.assets, record.deliveries)


@pytest.mark.both_databases
def test_the_last_asset_ends_its_job(
    ledger: LedgerHarness, conclusion: Conclusion, archive: Store
) -> None:
    ref = ledger.archiving(2)
    first, second = ledger.assets.claim(2)
    assert finish(ledger, conclusion, first) is False
    assert ledger.job(ref).state is JobState.ARCHIVING
    ledger.clock.advance(5)
    assert finish(ledger, conclusion, second) is True
    assert ledger.job(ref).state is JobState.ARCHIVED
    assert ledger.event_types(ref) == ["asset.archived", "asset.archived", "job.archived"]
    assert archived_manifest(archive, ref) == manifest_of_ledger(ledger, ref)
    assert ledger.totals.audit().ok


@pytest.mark.both_databases
def test_two_assets_that_finish_together_leave_the_end_to_the_reconciler(
    ledger: LedgerHarness, conclusion: Conclusion
) -> None:
    ref = ledger.archiving(2)
    both = ledger.assets.claim(2)
    ends = [conclusion.prepare_with_last(claimed, stored(claimed)) for claimed in both]
    assert ends == [None, None]
    for claimed, end in zip(both, ends, strict=True):
        assert ledger.assets.finish(claimed, stored(claimed), end) is False
    job = ledger.job(ref)
    assert (job.state, job.due_at) == (JobState.ARCHIVING, ledger.clock.now)


def test_an_end_that_was_prepared_in_an_earlier_round_is_not_used(
    ledger: LedgerHarness, conclusion: Conclusion
) -> None:
    ref = ledger.archiving()
    (claimed,) = ledger.assets.claim(1)
    end = conclusion.prepare_with_last(claimed, stored(claimed))
    assert end is not None
    earlier = replace(end, round=end.round - 1)
    assert ledger.assets.finish(claimed, stored(claimed), earlier) is False
    job = ledger.job(ref)
    assert (job.state, job.due_at) == (JobState.ARCHIVING, ledger.clock.now)


def test_a_lost_claim_writes_no_manifest_and_ends_no_job(
    ledger: LedgerHarness, conclusion: Conclusion, archive: Store
) -> None:
    ref = ledger.archiving()
    (claimed,) = ledger.assets.claim(1)
    lost = replace(claimed, token="another worker's")
    with pytest.raises(ClaimLostError):
        finish(ledger, conclusion, lost)
    assert ledger.job(ref).state is JobState.ARCHIVING
    archive.check()
    assert list(archive.keys()) == []


def test_a_job_whose_other_asset_was_lost_ends_with_its_last_one(
    ledger: LedgerHarness, conclusion: Conclusion, archive: Store
) -> None:
    ref = ledger.archiving(2)
    first, second = ledger.assets.claim(2)
    ledger.assets.give_up(first, AssetState.EXPIRED, "too late")
    assert finish(ledger, conclusion, second) is True
    job = ledger.job(ref)
    assert (job.state, job.message) == (JobState.EXPIRED, "asset 0: too late")
    assert archived_manifest(archive, ref) == manifest_of_ledger(ledger, ref)


def test_a_retried_job_is_ended_by_the_reconciler_because_it_has_a_manifest(
    ledger: LedgerHarness, conclusion: Conclusion, archive: Store
) -> None:
    ref = ledger.archiving(2)
    first, second = ledger.assets.claim(2)
    ledger.assets.give_up(first, AssetState.FAILED, "an HTML page")
    assert finish(ledger, conclusion, second) is True
    ledger.operator.retry(ref)
    (again,) = ledger.assets.claim(1)
    assert finish(ledger, conclusion, again) is False
    reconcile(ledger, archive)
    assert ledger.job(ref).state is JobState.ARCHIVED
    assert archived_manifest(archive, ref) == manifest_of_ledger(ledger, ref)


def test_a_manifest_that_cannot_be_stored_delays_only_the_end(
    harness: ArchivingHarness, archive: WatchedStore
) -> None:
    def refuse() -> None:
        raise StoreError("the manifest cannot be stored")

    archive.before_create = refuse
    ref, _ = harness.picture_made()
    assert harness.attempt().state is AssetState.ARCHIVED
    assert harness.ledger.job(ref).state is JobState.ARCHIVING
    assert harness.job_due_now(ref)


def test_a_bucket_creates_a_manifest_once(bucket: str) -> None:
    with closing(open_store(f"s3://{bucket}/once")) as store:
        assert store.create("job.json", b"first", content_type="application/json")
        assert not store.create("job.json", b"second", content_type="application/json")
        with store.open("job.json") as file:
            assert file.read() == b"first"


# Crashes.


class Killed(BaseException):
    """The worker is killed at a failpoint."""


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "point",
    [
        Point.FETCHED,
        Point.STORED,
        Point.MANIFEST_STORED,
        Point.BEFORE_COMMIT,
        Point.AFTER_COMMIT,
        Point.FINISHED,
    ],
)
def test_after_a_crash_at_any_point_the_job_ends_with_its_manifest(
    harness: ArchivingHarness, monkeypatch: pytest.MonkeyPatch, point: Point
) -> None:
    ledger, (ref, _) = harness.ledger, harness.picture_made()
    claimed = harness.claim()
    monkeypatch.setattr(failpoints, "reached", killing_at(point))
    with pytest.raises(Killed):
        harness.archiver.archive(claimed)
    monkeypatch.undo()
    # The worker that is started again.
    ledger.claims.take_over()
    for left in ledger.assets.claim(1):
        harness.archiver.archive(left)
    reconcile(ledger, harness.store)
    assert ledger.job(ref).state is JobState.ARCHIVED
    assert ledger.event_types(ref) == ["asset.archived", "job.archived"]
    assert archived_manifest(harness.store, ref) == manifest_of_ledger(ledger, ref)
    assert ledger.totals.audit().ok


def killing_at(wanted: Point) -> Callable[[Point], None]:
    """Return what ends the process, here the attempt, at a failpoint."""

    def reached(point: Point) -> None:
        if point is wanted:
            raise Killed

    return reached


# Two workers with one asset: the first one stalls until its lease is over.


def takes_over(harness: ArchivingHarness, archiver: Archiver) -> None:
    """Let a second worker archive the asset of the first one, and end the job."""
    ledger = harness.ledger
    ledger.claims.take_over()
    (claimed,) = ledger.assets.claim(1)
    archiver.archive(claimed)
    reconcile(ledger, harness.store)


def fails(harness: ArchivingHarness, _archiver: Archiver) -> None:
    """Let a second worker find that the source has no picture any more, and end the job."""
    ledger = harness.ledger
    ledger.claims.take_over()
    (claimed,) = ledger.assets.claim(1)
    ledger.assets.give_up(claimed, AssetState.FAILED, "an HTML page")
    reconcile(ledger, harness.store)


@pytest.mark.both_databases
@pytest.mark.parametrize("stalls", ["before_create", "after_create"])
def test_a_worker_that_lost_its_lease_changes_nothing_that_its_successor_wrote(
    harness: ArchivingHarness, archive: WatchedStore, stalls: str
) -> None:
    ledger, (ref, _) = harness.ledger, harness.picture_made()
    successor = harness.archiver
    claimed = harness.claim()

    def stall() -> None:
        setattr(archive, stalls, bool)  # the second worker does not stall
        takes_over(harness, successor)

    setattr(archive, stalls, stall)
    harness.archiver.archive(claimed)
    assert ledger.job(ref).state is JobState.ARCHIVED
    (asset,) = ledger.assets_of(ref)
    assert asset.attempts == 2
    assert ledger.event_types(ref) == ["asset.archived", "job.archived"]
    assert archived_manifest(archive, ref) == manifest_of_ledger(ledger, ref)


def test_a_worker_that_lost_its_lease_cannot_end_a_job_that_failed_meanwhile(
    harness: ArchivingHarness, archive: WatchedStore
) -> None:
    ledger, (ref, _) = harness.ledger, harness.picture_made()
    claimed = harness.claim()
    archive.before_create = lambda: fails(harness, harness.archiver)
    harness.archiver.archive(claimed)
    assert ledger.job(ref).state is JobState.FAILED
    assert ledger.event_types(ref) == ["job.failed"]


def test_a_reconciler_that_lost_its_claim_stores_no_manifest(
    ledger: LedgerHarness, archive: WatchedStore, conclusion: Conclusion
) -> None:
    ref = ledger.archiving(2)
    first, second = ledger.assets.claim(2)
    ledger.assets.finish(first, stored(first))
    ledger.assets.give_up(second, AssetState.FAILED, "an HTML page")
    (lost,) = ledger.jobs.claim(1, complete=True)
    ledger.claims.take_over()
    reconcile(ledger, archive)
    ledger.operator.retry(ref)
    with pytest.raises(ClaimLostError):
        conclusion.prepare(lost)
    (again,) = ledger.assets.claim(1)
    ledger.assets.finish(again, stored(again))
    reconcile(ledger, archive)
    assert archived_manifest(archive, ref) == manifest_of_ledger(ledger, ref)


def reconcile(ledger: LedgerHarness, store: Store) -> None:
    """End the jobs whose assets are all final."""
    reconciler = ledger.reconciler(store, None)
    for claimed in ledger.jobs.claim(10, complete=True):
        reconciler.reconcile_job(claimed)
