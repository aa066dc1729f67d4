"""An operator accepts a rejected file: it becomes an asset like any other."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from archives import ArchivedJobs, put, rebuild_ledger
from ledgers import LedgerHarness
from rejecting import HALF, WHY, RejectedJobs

from receiver.archive.conclusion import Conclusion
from receiver.archive.manifest import asset_key, quarantine_key
from receiver.archive.stores import Store
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ClaimLostError, ReceiverError, StoreError
from receiver.maintenance.checkpoint import Checkpoint
from receiver.maintenance.deep_audit import DeepAudit
from receiver.model import AssetState, JobState, Reason, timestamp

SHA = hashlib.sha256(HALF).hexdigest()


@pytest.fixture
def jobs(ledger: LedgerHarness, store: Store, tmp_path: Path) -> RejectedJobs:
    return RejectedJobs(ledger, store, tmp_path)


@pytest.fixture
def on_disk(ledger: LedgerHarness, tmp_path: Path) -> RejectedJobs:
    return RejectedJobs(ledger, DirectoryStore(tmp_path / "archive"), tmp_path)


def differences(jobs: RejectedJobs) -> list[str]:
    """Run a deep audit; return what it finds."""
    state = Checkpoint(archive="file:///x")
    store, queries = jobs.store, jobs.ledger.queries
    DeepAudit(store, queries, state, threads=2, stopping=Event(), show=bool).run()
    return state.named


@pytest.mark.both_databases
def test_an_accepted_file_is_archived_and_its_failed_job_with_it(jobs: RejectedJobs) -> None:
    ref = jobs.job(HALF, None)
    before = jobs.ledger.job(ref)
    assert (before.state, before.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert jobs.manifest(ref)["assets"][0]["rejected"] == {
        "sha256": SHA,
        "size": len(HALF),
        "content_type": "image/png",
        "reason": WHY,
        "quarantined_at": timestamp(jobs.ledger.clock()),
    }
    assert differences(jobs) == []

    assert jobs.operator.accept(ref, 0).state is JobState.ARCHIVING
    after = jobs.conclude(ref)
    assert (after.state, after.reason, after.message) == (JobState.ARCHIVED, None, "")
    asset = jobs.ledger.assets_of(ref)[0]
    assert (asset.state, asset.error, asset.sha256) == (AssetState.ARCHIVED, "", SHA)
    assert (asset.key, asset.size) == (asset_key(ref, 0, "png"), len(HALF))
    assert (asset.content_type, asset.width) == ("image/png", None)
    assert (asset.accepted_at, asset.quarantined_at) == (jobs.ledger.clock(), None)
    assert jobs.objects() == {asset.key: HALF, asset_key(ref, 1, "png"): b"a picture"}
    manifest = jobs.manifest(ref)
    assert manifest["state"] == "archived"
    assert manifest["assets"][0]["accepted_at"] == timestamp(jobs.ledger.clock())
    assert manifest["assets"][0]["rejected"]["reason"] == WHY
    assert manifest["assets"][1]["accepted_at"] is None
    assert jobs.ledger.event_types(ref)[-2:] == ["asset.archived", "job.archived"]
    assert jobs.ledger.totals.audit().ok
    assert differences(jobs) == []


@pytest.mark.both_databases
def test_accepting_one_of_two_bad_files_leaves_the_job_failed_for_the_other(
    jobs: RejectedJobs,
) -> None:
    ref = jobs.job(HALF, b"other")
    jobs.operator.accept(ref, 0)
    after = jobs.conclude(ref)
    assert (after.state, after.message) == (JobState.FAILED, f"asset 1: {WHY}")
    jobs.operator.accept(ref, 1)
    assert jobs.conclude(ref).state is JobState.ARCHIVED
    assert jobs.ledger.totals.audit().ok


@pytest.mark.both_databases
def test_accepting_again_changes_nothing(jobs: RejectedJobs) -> None:
    ref = jobs.job(HALF)
    jobs.operator.accept(ref, 0, SHA)
    jobs.conclude(ref)
    before = jobs.ledger.everything()
    assert jobs.operator.accept(ref, 0).state is JobState.ARCHIVED
    assert jobs.operator.accept(ref, 0, SHA).state is JobState.ARCHIVED
    assert jobs.ledger.everything() == before


@pytest.mark.both_databases
def test_of_two_who_accept_at_once_one_does_it_and_both_are_told_so(jobs: RejectedJobs) -> None:
    ref = jobs.job(HALF)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: jobs.operator.accept(ref, 0).state, range(4)))
    assert set(done) <= {JobState.ARCHIVING, JobState.ARCHIVED}
    assert jobs.ledger.event_types(ref).count("asset.archived") == 1
    assert jobs.conclude(ref).state is JobState.ARCHIVED
    assert jobs.ledger.job(ref).round == 1


# What cannot be accepted.


def removed(jobs: RejectedJobs, ref: str) -> None:
    jobs.store.delete(quarantine_key(ref, 0, SHA))
    put(jobs.store, "2026/other", b"so that the archive is not empty")


def changed(jobs: RejectedJobs, ref: str) -> None:
    removed(jobs, ref)
    put(jobs.store, quarantine_key(ref, 0, SHA), b"other bytes")


def replaced(jobs: RejectedJobs, ref: str) -> None:
    jobs.ledger.operator.retry(ref)
    (claimed,) = jobs.ledger.assets.claim(1)
    jobs.give_up(claimed, b"other bytes")


def archived(jobs: RejectedJobs, ref: str) -> None:
    jobs.ledger.operator.retry(ref)
    (claimed,) = jobs.ledger.assets.claim(1)
    jobs.ledger.assets.finish(claimed, jobs.stored(claimed))


def forgotten(jobs: RejectedJobs, ref: str) -> None:
    newest = jobs.job(b"its numbers are the newest")  # so that the job may go
    assert jobs.ledger.pruner(jobs.store).jobs(jobs.ledger.clock() + 1)[0] == 1
    assert jobs.ledger.queries.job(ref) is None
    assert [key for key in jobs.objects() if newest not in key] == []


def evicted(jobs: RejectedJobs, ref: str) -> None:
    (asset,) = jobs.ledger.assets_of(ref)
    jobs.quarantine.remove_old(asset)


def taken(jobs: RejectedJobs, ref: str) -> None:
    put(jobs.store, asset_key(ref, 0, "png"), b"stored, but not recorded")


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("happened", "said"),
    [
        (removed, "is gone: the archive holds no quarantine/"),
        (changed, "has changed in the archive: its SHA-256 is"),
        (replaced, "is another one by now"),
        (archived, "is archived already"),
        (forgotten, "there is no asset 0 of a job"),
        (evicted, "has no file in the quarantine"),
        (taken, "has another file in the archive already"),
    ],
)
def test_what_cannot_be_accepted_is_refused_with_the_reason_and_nothing_changes(
    on_disk: RejectedJobs, happened: Callable[[RejectedJobs, str], None], said: str
) -> None:
    ref = on_disk.job(HALF)
    happened(on_disk, ref)
    before, stored = on_disk.ledger.everything(), on_disk.objects()
    with pytest.raises(ReceiverError, match=said):
        on_disk.operator.accept(ref, 0, SHA)
    assert (on_disk.ledger.everything(), on_disk.objects()) == (before, stored)
    assert not list(on_disk.quarantine._folder.glob("*"))


def test_an_archive_that_is_away_is_no_reason_to_refuse(
    on_disk: RejectedJobs, tmp_path: Path
) -> None:
    ref = on_disk.job(HALF)
    (tmp_path / "archive").rename(tmp_path / "away")
    with pytest.raises(StoreError, match="no archive directory"):
        on_disk.operator.accept(ref, 0)
    (tmp_path / "away").rename(tmp_path / "archive")
    assert on_disk.operator.accept(ref, 0).state is JobState.ARCHIVING


# Beside workers.


@pytest.mark.both_databases
def test_a_file_is_accepted_while_the_worker_tries_again_and_the_worker_changes_nothing(
    on_disk: RejectedJobs,
) -> None:
    ledger = on_disk.ledger
    ref = ledger.archiving()
    (claimed,) = ledger.assets.claim(1)
    rejected = on_disk.keep(ref, 0, HALF)
    ledger.assets.retry(claimed, ledger.clock(), WHY, rejected=rejected)
    (running,) = ledger.assets.claim(1)
    on_disk.operator.accept(ref, 0)
    with pytest.raises(ClaimLostError):
        ledger.assets.finish(running, on_disk.stored(running, HALF))
    with pytest.raises(ClaimLostError):
        ledger.assets.retry(running, ledger.clock(), WHY)
    assert on_disk.conclude(ref).state is JobState.ARCHIVED
    assert ledger.event_types(ref) == ["asset.archived", "job.archived"]


@pytest.mark.both_databases
def test_an_end_that_a_worker_prepared_before_is_void(on_disk: RejectedJobs) -> None:
    ledger = on_disk.ledger
    ref = ledger.archiving(2)
    first, second = ledger.assets.claim(2)
    on_disk.give_up(first, HALF)
    conclusion = Conclusion(ledger.queries, on_disk.store, ledger.clock)
    stored = on_disk.stored(second)
    end = conclusion.prepare_with_last(second, stored)
    assert end is not None
    assert end.state is JobState.FAILED
    on_disk.operator.accept(ref, first.row.idx)
    assert not ledger.assets.finish(second, stored, end)
    assert on_disk.conclude(ref).state is JobState.ARCHIVED
    assert on_disk.manifest(ref)["state"] == "archived"


@pytest.mark.both_databases
def test_a_job_that_is_being_concluded_is_concluded_again(on_disk: RejectedJobs) -> None:
    ref = on_disk.unfinished(HALF)
    (claimed,) = on_disk.ledger.jobs.claim(1)
    on_disk.operator.accept(ref, 0)
    with pytest.raises(ClaimLostError):
        on_disk.ledger.jobs.conclude(claimed, JobState.FAILED, reason=Reason.BAD_ASSET)
    assert on_disk.conclude(ref).state is JobState.ARCHIVED


# What it is accepted as.


@pytest.mark.parametrize(
    ("data", "media_type", "extension"),
    [
        (HALF, "image/png", "png"),
        (b"\xff\xd8\xff\xe0 no end", "image/jpeg", "jpg"),
        (b"GIF89a", "image/gif", "gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp", "webp"),
        (b"\0\0\0\x1cftypavif", "image/avif", "avif"),
        (b"\0\0\0\x1cftypheic", "image/heic", "heic"),
        (b"\0\0\0\x1cftypqt  ", "video/quicktime", "mov"),
        (b"\0\0\0\x1cftypisom", "video/mp4", "mp4"),
        (b"\x1a\x45\xdf\xa3", "video/webm", "webm"),
        (b"\xff\x0a\0", "image/jxl", "jxl"),
        (b"II*\0", "image/tiff", "tiff"),
        (b"<!DOCTYPE html><script>", "application/octet-stream", "bin"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "application/octet-stream", "bin"),
        (b" \x89PNG\r\n\x1a\n", "application/octet-stream", "bin"),
        (b"\0", "application/octet-stream", "bin"),
    ],
)
def test_only_what_begins_like_a_picture_or_a_video_is_called_one(
    on_disk: RejectedJobs, data: bytes, media_type: str, extension: str
) -> None:
    ref = on_disk.job(data)
    on_disk.operator.accept(ref, 0)
    (asset,) = on_disk.ledger.assets_of(ref)
    assert (asset.content_type, asset.key) == (media_type, asset_key(ref, 0, extension))


# The whole archive.


@pytest.mark.both_databases
def test_a_rebuilt_ledger_knows_rejected_and_accepted_files_as_before(jobs: RejectedJobs) -> None:
    accepted, waiting = jobs.job(HALF, None), jobs.job(b"other", HALF)
    jobs.operator.accept(accepted, 0)
    jobs.conclude(accepted)
    jobs.store.delete(quarantine_key(waiting, 1, SHA))
    unknown = quarantine_key(accepted, 7, SHA)
    put(jobs.store, unknown, HALF)
    before = {ref: jobs.ledger.assets_of(ref) for ref in (accepted, waiting)}
    archive = ArchivedJobs(jobs.ledger, jobs.store)
    archive.empty_ledger()
    found = rebuild_ledger(archive)
    assert (found.restored, found.problems.lines, found.unknown.lines) == (2, [], [unknown])
    after = {ref: jobs.ledger.assets_of(ref) for ref in (accepted, waiting)}
    assert after[accepted] == before[accepted]
    assert after[waiting][0] == before[waiting][0]
    assert after[waiting][1] == replace(before[waiting][1], quarantined_at=None)
    assert jobs.ledger.totals.audit().ok
    jobs.operator.accept(waiting, 0)
    assert jobs.conclude(waiting).state is JobState.FAILED
    assert rebuild_ledger(archive).known == 2


@pytest.mark.both_databases
def test_a_deep_audit_finds_rejected_files_that_are_gone_changed_or_of_no_job(
    jobs: RejectedJobs,
) -> None:
    gone, other, pending = jobs.job(HALF), jobs.job(HALF), jobs.ledger.archiving(1, "task-9")
    size = len(HALF)
    jobs.store.delete(lost := quarantine_key(gone, 0, SHA))
    jobs.store.delete(damaged := quarantine_key(other, 0, SHA))
    put(jobs.store, damaged, HALF + b"!")
    put(jobs.store, stray := quarantine_key(other, 1, SHA), HALF)
    put(jobs.store, unowned := quarantine_key("01JZ2Q7V3N0123456789ABCDEF", 0, SHA), HALF)
    put(jobs.store, quarantine_key(pending, 0, SHA), HALF)  # a worker is about to record it
    put(jobs.store, "quarantine/notes.txt", HALF)
    assert sorted(differences(jobs)) == sorted(
        [
            f"missing: {lost} (job {gone})",
            f"differs: {damaged} (job {other}): it has {size + 1} bytes instead of {size}",
            f"unknown object: {stray} (job {other} does not name it)",
            f"unknown object: {unowned} (there is no job 01JZ2Q7V3N0123456789ABCDEF)",
            "unknown object: quarantine/notes.txt",
        ]
    )
