"""Doubts: archived files are tried in idle time; what cannot be decoded is recorded."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archiving import PNG, ArchivingHarness, scripted_source
from ledgers import opened
from made_pictures import IEND, SIZE, WHOLE, box, chunk, png, track, video
from outside_network import answer
from PIL import Image
from waiting import until

from receiver.archive import thumbnails as thumbnails_module
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.thumbnails import BusyError, Thumbnails
from receiver.errors import StoreError
from receiver.ledger.rows import Asset
from receiver.maintenance import doubts as doubts_module
from receiver.maintenance.doubts import Doubts, try_periodically
from receiver.model import AssetState
from submitter.sandbox import Sandbox

_noise = io.BytesIO()
Image.effect_noise((400, 300), 90).save(_noise, "JPEG", quality=95)
JPEG = _noise.getvalue()
HALF = len(JPEG) // 2
_black = io.BytesIO()
Image.new("RGB", (200, 200)).save(_black, "BMP")
BLACK_BMP = _black.getvalue()
Archive = Callable[[bytes], str]


@pytest.fixture
def harness(sqlite_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[ArchivingHarness]:
    with opened(sqlite_url) as ledger:
        yield ArchivingHarness(ledger, DirectoryStore(tmp_path / "archive"), tmp_path, sandbox)


@pytest.fixture
def archive(harness: ArchivingHarness) -> Archive:
    """Archive these bytes; return the job's ref."""

    def call(body: bytes) -> str:
        with scripted_source(answer(body=body)) as server:
            ref = harness.announce(server)
            assert harness.attempt().state is AssetState.ARCHIVED
        return ref

    return call


@pytest.fixture
def doubts(harness: ArchivingHarness, tmp_path: Path) -> Doubts:
    return Doubts(harness.ledger.assets, Thumbnails(harness.store, tmp_path / "thumbnails"))


def only(harness: ArchivingHarness, ref: str) -> Asset:
    (asset,) = harness.ledger.assets_of(ref)
    return asset


@pytest.mark.parametrize(
    ("body", "doubt"),
    [
        (png(chunk(b"IDAT", b"no compressed data"), IEND), "it cannot be decoded"),
        (JPEG[:HALF] + bytes(HALF - 9) + JPEG[2 * HALF - 9 :], "are zero"),
        (video(track(*SIZE), end=box(b"mdat", bytes(20_000))), "are zero"),
    ],
    ids=["undecodable", "half a jpeg is zero", "a video of zeros"],
)
def test_a_damaged_file_is_archived_and_in_doubt(
    harness: ArchivingHarness, archive: Archive, doubts: Doubts, body: bytes, doubt: str
) -> None:
    ref = archive(body)
    assert only(harness, ref).doubt is None
    assert doubts.try_next()
    assert doubt in str(only(harness, ref).doubt)
    assert harness.stored(only(harness, ref).key) == body
    assert not doubts.try_next()


@pytest.mark.parametrize("body", [PNG, JPEG, WHOLE["bmp"][0], BLACK_BMP, WHOLE["webm"][0]])
def test_a_good_file_is_not(
    harness: ArchivingHarness, archive: Archive, doubts: Doubts, body: bytes
) -> None:
    ref = archive(body)
    assert doubts.try_next()
    assert only(harness, ref).doubt == ""


def test_the_worker_tries_files_by_itself(
    harness: ArchivingHarness, archive: Archive, doubts: Doubts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = archive(PNG)
    monkeypatch.setattr(doubts_module, "EVERY", 0.01)
    with try_periodically(doubts):
        until(lambda: only(harness, ref).doubt == "")
        (thread,) = [one for one in threading.enumerate() if one.name == "doubts"]
        # A thread of a lower priority would keep the interpreter's lock while it may not run.
        ours, its = (os.getpriority(os.PRIO_PROCESS, which or 0) for which in (0, thread.native_id))
        assert its == ours


def test_nothing_is_tried_while_an_asset_is_due(
    harness: ArchivingHarness, archive: Archive, doubts: Doubts
) -> None:
    ref = archive(PNG)
    harness.ledger.archiving(provider_id="task-2")
    assert not doubts.try_next()
    assert only(harness, ref).doubt is None


def test_a_file_whose_object_is_missing_is_in_doubt(
    harness: ArchivingHarness, archive: Archive, doubts: Doubts, tmp_path: Path
) -> None:
    ref = archive(PNG)
    (tmp_path / "archive" / str(only(harness, ref).key)).unlink()
    assert doubts.try_next()
    assert only(harness, ref).doubt


def test_a_file_that_cannot_be_read_is_in_doubt_and_does_not_hold_up_the_next(
    harness: ArchivingHarness, archive: Archive, doubts: Doubts, tmp_path: Path
) -> None:
    ref = archive(PNG)
    found = tmp_path / "archive" / str(only(harness, ref).key)
    found.unlink()
    found.symlink_to("/proc/self/mem")  # reading its first byte is an error of the device
    assert doubts.try_next()
    assert "cannot read" in str(only(harness, ref).doubt)


def test_after_a_fault_the_file_is_tried_again(
    harness: ArchivingHarness, archive: Archive, doubts: Doubts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = archive(PNG)
    monkeypatch.setattr(thumbnails_module, "MAKE_TIMEOUT", 0.001)
    with pytest.raises((BusyError, StoreError)):
        doubts.try_next()
    assert only(harness, ref).doubt is None
