"""The deep audit finds and names every kind of damage, and reports nothing if there is none."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import pytest
from archives import BAD, SAFE, ArchivedJobs, invented_jobs, put, write_files
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, s3_error
from ledgers import LedgerHarness
from seaweed import S3Server

from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_transport import Limits
from receiver.errors import StoreError
from receiver.maintenance import checkpoint, deep_audit
from receiver.maintenance.checkpoint import Checkpoint, Pass
from receiver.maintenance.deep_audit import DeepAudit, Interrupted
from receiver.maintenance.rebuild import Rebuilder

URL = "file:///some/archive"


def run_audit(
    archived_jobs: ArchivedJobs,
    progress: Checkpoint | None = None,
    *,
    stopping: Event | None = None,
    show: Callable[[], object] = bool,
) -> Checkpoint:
    """Audit what is left from a place on; return the place then."""
    progress = progress or Checkpoint(archive=URL)
    DeepAudit(
        archived_jobs.store,
        archived_jobs.ledger.queries,
        progress,
        threads=4,
        stopping=stopping or Event(),
        show=show,
    ).run()
    return progress


@pytest.mark.both_databases
def test_what_is_whole_is_found_whole_whatever_became_of_the_jobs(
    archived_jobs: ArchivedJobs,
) -> None:
    archived_jobs.job(SAFE, SAFE, folder="shop/summer")
    archived_jobs.job(SAFE, BAD)
    archived_jobs.job(BAD)
    archived_jobs.ledger.expired("never-heard-of")
    archived_jobs.unfinished(SAFE, SAFE)
    archived_jobs.ledger.waiting("going-on")
    progress = run_audit(archived_jobs)
    assert progress.named == []
    assert (progress.jobs, progress.pictures, progress.names, progress.step) == (
        6,
        5,
        7,
        Pass.NAMES,
    )


def planted(archived_jobs: ArchivedJobs) -> list[str]:
    """Plant damage of each kind; return what is to be said of it."""
    refs = [archived_jobs.job(SAFE, SAFE) for _ in range(8)]
    keys = [archived_jobs.key(ref) for ref in refs]
    archived_jobs.remove(keys[0])
    archived_jobs.corrupt(keys[1], b"Q" * 28)
    archived_jobs.corrupt(keys[2], b"cut")
    archived_jobs.remove(manifest_key(refs[3]))
    archived_jobs.corrupt(manifest_key(refs[4]), b"{}")
    archived_jobs.edit_manifest(
        refs[5], state="archived", assets=[content_of(archived_jobs, refs[5])["assets"][0]]
    )
    stray, unowned = asset_key(refs[6], 0, "jpg"), asset_key("01JZ2Q7V3N0123456789ABCDEF", 0, "png")
    for key in (stray, unowned, "readme.txt"):
        put(archived_jobs.store, key, b"of another program")
    return [
        f"missing: {keys[0]} (job {refs[0]})",
        f"differs: {keys[1]} (job {refs[1]}): its SHA-256 is ",
        f"differs: {keys[2]} (job {refs[2]}): it has 3 bytes instead of 28",
        f"manifest missing: {manifest_key(refs[3])} (job {refs[3]})",
        f"manifest unreadable: {manifest_key(refs[4])} (job {refs[4]}): format: Field required",
        (
            f"manifest differs: {manifest_key(refs[5])} (job {refs[5]}): "
            "it says something else of asset 1"
        ),
        f"unknown object: {stray} (job {refs[6]} does not name it)",
        f"unknown object: {unowned} (there is no job 01JZ2Q7V3N0123456789ABCDEF)",
        "unknown object: readme.txt",
    ]


def content_of(archived_jobs: ArchivedJobs, ref: str) -> dict[str, Any]:
    with archived_jobs.store.open(manifest_key(ref)) as file:
        return dict(json.loads(file.read()))


@pytest.mark.both_databases
def test_damage_of_every_kind_is_found_and_named_once(archived_jobs: ArchivedJobs) -> None:
    expected = planted(archived_jobs)
    progress = run_audit(archived_jobs)
    assert progress.differences == len(progress.named) == len(expected)
    assert [
        said for said in expected if sum(line.startswith(said) for line in progress.named) != 1
    ] == []


@pytest.mark.both_databases
def test_what_the_ledger_has_forgotten_is_held_against_its_manifest(
    archived_jobs: ArchivedJobs,
) -> None:
    whole, corrupt_seven_jobs, unknown, robbed = refs = [
        archived_jobs.job(SAFE, SAFE) for _ in range(4)
    ]
    stray, key, gone = (
        asset_key(whole, 7, "webp"),
        archived_jobs.key(corrupt_seven_jobs),
        archived_jobs.key(robbed),
    )
    put(archived_jobs.store, stray, b"of no job")
    archived_jobs.corrupt(key, b"Q" * 28)
    archived_jobs.remove(manifest_key(unknown))
    archived_jobs.remove(gone)
    newest = archived_jobs.ledger.failed(
        "task-newest"
    )  # it stays, so that its numbers are not given twice
    went, _, _ = archived_jobs.ledger.pruner(archived_jobs.store).jobs(
        archived_jobs.ledger.clock.now + 9e6
    )
    assert (went, [job.ref for job in archived_jobs.ledger.queries.jobs()]) == (len(refs), [newest])
    progress = run_audit(archived_jobs)
    assert (progress.jobs, progress.pictures, progress.names, progress.forgotten) == (1, 0, 11, 8)
    assert sorted(line.partition(": its SHA-256")[0] for line in progress.named) == sorted(
        [
            f"unknown object: {stray} (there is no job {whole}, and its manifest does not name it)",
            f"differs: {key} (job {corrupt_seven_jobs})",
            f"missing: {gone} (job {robbed})",
            *(
                f"unknown object: {asset_key(unknown, number, 'png')} (there is no job {unknown})"
                for number in range(2)
            ),
        ]
    )


def test_an_object_that_its_own_metadata_calls_damaged_is_named(
    ledger: LedgerHarness, bucket: str, s3_server: S3Server
) -> None:
    with closing(S3Store(bucket)) as store:
        archived_jobs = ArchivedJobs(ledger, store)
        key = archived_jobs.key(archived_jobs.job())
        s3_server.client.put_object(
            Bucket=bucket, Key=key, Body=b"rotten", Metadata={"sha256": "0" * 64}
        )
        progress = run_audit(archived_jobs)
        assert progress.differences == 1
        assert progress.named[0].startswith((f"unreadable: {key}", f"differs: {key}"))


@pytest.mark.both_databases
def test_a_few_hundred_jobs_are_audited_page_by_page_and_a_rebuilt_ledger_agrees_with_its_archive(
    directory_jobs: ArchivedJobs,
) -> None:
    count = deep_audit.JOBS_AT_ONCE + 50
    for _, objects in invented_jobs(count):
        write_files(Path(directory_jobs.store.locate("x")).parent, objects)
    ledger, shown = directory_jobs.ledger, []
    Rebuilder(
        directory_jobs.store,
        ledger.database,
        ledger.queries,
        job_timeout=3600.0,
        threads=4,
        stopping=Event(),
        show=bool,
    ).run()
    progress = run_audit(directory_jobs, show=lambda: shown.append(1))
    assert (progress.jobs, progress.pictures, progress.names, progress.named) == (
        count,
        count,
        2 * count,
        [],
    )
    assert len(shown) == count + 1


def test_an_object_that_is_just_being_archived_is_no_stranger(directory_jobs: ArchivedJobs) -> None:
    ref = directory_jobs.ledger.archiving(2)
    put(directory_jobs.store, asset_key(ref, 1, "webp"), b"stored, but not recorded yet")
    assert run_audit(directory_jobs).named == []
    put(directory_jobs.store, asset_key(ref, 2, "webp"), b"of an asset that there is not")
    assert run_audit(directory_jobs).named == [
        f"unknown object: {asset_key(ref, 2, 'webp')} (job {ref} does not name it)"
    ]


def test_a_job_that_changes_while_it_is_looked_at_is_looked_at_again(
    directory_jobs: ArchivedJobs,
) -> None:
    class Meddled(DirectoryStore):
        """An archive whose operator retries a job while its manifest is read."""

        def open(self, key: str, start: int = 0) -> BinaryIO:
            if key == manifest_key(ref) and directory_jobs.ledger.job(ref).finished_at is not None:
                directory_jobs.ledger.operator.retry(ref)
            return super().open(key, start)

    ref = directory_jobs.job(SAFE, BAD)
    directory_jobs.remove(manifest_key(ref))
    directory_jobs.store = Meddled(Path(directory_jobs.store.locate("x")).parent)
    assert run_audit(directory_jobs).named == [], (
        "in flight again: its manifest will be written again"
    )


def test_a_stopped_audit_goes_on_where_it_was_and_finds_everything_once(
    directory_jobs: ArchivedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_audit, "JOBS_AT_ONCE", 3)
    monkeypatch.setattr(deep_audit, "NAMES_AT_ONCE", 3)
    expected, progress, stops = planted(directory_jobs), Checkpoint(archive=URL), 0
    while True:
        stopping = Event()
        try:
            run_audit(directory_jobs, progress, stopping=stopping, show=stopping.set)
        except Interrupted:
            stops += 1
            continue
        break
    assert stops > 5
    assert [
        said for said in expected if sum(line.startswith(said) for line in progress.named) != 1
    ] == []
    assert (progress.differences, progress.jobs) == (len(expected), 8)


def test_an_audit_asked_to_stop_leaves_a_long_object_in_the_middle(
    directory_jobs: ArchivedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_audit, "CHUNK", 1)
    stopping = Event()
    directory_jobs.job()
    stopping.set()
    progress = Checkpoint(archive=URL)
    with pytest.raises(Interrupted):
        run_audit(directory_jobs, progress, stopping=stopping)
    assert (progress.jobs, progress.named) == (0, [])


def test_an_empty_archive_is_away_and_not_every_picture_missing(
    archived_jobs: ArchivedJobs,
) -> None:
    ref = archived_jobs.job()
    archived_jobs.remove(archived_jobs.key(ref))
    archived_jobs.remove(manifest_key(ref))
    progress = Checkpoint(archive=URL)
    with pytest.raises(
        StoreError, match="the archive holds no object at all: mount it, or correct ARCHIVE_URL"
    ):
        run_audit(archived_jobs, progress)
    assert (progress.jobs, progress.named) == (0, [])


def test_an_archive_that_goes_away_stops_the_audit_with_its_place_kept(
    ledger: LedgerHarness, bucket: str, proxy: FaultProxy
) -> None:
    with closing(S3Store(bucket, limits=Limits(1, 5))) as store:
        archived_jobs = ArchivedJobs(ledger, store)
        first, second = archived_jobs.job(), archived_jobs.job()  # the newer one is looked at first
        progress = Checkpoint(archive=URL)

        def goes_away() -> None:
            proxy.rule = lambda _, __: s3_error(503, "SlowDown")

        with pytest.raises(StoreError, match="overloaded"):
            DeepAudit(
                store, ledger.queries, progress, threads=1, stopping=Event(), show=goes_away
            ).run()
        assert progress.after in {first, second}
        proxy.rule = lambda request, forward: forward(request)
        assert (run_audit(archived_jobs, progress).jobs, progress.named) == (2, [])


def test_one_cut_connection_is_no_damage_and_an_object_that_never_comes_is_named(
    ledger: LedgerHarness, bucket: str, proxy: FaultProxy
) -> None:
    with closing(S3Store(bucket, limits=Limits(1, 5))) as store:
        archived_jobs = ArchivedJobs(ledger, store)
        shaky, stuck = (
            archived_jobs.key(archived_jobs.job()),
            archived_jobs.key(archived_jobs.job()),
        )
        cut: list[str] = []

        def cuts(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
            if request.path.endswith(stuck) or (request.path.endswith(shaky) and not cut):
                cut.append(request.path)
                return None
            return forward(request)

        proxy.rule = cuts
        progress = run_audit(archived_jobs)
        assert [line.partition(" (")[0] for line in progress.named] == [f"unreadable: {stuck}"]


# The place


def test_a_place_is_kept_and_found_again_whatever_was_found(tmp_path: Path) -> None:
    progress = Checkpoint(archive=URL)
    progress.record("A", ["unknown object: \ud800\n"], jobs=1, pictures=2)
    progress.begin(Pass.NAMES)
    progress.record("a\udc80b", [], names=3)
    checkpoint.save(tmp_path / "place.json", progress)
    again = checkpoint.load(tmp_path / "place.json", URL)
    assert again is not None
    assert (again.step, again.jobs, again.pictures, again.names, again.differences) == (
        Pass.NAMES,
        1,
        2,
        3,
        1,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["place.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 2, "archive": "file:///some/archive"}',
        b'{"format": 1, "archive": "x"}',
    ],
)
def test_a_place_that_is_broken_or_of_another_archive_is_none(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "place.json"
    assert checkpoint.load(path, URL) is None
    path.write_bytes(content)
    assert checkpoint.load(path, URL) is None


def test_of_endless_differences_the_first_are_named_and_all_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "MAX_LISTED", 3)
    progress = Checkpoint(archive=URL)
    for number in range(3):
        progress.record(str(number), [f"{number} a", f"{number} b"])
    assert (progress.differences, progress.named) == (6, ["0 a", "0 b", "1 a"])
