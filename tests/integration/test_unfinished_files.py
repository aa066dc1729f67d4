"""Files that may lack their end are downloaded again, until nothing better comes.

The servers send no Content-Length: the end of the connection is the end of the file.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from archiving import PNG, ArchivingHarness, scripted_source
from damaged_pictures import OPEN_ENDED, UNFINISHED
from ledgers import opened
from made_pictures import WHOLE
from outside_network import OK, Script, answer, send

from receiver.archive.stores.directory import DirectoryStore
from receiver.ledger.rows import Asset
from receiver.model import AssetState
from submitter.sandbox import Sandbox

JPEG = WHOLE["jpeg"][0]
FRAGMENTS = OPEN_ENDED["an mp4 in fragments"]


@pytest.fixture
def harness(sqlite_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[ArchivingHarness]:
    with opened(sqlite_url) as ledger:
        yield ArchivingHarness(ledger, DirectoryStore(tmp_path / "archive"), tmp_path, sandbox)


def endless(body: bytes) -> Script:
    """Answer without a Content-Length, and close the connection after the body."""
    return send(OK, b"\r\n", body)


def run(harness: ArchivingHarness, *scripts: Script) -> list[Asset]:
    with scripted_source(*scripts) as server:
        harness.announce(server)
        return list(harness.attempts())


def test_a_body_that_breaks_off_is_downloaded_again(harness: ArchivingHarness) -> None:
    first, second = run(harness, endless(PNG[:9_000]), endless(PNG))
    assert first.state is AssetState.PENDING
    assert "cut short" in first.error
    assert harness.stored(second.key) == PNG


def test_a_body_that_always_breaks_off_is_never_archived(harness: ArchivingHarness) -> None:
    *others, last = run(harness, endless(JPEG[:900]))
    assert last.state is AssetState.FAILED
    assert {asset.state for asset in others} == {AssetState.PENDING}


def test_fragments_that_break_off_between_two_are_compared(harness: ArchivingHarness) -> None:
    end = FRAGMENTS.rindex(b"moof") - 4
    *others, last = run(harness, endless(FRAGMENTS[:end]), endless(FRAGMENTS), endless(FRAGMENTS))
    assert [asset.state for asset in others] == [AssetState.PENDING] * 2
    assert all("neither the file nor the server says" in asset.error for asset in others)
    assert harness.stored(last.key) == FRAGMENTS


def test_fragments_that_break_off_elsewhere_each_time_are_kept_in_the_quarantine(
    harness: ArchivingHarness,
) -> None:
    head = len(FRAGMENTS) - 2 * (FRAGMENTS.rindex(b"moof") - FRAGMENTS.rindex(b"moof", 0, -300))
    cut = [endless(FRAGMENTS[:head]), endless(FRAGMENTS)] * 20
    *_, last = run(harness, *cut)
    assert last.state is AssetState.FAILED
    assert last.is_acceptable
    assert last.rejected is not None
    assert "neither the file nor the server says" in last.rejected.reason


def test_fragments_with_a_content_length_are_archived_at_once(harness: ArchivingHarness) -> None:
    (only,) = run(harness, answer(body=FRAGMENTS))
    assert harness.stored(only.key) == FRAGMENTS


@pytest.mark.parametrize("kind", ["a jpeg without EOI", "a png without IEND"])
def test_the_same_picture_without_its_end_twice_is_archived(
    harness: ArchivingHarness, kind: str
) -> None:
    first, second = run(harness, answer(body=UNFINISHED[kind]))
    assert (first.state, second.state) == (AssetState.PENDING, AssetState.ARCHIVED)
    assert harness.stored(second.key) == UNFINISHED[kind]


def test_a_better_download_replaces_a_picture_without_its_end(harness: ArchivingHarness) -> None:
    _, second = run(harness, answer(body=JPEG[:-2]), answer(body=JPEG))
    assert harness.stored(second.key) == JPEG


def test_a_picture_without_its_end_is_archived_before_its_url_dies(
    harness: ArchivingHarness,
) -> None:
    with scripted_source(answer(body=JPEG[:-2])) as server:
        harness.announce(server)
        harness.ledger.clock.now += 7190
        assert harness.attempt().state is AssetState.ARCHIVED
