"""A rebuild from a broken, huge or failing archive, or one that is stopped."""

import json
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from archives import (
    ArchivedJobs,
    invented_jobs,
    manifest_content,
    put,
    rebuild_ledger,
    write_files,
)
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, s3_error
from ledgers import LedgerHarness, opened
from sqlalchemy.exc import IntegrityError

from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_transport import Limits
from receiver.errors import StoreError
from receiver.maintenance import rebuild
from receiver.model import new_ref


def corrupt_seven_jobs(archived_jobs: ArchivedJobs) -> dict[str, str]:
    """Damage a job in each way; return the expected problem of each ref."""
    refs = [archived_jobs.job(prompt=f"fox {number}") for number in range(7)]
    archived_jobs.corrupt(manifest_key(refs[0]), b"{")
    archived_jobs.edit_manifest(refs[1], format=2)
    archived_jobs.edit_manifest(refs[2], assets=[])
    archived_jobs.edit_manifest(refs[3], ref=refs[4])
    archived_jobs.remove(archived_jobs.key(refs[4]))
    archived_jobs.corrupt(archived_jobs.key(refs[5]), b"shorter")
    archived_jobs.edit_manifest(refs[6], state="failed")
    problems = [
        "Invalid JSON",
        "format: Input should be 1",
        "assets: ",
        "has a key that is not its own",
        f"its object {archived_jobs.key(refs[4])} is missing",
        f"its object {archived_jobs.key(refs[5])} has 7 bytes instead of 28",
        "the job is failed, but 1 of its 1 assets are archived",
    ]
    return dict(zip(refs, problems, strict=True))


def test_what_is_broken_is_named_and_the_other_jobs_are_restored(
    archived_jobs: ArchivedJobs,
) -> None:
    expected, intact = corrupt_seven_jobs(archived_jobs), archived_jobs.job()
    archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.problems.count, found.unknown.count) == (1, 7, 0)
    for (ref, problems), line in zip(expected.items(), found.problems.lines, strict=True):
        assert line.startswith(f"{manifest_key(ref)}: ")
        assert problems in line
    assert [job.ref for job in archived_jobs.ledger.queries.jobs()] == [intact]


def test_a_repaired_job_is_restored_by_the_next_run(directory_jobs: ArchivedJobs) -> None:
    ref = directory_jobs.job()
    key = directory_jobs.key(ref)
    with directory_jobs.store.open(key) as file:
        data = file.read()
    directory_jobs.remove(key)
    directory_jobs.empty_ledger()
    assert rebuild_ledger(directory_jobs).restored == 0
    put(directory_jobs.store, key, data)
    assert (rebuild_ledger(directory_jobs).restored, rebuild_ledger(directory_jobs).known) == (1, 1)


@pytest.mark.both_databases
def test_many_jobs_come_back_in_more_than_one_transaction_and_only_a_part_where_that_is_asked(
    directory_jobs: ArchivedJobs,
) -> None:
    root, day = Path(directory_jobs.store.locate("x")).parent, 86_400.0
    count = rebuild.FOLDERS_AT_ONCE + 5
    for _, objects in invented_jobs(count):
        write_files(root, objects)
    other = new_ref(1_790_000_000.0 + 40 * day)
    key = asset_key(other, 0, "png")
    write_files(
        root,
        {
            key: b"x",
            manifest_key(other): json.dumps(manifest_content(other, key, b"x", count)).encode(),
        },
    )
    folder = manifest_key(other).rpartition(f"/{other}")[0]
    assert rebuild_ledger(directory_jobs, below=folder).restored == 1
    shown: list[int] = []
    found = rebuild_ledger(directory_jobs, shown=shown)
    assert (found.restored, found.known, shown) == (count, 1, [rebuild.FOLDERS_AT_ONCE, count])
    assert directory_jobs.ledger.totals.audit().ok


def test_a_rebuild_that_is_stopped_has_whole_jobs_only_and_goes_on_later(
    directory_jobs: ArchivedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "FOLDERS_AT_ONCE", 3)
    for _, objects in invented_jobs(10):
        write_files(Path(directory_jobs.store.locate("x")).parent, objects)
    stopping = Event()

    class Stopping(list[int]):
        def append(self, _restored: int, /) -> None:
            stopping.set()

    found = rebuild_ledger(directory_jobs, stopping=stopping, shown=Stopping())
    assert found.restored == 3
    assert directory_jobs.ledger.totals.audit().ok
    assert (rebuild_ledger(directory_jobs).restored, rebuild_ledger(directory_jobs).known) == (
        7,
        10,
    )


def test_heavy_manifests_share_no_transaction_with_many_others(
    directory_jobs: ArchivedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BYTES_AT_ONCE", 3000)
    for _, objects in invented_jobs(6):
        write_files(Path(directory_jobs.store.locate("x")).parent, objects)
    shown: list[int] = []
    assert rebuild_ledger(directory_jobs, shown=shown).restored == 6
    assert len(shown) >= 3


def test_a_file_too_large_for_a_manifest_is_not_read(
    directory_jobs: ArchivedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = directory_jobs.job()
    monkeypatch.setattr(rebuild, "MAX_MANIFEST_SIZE", 100)
    directory_jobs.empty_ledger()
    found = rebuild_ledger(directory_jobs)
    assert found.problems.lines[0].startswith(f"{manifest_key(ref)}: ")
    assert found.problems.lines[0].endswith("bytes are not a manifest")


@pytest.mark.both_databases
def test_a_job_whose_rows_cannot_all_be_written_is_not_there(
    sqlite_url: str, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "archive")
    for _, objects in invented_jobs(2):
        write_files(tmp_path / "archive", objects)
    with opened(sqlite_url) as ledger:
        ledger.execute(
            "CREATE TRIGGER last BEFORE INSERT ON events WHEN NEW.type = 'job.archived' "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(IntegrityError):
            rebuild_ledger(ArchivedJobs(ledger, store))
        assert {table: rows for table, rows in ledger.everything().items() if rows} == {}
        ledger.execute("DROP TRIGGER last")
        assert rebuild_ledger(ArchivedJobs(ledger, store)).restored == 2


# An archive that fails


def test_an_archive_that_is_away_stops_it_and_a_manifest_that_cannot_be_read_does_not(
    ledger: LedgerHarness, bucket: str, proxy: FaultProxy
) -> None:
    with closing(S3Store(bucket, "p", limits=Limits(1, 5))) as store:
        archived_jobs = ArchivedJobs(ledger, store)
        unreadable, _ = archived_jobs.job(), archived_jobs.job()
        archived_jobs.empty_ledger()

        def fails_for_one(request: ProxyRequest, forward: Forward) -> ProxyResponse:
            return (
                s3_error(500, "InternalError")
                if unreadable in request.path and "list-type" not in request.path
                else forward(request)
            )

        proxy.rule = fails_for_one
        found = rebuild_ledger(archived_jobs)
        assert (found.restored, found.problems.count) == (1, 1)
        assert found.problems.lines[0].startswith(
            f"{manifest_key(unreadable)}: cannot read {manifest_key(unreadable)}"
        )
        proxy.rule = lambda _, __: s3_error(503, "SlowDown")
        with pytest.raises(StoreError, match="overloaded"):
            rebuild_ledger(archived_jobs)


def test_a_missing_archive_is_an_error(ledger: LedgerHarness, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mount it, or correct ARCHIVE_URL"):
        rebuild_ledger(ArchivedJobs(ledger, DirectoryStore(tmp_path / "nowhere")))
