"""Archiving one asset, with faults of the archive and of our own disk, and with lost claims."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from archiving import LIFETIME, OTHER_PNG, PNG, SIZE, ArchivingHarness, due, scripted_source
from ledgers import LedgerHarness, opened
from outside_network import Script, answer, redirect
from seaweed import S3Server
from small_disks import files_no_larger_than
from sqlalchemy import Connection

from receiver.archive.archiver import STORE_RETRY_DELAY
from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import open_store
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import LedgerError
from receiver.ledger.claims import LEASE
from receiver.ledger.database import Database
from receiver.ledger.group_commit import Batch
from receiver.model import AssetState
from submitter.sandbox import Sandbox
from submitter.sandbox.pictures import picture

T = TypeVar("T")
Item = TypeVar("Item")


class TroubledStore(DirectoryStore):
    """A directory in which something happens before or after a put."""

    before: Callable[[], object] = bool
    after: Callable[[], object] = bool
    checks = 0

    def check(self) -> None:
        self.checks += 1
        super().check()

    def put(
        self,
        key: str,
        path: Path,
        *,
        sha256: str,
        content_type: str,
        **more: Any,
    ) -> None:
        self.before()
        super().put(key, path, sha256=sha256, content_type=content_type, **more)
        self.after()


class FlickeringDatabase:
    """A database that is unavailable for one write, the next one after ``away`` was set."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.away = False
        self.read, self.close = database.read, database.close

    def write(self, work: Callable[[Connection], T]) -> T:
        self._flicker()
        return self._database.write(work)

    def write_item(self, batch: Batch[Item, T], item: Item) -> T:
        self._flicker()
        return self._database.write_item(batch, item)

    def _flicker(self) -> None:
        if self.away:
            self.away = False
            raise LedgerError("away for a moment")


def raise_(error: BaseException) -> None:
    raise error


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    with opened(sqlite_url) as ledger:
        yield ledger


@pytest.fixture
def store(tmp_path: Path) -> TroubledStore:
    return TroubledStore(tmp_path / "archive")


@pytest.fixture
def harness(
    ledger: LedgerHarness, store: TroubledStore, sandbox: Sandbox, tmp_path: Path
) -> ArchivingHarness:
    return ArchivingHarness(ledger, store, tmp_path, sandbox)


@pytest.fixture(params=["directory", "bucket"])
def harness_per_store(
    request: pytest.FixtureRequest, ledger: LedgerHarness, sandbox: Sandbox, tmp_path: Path
) -> Iterator[ArchivingHarness]:
    """Archive into a directory, and into a bucket of a real S3 server."""
    url = (
        f"file://{tmp_path}/archive"
        if request.param == "directory"
        else f"s3://{request.getfixturevalue('bucket')}/pictures"
    )
    with closing(open_store(url)) as store:
        yield ArchivingHarness(ledger, store, tmp_path, sandbox)


# The archive is unavailable


@pytest.fixture(params=["directory", "bucket"])
def outage(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Store, Callable[[], object]]]:
    """Give an archive that cannot be used yet, and what makes it usable."""
    if request.param == "directory":
        root = tmp_path / "archive"
        root.write_text("a file where a directory should be")
        yield DirectoryStore(root), root.unlink
        return
    name = request.getfixturevalue("bucket") + "-later"
    server: S3Server = request.getfixturevalue("s3_server")
    with closing(open_store(f"s3://{name}/pictures")) as store:
        yield store, lambda: server.client.create_bucket(Bucket=name)


def test_while_the_archive_is_away_its_assets_wait_and_the_source_is_spared(
    ledger: LedgerHarness,
    sandbox: Sandbox,
    tmp_path: Path,
    outage: tuple[Store, Callable[[], object]],
) -> None:
    harness, mend = ArchivingHarness(ledger, outage[0], tmp_path, sandbox), outage[1]
    ref, task_id = harness.picture_made()
    for _ in range(3):
        waiting = harness.attempt()
        assert (waiting.state, waiting.attempts) == (AssetState.PENDING, 0)
        assert re.search("archive|bucket", waiting.error)
        assert 0.75 <= (due(waiting) - ledger.clock.now) / STORE_RETRY_DELAY <= 1.25
        assert harness.file(task_id)["gets"] == 1  # fetched once; then only the archive was tried
        ledger.clock.now = due(waiting)
    mend()
    archived = harness.attempt()
    assert (archived.state, archived.attempts) == (AssetState.ARCHIVED, 1)
    assert harness.file(task_id)["gets"] == 2
    assert ledger.event_types(ref) == ["asset.archived", "job.archived"]


def test_an_archive_is_probed_only_while_it_is_in_doubt(
    harness: ArchivingHarness, store: TroubledStore, tmp_path: Path
) -> None:
    harness.picture_made()
    (tmp_path / "archive").write_text("a file where a directory should be")
    harness.ledger.clock.now = due(harness.attempt())
    (tmp_path / "archive").unlink()
    assert (harness.attempt().state, store.checks) == (AssetState.ARCHIVED, 1)
    harness.picture_made()
    assert (harness.attempt().state, store.checks) == (AssetState.ARCHIVED, 1)


def test_an_archive_that_stays_away_expires_the_asset_one_lifetime_after_its_url(
    harness: ArchivingHarness, tmp_path: Path
) -> None:
    ref, _ = harness.picture_made()
    (tmp_path / "archive").write_text("a file where a directory should be")
    harness.ledger.clock.advance(2 * LIFETIME - 1)
    waiting, lost = harness.attempts()
    assert (waiting.state, lost.state) == (AssetState.PENDING, AssetState.EXPIRED)
    assert "a file stands where a directory should be" in lost.error
    assert harness.job_due_now(ref)


# Our own disk, and our own mistakes


def test_a_full_disk_is_not_the_asset_s_fault(harness: ArchivingHarness) -> None:
    with scripted_source(answer(body=picture("large", "png", 64, 48, 3_000_000, None))) as server:
        harness.announce(server)
        with files_no_larger_than(1_000_000):
            waiting = harness.attempt()
        assert (waiting.state, waiting.attempts) == (AssetState.PENDING, 0)
        assert "cannot write to the disk: File too large" in waiting.error
        harness.ledger.clock.now = due(waiting)
        assert harness.attempt().state is AssetState.ARCHIVED


def test_a_disk_that_is_full_while_an_object_is_looked_at_is_not_the_asset_s_fault_either(
    harness: ArchivingHarness,
) -> None:
    with scripted_source(answer(body=PNG)) as server:
        ref = harness.announce(server)
        harness.put(asset_key(ref, 0, "png"), picture("large", "png", 64, 48, 3_000_000, None))
        with files_no_larger_than(1_000_000):
            waiting = harness.attempt()
        assert (waiting.state, waiting.attempts) == (AssetState.PENDING, 0)
        assert "File too large" in waiting.error
        harness.ledger.clock.now = due(waiting)
        assert harness.attempt().size == 3_000_000


def test_a_scratch_folder_that_cannot_be_used_is_not_the_asset_s_fault(
    harness: ArchivingHarness,
) -> None:
    harness.picture_made()
    harness.scratch.rmdir()
    harness.scratch.write_text("a file where a folder should be")
    waiting = harness.attempt()
    assert (waiting.state, waiting.attempts) == (AssetState.PENDING, 0)
    assert "Not a directory" in waiting.error
    harness.scratch.unlink()
    harness.scratch.mkdir()
    harness.ledger.clock.now = due(waiting)
    assert harness.attempt().state is AssetState.ARCHIVED


def test_a_mistake_of_ours_does_not_keep_an_asset_for_ever(
    harness: ArchivingHarness, store: TroubledStore
) -> None:
    harness.picture_made()
    store.before = lambda: raise_(ZeroDivisionError("?sig=hunter2"))
    broken = harness.attempt()
    assert (broken.state, broken.attempts, broken.claim) == (AssetState.PENDING, 1, None)
    assert "ZeroDivisionError" in broken.error
    assert "hunter2" not in broken.error
    harness.ledger.clock.advance(LIFETIME)
    assert harness.attempt().state is AssetState.EXPIRED


# Claims and finishes that are lost


@pytest.mark.parametrize(
    "script",
    [
        answer(body=PNG),
        answer(body=b"<html>soon</html>"),
        answer(status="500 Oops", body=b""),
        answer(status="404 Not Found", body=b""),
        redirect("http://10.0.0.1/x.png"),
    ],
    ids=["a picture", "a page", "an error", "nothing", "a forbidden redirect"],
)
def test_a_claim_lost_under_way_changes_nothing(harness: ArchivingHarness, script: Script) -> None:
    seen: list[object] = []

    def lose_the_claim(connection: Any) -> None:
        harness.ledger.clock.advance(LEASE + 1)
        harness.claim()
        seen.append(harness.ledger.everything())
        script(connection)

    with scripted_source(lose_the_claim) as server:
        harness.announce(server)
        harness.archiver.archive(harness.claim())
    assert seen == [harness.ledger.everything()]
    assert list(harness.scratch.iterdir()) == []


def test_what_a_killed_worker_put_is_found_and_finished(
    harness: ArchivingHarness, store: TroubledStore
) -> None:
    ref, task_id = harness.picture_made()
    store.after = lambda: raise_(SystemExit())
    with pytest.raises(SystemExit):
        harness.attempt()
    store.after = bool
    assert harness.ledger.claims.take_over() == 1
    asset = harness.attempt()
    assert (asset.state, asset.sha256) == (AssetState.ARCHIVED, harness.file(task_id)["sha256"])
    assert harness.ledger.event_types(ref) == ["asset.archived"]


def test_other_bytes_that_stand_under_the_key_already_are_taken_as_they_are(
    harness_per_store: ArchivingHarness,
) -> None:
    ref, _ = harness_per_store.picture_made()
    key = asset_key(ref, 0, "png")
    harness_per_store.put(key, OTHER_PNG)
    asset = harness_per_store.attempt()
    assert (asset.state, asset.key, asset.size) == (AssetState.ARCHIVED, key, len(OTHER_PNG))
    assert (
        asset.sha256
        == hashlib.sha256(OTHER_PNG).hexdigest()
        == hashlib.sha256(harness_per_store.stored(key)).hexdigest()
    )
    assert (asset.width, asset.height) == (32, 16)


def test_a_ledger_away_at_the_finish_is_no_attempt_that_failed(
    ledger: LedgerHarness, store: TroubledStore, sandbox: Sandbox, tmp_path: Path
) -> None:
    database = FlickeringDatabase(ledger.database)
    harness = ArchivingHarness(LedgerHarness(database, ledger.clock), store, tmp_path, sandbox)
    ref, _ = harness.picture_made()
    store.after = lambda: setattr(database, "away", True)
    ledger.clock.advance(
        LIFETIME + 1
    )  # the last attempt: ending the asset now would lose the object that is already in the archive
    with pytest.raises(LedgerError):
        harness.attempt()
    assert ledger.pending(ref) == [0]
    store.after = bool
    ledger.clock.advance(LEASE)
    assert harness.attempt().state is AssetState.ARCHIVED


# A whole pass


def test_an_asset_is_archived(harness_per_store: ArchivingHarness) -> None:
    ref, task_id = harness_per_store.picture_made()
    made = harness_per_store.file(task_id)
    asset = harness_per_store.attempt()
    key = asset_key(ref, 0, "png")
    facts = {
        "key": key,
        "sha256": made["sha256"],
        "size": made["size"],
        "content_type": "image/png",
        "width": 64,
        "height": 48,
    }
    assert {name: getattr(asset, name) for name in facts} == facts
    assert (asset.state, asset.error, asset.claim, asset.due_at) == (
        AssetState.ARCHIVED,
        "",
        None,
        None,
    )
    assert asset.finished_at == harness_per_store.ledger.clock.now
    assert hashlib.sha256(harness_per_store.stored(key)).hexdigest() == made["sha256"]
    event, end = harness_per_store.ledger.events.after()
    assert (event["type"], event["idx"], json.loads(event["payload"])) == (
        "asset.archived",
        0,
        {"ref": ref, "index": 0, **facts, "job_key": None},
    )
    assert (end["type"], end["idx"]) == ("job.archived", -1)
    assert json.loads(harness_per_store.stored(manifest_key(ref)))["state"] == "archived"


@pytest.mark.parametrize(
    ("extension", "content_type"),
    [("jpg", "image/jpeg"), ("webp", "image/webp"), ("mp4", "video/mp4")],
)
def test_the_bytes_say_what_a_file_is_whatever_its_server_says(
    harness: ArchivingHarness, extension: str, content_type: str
) -> None:
    data = picture(
        "seed",
        "jpeg" if extension == "jpg" else "webp" if extension == "webp" else "mp4",
        64,
        48,
        SIZE,
        None,
    )
    with scripted_source(answer("Content-Type: text/plain", body=data)) as server:
        ref = harness.announce(server)
        asset = harness.attempt()
    assert (asset.key, asset.content_type) == (asset_key(ref, 0, extension), content_type)
