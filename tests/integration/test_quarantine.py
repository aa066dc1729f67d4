"""Files that fail inspection are kept with the reason, within limits, whatever else fails."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from archives import put
from archiving import OTHER_PNG, PNG, SIZE, ArchivingHarness, scripted_source
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, honest, s3_error
from ledgers import LedgerHarness, opened, succeeded
from outside_network import Script, ScriptedServer, answer, chunked
from prometheus_client import REGISTRY

from receiver.archive.archiver import MAX_BAD_FILES
from receiver.archive.manifest import asset_key, quarantine_key
from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import open_store
from receiver.archive.stores.directory import DirectoryStore
from receiver.ledger.quarantine import QuarantineRecords
from receiver.ledger.rows import Asset
from receiver.model import AssetState, JobState
from submitter.sandbox import Sandbox

HALF, OTHER_HALF = PNG[: SIZE // 2], OTHER_PNG[: SIZE // 2]
PAGE = b"<!DOCTYPE html><html>your picture is being prepared</html>"
OTHER_PAGE = b'{"error": "this URL has expired"}'
KEY = quarantine_key("01JZ2Q7V3N0123456789ABCDEF", 0, "a" * 64)
GONE = answer(status="404 Not Found", body=PAGE)


def sent(data: bytes) -> Script:
    return answer("Content-Type: image/png; charset=x", body=data)


def broken_off(data: bytes) -> Script:
    return answer(f"Content-Length: {SIZE + 1}", body=data)


@pytest.fixture(params=["directory", "bucket"])
def harness(
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


@pytest.fixture
def on_disk(sqlite_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[ArchivingHarness]:
    """Archive into a directory with SQLite: for what depends on neither."""
    with opened(sqlite_url) as ledger:
        store = DirectoryStore(tmp_path / "archive")
        store.check()
        yield ArchivingHarness(ledger, store, tmp_path, sandbox)


def after(harness: ArchivingHarness, *answers: Script) -> Asset:
    """Make one attempt for each of these answers of the source; return the asset then."""
    with scripted_source(*answers) as server:
        harness.announce(server)
        asset = harness.attempt()
        for _ in answers[1:]:
            harness.ledger.clock.now = asset.due_at or harness.ledger.clock.now
            asset = harness.attempt()
    return asset


def kept(store: Store) -> dict[str, bytes]:
    """Return every object of the quarantine."""
    found = {}
    for key, _ in store.keys("quarantine"):
        with store.open(key) as file:
            found[key] = file.read()
    return found


def key_of(asset: Asset, data: bytes) -> str:
    return quarantine_key(asset.ref, asset.idx, hashlib.sha256(data).hexdigest())


@pytest.mark.both_databases
def test_the_last_bad_file_is_kept_with_its_hash_size_claimed_type_and_the_reason(
    harness: ArchivingHarness,
) -> None:
    first = after(harness, sent(HALF), sent(OTHER_HALF))
    assert kept(harness.store) == {key_of(first, OTHER_HALF): OTHER_HALF}
    assert first.rejected is not None
    assert first.rejected.sha256 == hashlib.sha256(OTHER_HALF).hexdigest()
    assert first.rejected.size == len(OTHER_HALF)
    assert first.rejected.content_type == "image/png; charset=x"
    assert first.rejected.reason == first.error
    assert "PNG" in first.error
    assert first.rejected.quarantined_at == harness.ledger.clock.now
    assert first.is_acceptable


@pytest.mark.both_databases
def test_when_a_later_file_is_archived_the_bad_one_is_removed(harness: ArchivingHarness) -> None:
    archived = after(harness, sent(HALF), sent(PNG))
    assert (archived.state, archived.rejected) == (AssetState.ARCHIVED, None)
    assert (archived.is_acceptable, archived.quarantined_at) == (False, None)
    assert kept(harness.store) == {}


@pytest.mark.parametrize(
    ("answers", "left", "state"),
    [
        ([sent(HALF), sent(HALF)], HALF, AssetState.FAILED),
        ([sent(HALF), sent(OTHER_HALF), sent(HALF)], HALF, AssetState.PENDING),
        ([sent(HALF), GONE, sent(HALF)], HALF, AssetState.FAILED),
        # A page may say "not ready yet", and it may come when a URL has expired.
        ([sent(PAGE), sent(PAGE), sent(PAGE)], PAGE, AssetState.PENDING),
        ([sent(PAGE), sent(OTHER_PAGE)], OTHER_PAGE, AssetState.PENDING),
        ([sent(PAGE), sent(HALF)], HALF, AssetState.PENDING),
        ([sent(HALF), sent(PAGE)], HALF, AssetState.PENDING),
        ([sent(HALF), sent(PAGE), sent(HALF)], HALF, AssetState.FAILED),
        # Another download may bring more.
        ([chunked(HALF, end=b"")] * 2, HALF, AssetState.PENDING),
        ([chunked(HALF, end=b""), chunked(PNG[:99], end=b"")], HALF, AssetState.PENDING),
        ([broken_off(HALF)] * 3, HALF, AssetState.PENDING),
        ([broken_off(HALF), broken_off(PNG[:99])], HALF, AssetState.PENDING),
        ([broken_off(PNG[:99]), broken_off(HALF), GONE], HALF, AssetState.PENDING),
        ([sent(OTHER_HALF), broken_off(PNG[:99])], OTHER_HALF, AssetState.PENDING),
        ([broken_off(HALF), sent(OTHER_HALF)], OTHER_HALF, AssetState.PENDING),
        # Also for a whole picture, if the server announces more bytes.
        ([broken_off(PNG)] * 2, PNG, AssetState.PENDING),
        ([broken_off(HALF), sent(PNG)], None, AssetState.ARCHIVED),
        # These are not files.
        ([GONE], None, AssetState.PENDING),
        ([broken_off(b"")], None, AssetState.PENDING),
        ([broken_off(PAGE)], PAGE, AssetState.PENDING),
        ([sent(PNG + bytes(SIZE))], None, AssetState.FAILED),
    ],
)
def test_what_is_kept_and_when_the_attempts_end(
    on_disk: ArchivingHarness, answers: list[Script], left: bytes | None, state: AssetState
) -> None:
    harness = on_disk
    if state is AssetState.FAILED and left is None:
        asset = limited(harness, answers)
    else:
        asset = after(harness, *answers)
    assert asset.state is state
    assert list(kept(harness.store).values()) == ([] if left is None else [left])
    assert (asset.rejected is None) == (left is None)


def limited(harness: ArchivingHarness, answers: list[Script]) -> Asset:
    """Fetch a file that is larger than FETCH_MAX_BYTES."""
    with scripted_source(*answers) as server:
        harness.announce(server)
        harness.fetch_from(server.port, max_bytes=SIZE)
        return harness.attempt()


def test_a_file_that_a_killed_worker_did_not_record_can_be_accepted_when_its_asset_is_lost(
    on_disk: ArchivingHarness,
) -> None:
    with scripted_source(GONE) as server:
        ref = on_disk.announce(server)
        for number, data in [(0, HALF), (0, HALF[:99]), (1, PNG)]:
            put(on_disk.store, quarantine_key(ref, number, hashlib.sha256(data).hexdigest()), data)
        on_disk.ledger.clock.now += 7200.0 + 1
        *_, lost = on_disk.attempts()
    assert lost.state is AssetState.EXPIRED
    assert lost.is_acceptable
    assert lost.rejected is not None
    assert (lost.rejected.sha256, lost.rejected.size) == (
        hashlib.sha256(HALF).hexdigest(),
        len(HALF),
    )
    assert "answered 404" in lost.rejected.reason


def test_a_file_that_a_killed_worker_did_not_record_is_removed_when_its_asset_is_archived(
    on_disk: ArchivingHarness,
) -> None:
    with scripted_source(sent(PNG)) as server:
        ref = on_disk.announce(server)
        for number in (0, 1):
            key = quarantine_key(ref, number, hashlib.sha256(HALF).hexdigest())
            put(on_disk.store, key, HALF)
        on_disk.claim()  # by a worker that is killed
        on_disk.ledger.clock.now += 61.0
        archived = on_disk.attempt()
    assert (archived.state, archived.crashes) == (AssetState.ARCHIVED, 1)
    assert list(kept(on_disk.store)) == [key]


def test_an_operators_retry_downloads_a_file_that_came_twice_once_more(
    on_disk: ArchivingHarness,
) -> None:
    with scripted_source(sent(HALF), sent(HALF), sent(HALF), sent(HALF), sent(PNG)) as server:
        ref = on_disk.announce(server)
        assert [asset.attempts for asset in on_disk.attempts()] == [1, 2]
        on_disk.ledger.conclude(ref, JobState.EXPIRED)
        on_disk.ledger.operator.retry(ref)
        assert [asset.state for asset in on_disk.attempts()] == [AssetState.FAILED]
        assert len(kept(on_disk.store)) == 1


@pytest.mark.both_databases
def test_a_picture_whose_key_is_taken_by_something_else_is_kept(harness: ArchivingHarness) -> None:
    with scripted_source(sent(PNG)) as server:
        ref = harness.announce(server)
        put(harness.store, asset_key(ref, 0, "png"), HALF)
        asset = harness.attempt()
    assert "already holds other bytes" in asset.error
    assert kept(harness.store) == {key_of(asset, PNG): PNG}


# Limits.


def reject(harness: ArchivingHarness, server: ScriptedServer, count: int, task: str) -> list[Asset]:
    """Reject a file for each of ``count`` assets of one job; return them, the first one first."""
    ref = harness.ledger.waiting(task)
    urls = [f"http://127.0.0.1:{server.port}/{idx}.png" for idx in range(count)]
    harness.ledger.deliver(ref, succeeded(*urls, provider_id=task))
    order = []
    for _ in range(count):
        harness.ledger.clock.advance(0.01)  # no retry is due yet
        (claimed,) = harness.ledger.assets.claim(1)
        harness.archiver.archive(claimed)
        order.append(claimed.row.idx)
    assets = harness.ledger.assets_of(ref)
    return [assets[idx] for idx in order]


@pytest.mark.both_databases
def test_the_limit_of_a_job_removes_its_own_oldest_files_and_the_limit_of_all_the_oldest(
    harness: ArchivingHarness,
) -> None:
    size = len(HALF)
    with scripted_source(*[sent(HALF)] * 9) as server:
        harness.fetch_from(server.port, quarantine=(5 * size, 2 * size))
        honest = reject(harness, server, 1, "honest")
        flood = reject(harness, server, 4, "flood")
        assert [asset.quarantined_at is not None for asset in flood] == [False, False, True, True]
        assert honest[0] == harness.ledger.assets_of(honest[0].ref)[0], "its file is still kept"
        last = reject(harness, server, 2, "last")
        assert len(kept(harness.store)) == 5
        reject(harness, server, 2, "newest")
    left = {key.split("/")[4] for key in kept(harness.store)}
    assert (honest[0].ref in left, last[0].ref in left, len(kept(harness.store))) == (
        False,
        True,
        5,
    )


@pytest.mark.parametrize("limits", [(0, 2**20), (2**20, 0), (SIZE // 4, 2**20), (2**20, SIZE // 4)])
def test_a_file_larger_than_the_quarantine_is_recorded_but_not_kept_and_removes_no_other(
    on_disk: ArchivingHarness, limits: tuple[int, int]
) -> None:
    with scripted_source(sent(HALF), sent(HALF)) as server:
        ref = on_disk.announce(server)
        on_disk.fetch_from(server.port, quarantine=limits)
        first, last = on_disk.attempts()
    assert kept(on_disk.store) == {}
    assert last.state is AssetState.FAILED, "the same file twice, whether it is kept or not"
    assert first.rejected is not None
    assert first.rejected.quarantined_at is None
    assert on_disk.job_due_now(ref)


@pytest.mark.both_databases
def test_a_file_that_was_removed_while_it_came_again_does_not_count_as_kept(
    harness: ArchivingHarness,
) -> None:
    with scripted_source(sent(HALF), sent(HALF)) as server:
        ref = harness.announce(server)
        first = harness.attempt()
        harness.ledger.clock.now = first.due_at or 0.0
        (claimed,) = harness.ledger.assets.claim(1)
        records = QuarantineRecords(harness.ledger.database)
        (file,) = records.oldest_beside(ref, -1, 9, of_job=True)
        harness.store.delete(key_of(first, HALF))  # to make room for the file of another asset
        records.forget(file)
        harness.archiver.archive(claimed)
    (last,) = harness.ledger.assets_of(ref)
    assert (last.state, last.is_acceptable) == (AssetState.FAILED, False)


def test_an_empty_picture_is_not_kept(
    on_disk: ArchivingHarness,
) -> None:
    ref = on_disk.ledger.waiting("task")
    on_disk.ledger.deliver(ref, succeeded("data:image/png;base64,", provider_id="task"))
    asset = on_disk.attempt()
    assert (asset.state, asset.rejected, kept(on_disk.store)) == (AssetState.FAILED, None, {})


# Faults of the archive.


def count(outcome: str) -> float:
    return REGISTRY.get_sample_value("receiver_rejected_files_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def refusing(
    sqlite_url: str, proxy: FaultProxy, bucket: str, sandbox: Sandbox, tmp_path: Path
) -> Iterator[ArchivingHarness]:
    """Archive into a bucket that refuses what ``refuse`` names."""
    with opened(sqlite_url) as ledger, closing(open_store(f"s3://{bucket}/x")) as store:
        store.check()
        yield ArchivingHarness(ledger, store, tmp_path, sandbox)
        proxy.rule = honest


def refuse(proxy: FaultProxy, method: str) -> None:
    def rule(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        hit = request.method == method and "quarantine/" in request.path
        return s3_error(403, "AccessDenied") if hit else forward(request)

    proxy.rule = rule


def test_while_the_quarantine_cannot_store_a_file_the_attempts_go_on(
    refusing: ArchivingHarness, proxy: FaultProxy
) -> None:
    refuse(proxy, "PUT")
    before = count("not_kept")
    refused = MAX_BAD_FILES + 1
    with scripted_source(*[sent(HALF)] * (refused + 1)) as server:
        refusing.announce(server)
        for last in refusing.attempts():
            if last.attempts == refused:
                assert last.rejected is not None
                assert last.rejected.quarantined_at is None
                proxy.rule = honest
    assert count("not_kept") == before + refused
    assert last.attempts == refused + 1
    assert last.state is AssetState.FAILED
    assert last.is_acceptable


def test_a_quarantine_that_cannot_delete_takes_no_new_file_when_it_is_full(
    refusing: ArchivingHarness, proxy: FaultProxy
) -> None:
    refuse(proxy, "DELETE")
    with scripted_source(sent(HALF), sent(HALF), sent(PNG)) as server:
        refusing.fetch_from(server.port, quarantine=(len(HALF), len(HALF)))
        (first,) = reject(refusing, server, 1, "first")
        (second,) = reject(refusing, server, 1, "second")
        assert (first.is_acceptable, second.is_acceptable) == (True, False)
        refusing.ledger.clock.now = first.due_at or 0.0
        (claimed,) = [one for one in refusing.ledger.assets.claim(2) if one.row.ref == first.ref]
        refusing.archiver.archive(claimed)
        (archived,) = refusing.ledger.assets_of(first.ref)
    assert archived.state is AssetState.ARCHIVED
    assert archived.quarantined_at is not None, "it is still there, and counts"
    assert list(kept(refusing.store)) == [key_of(first, HALF)]


# Deleting.


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    put(store, KEY, HALF)
    store.delete(KEY)
    store.delete(KEY)
    store.delete(KEY.replace("/0-", "/1-"))
    assert list(store.keys()) == []
    put(store, KEY, HALF)
    assert dict(store.keys()) == {KEY: len(HALF)}
