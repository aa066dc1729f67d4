"""If an attempt stored its object but could not record it, the next attempt finds that object.

So there is never a second object, whatever happened to the source meanwhile.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from archiving import LIFETIME, OTHER_PNG, PNG, SIZE, ArchivingHarness, scripted_source
from ledgers import opened, succeeded
from outside_network import Script, answer
from seaweed import S3Server

from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores.archive_url import open_store
from receiver.errors import StoreError
from receiver.model import AssetState
from submitter.sandbox import Sandbox
from submitter.sandbox.pictures import picture

JPEG = picture("a photograph", "jpeg", 64, 48, SIZE, None)
GONE = answer(status="404 Not Found", body=b"")


@pytest.fixture(params=["directory", "bucket"])
def harness(
    request: pytest.FixtureRequest, sqlite_url: str, sandbox: Sandbox, tmp_path: Path
) -> Iterator[ArchivingHarness]:
    """Archive into a directory, and into a bucket of a real S3 server."""
    url = (
        f"file://{tmp_path}/archive"
        if request.param == "directory"
        else f"s3://{request.getfixturevalue('bucket')}/pictures"
    )
    with opened(sqlite_url) as ledger, closing(open_store(url)) as store:
        yield ArchivingHarness(ledger, store, tmp_path, sandbox)


def killed_after_its_put(harness: ArchivingHarness, ref: str, extension: str, data: bytes) -> str:
    """Store an object and kill the worker before it records that; return the object's key."""
    claimed = harness.claim()
    assert claimed.row.ref == ref
    harness.put(key := asset_key(ref, 0, extension), data)
    assert harness.ledger.claims.take_over() == 1
    return key


def objects(harness: ArchivingHarness) -> list[str]:
    """Return the keys of all objects."""
    return [key for key, _size in harness.store.keys("")]


PUT_AND_NOW: dict[str, tuple[str, bytes, Script]] = {
    "a picture whose source is gone": ("png", PNG, GONE),
    "a picture whose source serves another": ("png", PNG, answer(body=OTHER_PNG)),
    "a photograph whose source serves a PNG": ("jpg", JPEG, answer(body=PNG)),
}


@pytest.mark.parametrize(("extension", "data", "now"), PUT_AND_NOW.values(), ids=PUT_AND_NOW)
def test_it_is_taken_without_asking_the_source_again(
    harness: ArchivingHarness, now: Script, extension: str, data: bytes
) -> None:
    with scripted_source(now) as server:
        ref = harness.announce(server)
        key = killed_after_its_put(harness, ref, extension, data)
        asset = harness.attempt()
    assert (asset.state, asset.key, asset.size) == (AssetState.ARCHIVED, key, len(data))
    assert (
        asset.sha256
        == hashlib.sha256(data).hexdigest()
        == hashlib.sha256(harness.stored(key)).hexdigest()
    )
    assert (asset.content_type, asset.width, asset.height) == (
        "image/png" if extension == "png" else "image/jpeg",
        64,
        48,
    )
    assert objects(harness) == [key]
    assert server.connections == 0
    assert harness.ledger.event_types(ref) == ["asset.archived"]


def test_it_is_taken_even_after_the_url_s_end(harness: ArchivingHarness) -> None:
    with scripted_source(GONE) as server:
        key = killed_after_its_put(harness, harness.announce(server), "png", PNG)
        harness.ledger.clock.advance(3 * LIFETIME)
        asset = harness.attempt()
    assert (asset.state, asset.key) == (AssetState.ARCHIVED, key)


def test_objects_of_other_assets_of_the_job_are_not_taken_for_it(harness: ArchivingHarness) -> None:
    with scripted_source(GONE) as server:
        harness.fetch_from(server.port)
        ref = harness.ledger.waiting()
        harness.ledger.deliver(
            ref, succeeded(*(f"http://127.0.0.1:{server.port}/{idx}.png" for idx in range(12)))
        )
        for name in (asset_key(ref, 10, "png"), asset_key(ref, 11, "jpg"), manifest_key(ref)):
            harness.put(name, PNG)
        claims = harness.ledger.assets.claim(12)
        harness.ledger.claims.take_over()
        assert len(claims) == 12
        for claimed in harness.ledger.assets.claim(12):
            harness.archiver.archive(claimed)
    states = [asset.state for asset in harness.ledger.assets_of(ref)]
    assert states == [AssetState.PENDING] * 10 + [AssetState.ARCHIVED] * 2


def test_half_a_picture_is_not_taken_for_one(harness: ArchivingHarness) -> None:
    with scripted_source(GONE) as server:
        killed_after_its_put(harness, harness.announce(server), "png", PNG[: SIZE // 2])
        waiting = harness.attempt()
    assert (waiting.state, waiting.attempts, server.connections) == (AssetState.PENDING, 2, 1)
    assert "answered 404" in waiting.error


def spoil(s3_server: S3Server, bucket: str, key: str) -> None:
    """Put a complete picture under the key whose bytes differ from the hash in its metadata."""
    declared = hashlib.sha256(PNG).hexdigest()
    s3_server.client.put_object(
        Bucket=bucket, Key=f"pictures/{key}", Body=OTHER_PNG, Metadata={"sha256": declared}
    )


@pytest.mark.parametrize("harness", ["bucket"], indirect=True)
def test_an_object_that_is_not_what_its_writer_declared_is_not_taken_and_the_next_put_mends_it(
    harness: ArchivingHarness, s3_server: S3Server, bucket: str
) -> None:
    with scripted_source(GONE, answer(body=PNG)) as server:
        ref = harness.announce(server)
        spoil(s3_server, bucket, key := asset_key(ref, 0, "png"))
        harness.claim()
        harness.ledger.claims.take_over()
        with pytest.raises(StoreError, match="damaged"):
            harness.stored(key)
        waiting, asset = harness.attempts()
    assert (waiting.state, asset.state) == (AssetState.PENDING, AssetState.ARCHIVED)
    assert asset.sha256 == hashlib.sha256(PNG).hexdigest()
    assert harness.stored(key) == PNG
    assert objects(harness) == [key, manifest_key(ref)]


def test_what_a_retried_asset_left_behind_is_taken_too(harness: ArchivingHarness) -> None:
    with scripted_source(GONE) as server:
        ref = harness.announce(server)
        harness.ledger.clock.advance(LIFETIME)
        *_, lost = harness.attempts()
        assert lost.state is AssetState.EXPIRED
        harness.ledger.conclude(ref)
        harness.put(asset_key(ref, 0, "png"), PNG)  # by a worker that had lost its lease, say
        harness.ledger.execute("UPDATE jobs SET state = 'expired'")
        harness.ledger.operator.retry(ref)
        asset = harness.attempt()
    assert (asset.state, asset.due_at) == (AssetState.ARCHIVED, None)
