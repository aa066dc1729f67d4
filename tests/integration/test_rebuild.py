"""A lost ledger is rebuilt from the archive: on both databases, from a directory and a bucket."""

import json
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from archives import (
    BAD,
    LATE,
    SAFE,
    ArchivedJobs,
    invented_jobs,
    manifest_content,
    put,
    write_files,
)
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, s3_error
from ledgers import Books, opened
from sqlalchemy.exc import IntegrityError

from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.stores.s3 import S3Store
from receiver.errors import KeyTakenError, StoreError
from receiver.ledger.tables import metadata
from receiver.maintenance import rebuild
from receiver.maintenance.rebuild import Rebuilder, Rebuilt
from receiver.model import JobState, Mode, Submission, new_ref


def rebuild_ledger(
    archived_jobs: ArchivedJobs,
    below: str = "",
    stopping: Event | None = None,
    shown: list[int] | None = None,
) -> Rebuilt:
    show = (lambda found: shown.append(found.restored)) if shown is not None else bool
    books = archived_jobs.books
    return Rebuilder(
        archived_jobs.store,
        books.database,
        books.queries,
        job_timeout=books.timing.job_timeout,
        threads=4,
        stopping=stopping or Event(),
        show=show,
    ).run(below)


def by_column(
    rows: dict[str, list[tuple[Any, ...]]], table: str, *, but: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return a table's rows with names, without what a manifest does not tell."""
    names = [column.name for column in metadata.tables[table].columns]
    return [
        {name: value for name, value in zip(names, row, strict=True) if name not in but}
        for row in rows[table]
    ]


def comparable(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """Return all that a rebuild has to bring back."""
    events = [
        {**event, "payload": json.loads(event["payload"])}
        for event in by_column(rows, "events", but=("id", "rebuilt"))
    ]
    return {
        "jobs": by_column(rows, "jobs", but=("attempts",)),
        "assets": by_column(rows, "assets"),
        "deliveries": by_column(rows, "deliveries", but=("id", "body")),
        "events": sorted(
            events,
            key=lambda event: (event["ref"], event["created_at"], event["idx"] == -1, event["idx"]),
        ),
    }


@pytest.mark.both_databases
def test_every_state_a_manifest_can_have_comes_back_as_it_was(archived_jobs: ArchivedJobs) -> None:
    refs = [
        archived_jobs.job(SAFE, SAFE, key="order-4711"),
        archived_jobs.job(SAFE, BAD),
        archived_jobs.job(SAFE, LATE, BAD, mode=Mode.POLL),
        archived_jobs.job(prompt=""),
    ]
    assert [archived_jobs.books.job(ref).state for ref in refs] == [
        "archived",
        "failed",
        "expired",
        "archived",
    ]
    before = archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.pictures, found.known) == (4, 5, 0)
    assert (found.problems.lines, found.unknown.lines) == ([], [])
    after = archived_jobs.books.everything()
    for kind, rows in comparable(before).items():
        assert comparable(after)[kind] == rows, kind
    assert [row["body"] for row in by_column(after, "deliveries")] == [b""] * 4
    assert {event["rebuilt"] for event in by_column(after, "events")} == {1}, (
        "or they would be sent again"
    )
    assert archived_jobs.books.totals.audit().ok


@pytest.mark.both_databases
def test_a_key_is_spent_again_after_a_rebuild_and_an_operator_may_retry_what_was_lost(
    archived_jobs: ArchivedJobs,
) -> None:
    lost = archived_jobs.job(SAFE, BAD, key="order-4711")
    archived_jobs.empty_ledger()
    rebuild_ledger(archived_jobs)
    with pytest.raises(KeyTakenError, match=f"belongs to job {lost}"):
        archived_jobs.books.jobs.submit(
            Submission("a fox", "m", {}, key="order-4711"), "https://provider.test"
        )
    job = archived_jobs.books.operator.retry(lost)
    assert (job.state, job.round, archived_jobs.books.pending(lost)) == ("archiving", 1, [1])


def test_a_retried_job_comes_back_in_its_round_so_that_no_event_is_taken_for_an_earlier_one(
    directory_jobs: ArchivedJobs,
) -> None:
    ref = directory_jobs.job(SAFE, BAD)
    directory_jobs.books.operator.retry(ref)
    (claimed,) = directory_jobs.books.assets.claim(1)
    directory_jobs.books.assets.give_up(claimed, LATE, "too late")
    directory_jobs.conclude(ref)
    directory_jobs.empty_ledger()
    rebuild_ledger(directory_jobs)
    assert (
        directory_jobs.books.job(ref).round,
        directory_jobs.books.job(ref).state,
        directory_jobs.books.job(ref).message,
    ) == (
        1,
        "expired",
        "asset 1: too late",
    )
    assert directory_jobs.books.totals.audit().ok


@pytest.mark.both_databases
def test_a_rebuild_run_twice_changes_nothing_and_leaves_alone_what_the_ledger_has(
    archived_jobs: ArchivedJobs,
) -> None:
    first, second = archived_jobs.job(), archived_jobs.job()
    archived_jobs.empty_ledger()
    rebuild_ledger(archived_jobs)
    archived_jobs.books.execute(
        "UPDATE jobs SET prompt = 'changed since' WHERE ref = :ref", ref=first
    )
    archived_jobs.books.execute("DELETE FROM events WHERE ref = :ref", ref=second)
    before = archived_jobs.books.everything()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.known, found.problems.count) == (0, 2, 0)
    assert archived_jobs.books.everything() == before


@pytest.mark.both_databases
def test_a_job_that_a_callback_has_adopted_meanwhile_stays_as_it_is(
    directory_jobs: ArchivedJobs,
) -> None:
    ref = directory_jobs.job()
    directory_jobs.empty_ledger()
    directory_jobs.books.deliver(ref, b'{"id": "task-1", "status": "running"}')
    found = rebuild_ledger(directory_jobs)
    assert (found.restored, found.known) == (0, 1)
    assert directory_jobs.books.job(ref).state is JobState.WAITING


@pytest.mark.both_databases
def test_a_job_in_flight_is_named_by_its_objects_and_nothing_is_invented(
    archived_jobs: ArchivedJobs,
) -> None:
    safe, unfinished = archived_jobs.job(), archived_jobs.unfinished(SAFE, SAFE)
    keys = [archived_jobs.key(unfinished, idx) for idx in (0, 1)]
    archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.problems.count, found.unknown.lines) == (1, 0, keys)
    assert [job.ref for job in archived_jobs.books.queries.jobs()] == [safe]
    archived_jobs.books.deliver(
        unfinished,
        b'{"id": "task-2", "status": "succeeded", "results": [{"url": "https://files.test/0.png"}]}',
    )
    assert rebuild_ledger(archived_jobs).unknown.lines == [], "its callback has adopted it"


def test_objects_that_no_manifest_names_are_reported(archived_jobs: ArchivedJobs) -> None:
    ref = archived_jobs.job()
    stray = asset_key(ref, 0, "jpg")
    put(archived_jobs.store, stray, b"an earlier attempt")
    put(archived_jobs.store, "readme.txt", b"not ours")
    archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.unknown.lines) == (1, [stray, "readme.txt"])


def corrupt_seven_jobs(archived_jobs: ArchivedJobs) -> dict[str, str]:
    """Spoil a job in each way; return its ref with what is to be said."""
    refs = [archived_jobs.job(prompt=f"fox {number}") for number in range(7)]
    archived_jobs.corrupt(manifest_key(refs[0]), b"{")
    archived_jobs.edit_manifest(refs[1], format=2)
    archived_jobs.edit_manifest(refs[2], assets=[])
    archived_jobs.edit_manifest(refs[3], ref=refs[4])
    archived_jobs.remove(archived_jobs.key(refs[4]))
    archived_jobs.corrupt(archived_jobs.key(refs[5]), b"shorter")
    archived_jobs.edit_manifest(refs[6], state="failed")
    said = [
        "Invalid JSON",
        "format: Input should be 1",
        "assets: ",
        "has a key that is not its own",
        f"its object {archived_jobs.key(refs[4])} is missing",
        f"its object {archived_jobs.key(refs[5])} has 7 bytes instead of 28",
        "the job is failed, but 1 of its 1 assets are archived",
    ]
    return dict(zip(refs, said, strict=True))


def test_what_is_broken_is_named_and_does_not_keep_the_others_from_coming_back(
    archived_jobs: ArchivedJobs,
) -> None:
    expected, whole = corrupt_seven_jobs(archived_jobs), archived_jobs.job()
    archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.problems.count, found.unknown.count) == (1, 7, 0)
    for (ref, said), line in zip(expected.items(), found.problems.lines, strict=True):
        assert line.startswith(f"{manifest_key(ref)}: ")
        assert said in line
    assert [job.ref for job in archived_jobs.books.queries.jobs()] == [whole]


def test_what_was_mended_comes_back_with_the_next_run(directory_jobs: ArchivedJobs) -> None:
    ref = directory_jobs.job()
    key = directory_jobs.key(ref)
    with directory_jobs.store.open(key) as file:
        data = file.read()
    directory_jobs.remove(key)
    directory_jobs.empty_ledger()
    assert rebuild_ledger(directory_jobs).restored == 0
    put(directory_jobs.store, key, data)
    assert (rebuild_ledger(directory_jobs).restored, rebuild_ledger(directory_jobs).known) == (1, 1)


def test_a_manifest_of_the_first_release_tells_reason_message_and_end_by_its_assets(
    directory_jobs: ArchivedJobs,
) -> None:
    ref = directory_jobs.job(SAFE, BAD)
    job = directory_jobs.books.job(ref)
    with directory_jobs.store.open(manifest_key(ref)) as file:
        content = json.loads(file.read())
    first = {
        name: value
        for name, value in content.items()
        if name not in {"reason", "message", "finished_at", "round"}
    }
    directory_jobs.corrupt(manifest_key(ref), json.dumps(first).encode())
    directory_jobs.empty_ledger()
    rebuild_ledger(directory_jobs)
    back = directory_jobs.books.job(ref)
    assert (
        (back.state, back.reason, back.message)
        == (job.state, job.reason, job.message)
        == ("failed", "bad_asset", "asset 1: asset failed")
    )
    assert back.finished_at == directory_jobs.books.assets_of(ref)[1].finished_at


@pytest.mark.both_databases
def test_a_key_and_an_id_that_another_job_has_by_now_are_left_to_it(
    archived_jobs: ArchivedJobs,
) -> None:
    old = archived_jobs.job(key="order-4711")
    archived_jobs.empty_ledger()
    newer = archived_jobs.books.jobs.submit(
        Submission("a fox", "m", {}, key="order-4711"), "https://provider.test"
    ).ref
    archived_jobs.books.jobs.record_accepted(newer, "task-1")
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.problems.count) == (1, 1)
    assert (
        f"{old} is restored without its provider's id 'task-1', which job {newer} has "
        "and its key 'order-4711'" in found.problems.lines[0]
    )
    assert (
        archived_jobs.books.job(old).key,
        archived_jobs.books.job(old).provider_id,
        archived_jobs.books.job(newer).key,
    ) == (None, None, "order-4711")


def test_of_two_manifests_with_one_key_the_elder_has_it(directory_jobs: ArchivedJobs) -> None:
    (first, one), (second, two) = invented_jobs(2)
    for objects in (one, two):
        write_files(Path(directory_jobs.store.locate("x")).parent, objects)
    directory_jobs.edit_manifest(second, key="order-0")
    found = rebuild_ledger(directory_jobs)
    assert (
        directory_jobs.books.job(first).key,
        directory_jobs.books.job(second).key,
        found.restored,
    ) == (
        "order-0",
        None,
        2,
    )


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
    assert directory_jobs.books.totals.audit().ok


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
    assert directory_jobs.books.totals.audit().ok
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
    assert found.problems.lines[0].endswith("bytes are no manifest")


@pytest.mark.both_databases
def test_a_job_whose_rows_cannot_all_be_written_is_not_there(
    sqlite_url: str, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "archive")
    for _, objects in invented_jobs(2):
        write_files(tmp_path / "archive", objects)
    with opened(sqlite_url) as books:
        books.execute(
            "CREATE TRIGGER last BEFORE INSERT ON events WHEN NEW.type = 'job.archived' "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(IntegrityError):
            rebuild_ledger(ArchivedJobs(books, store))
        assert {table: rows for table, rows in books.everything().items() if rows} == {}
        books.execute("DROP TRIGGER last")
        assert rebuild_ledger(ArchivedJobs(books, store)).restored == 2


# An archive that fails


def test_an_archive_that_is_away_stops_it_and_a_manifest_that_cannot_be_read_does_not(
    books: Books, bucket: str, proxy: FaultProxy
) -> None:
    with closing(S3Store(bucket, "p", timeouts=(1, 5))) as store:
        archived_jobs = ArchivedJobs(books, store)
        stuck, _ = archived_jobs.job(), archived_jobs.job()
        archived_jobs.empty_ledger()

        def fails_for_one(request: ProxyRequest, forward: Forward) -> ProxyResponse:
            return (
                s3_error(500, "InternalError")
                if stuck in request.path and "list-type" not in request.path
                else forward(request)
            )

        proxy.rule = fails_for_one
        found = rebuild_ledger(archived_jobs)
        assert (found.restored, found.problems.count) == (1, 1)
        assert found.problems.lines[0].startswith(
            f"{manifest_key(stuck)}: cannot read {manifest_key(stuck)}"
        )
        proxy.rule = lambda _, __: s3_error(503, "SlowDown")
        with pytest.raises(StoreError, match="overloaded"):
            rebuild_ledger(archived_jobs)


def test_a_missing_archive_is_an_error(books: Books, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mount it, or correct ARCHIVE_URL"):
        rebuild_ledger(ArchivedJobs(books, DirectoryStore(tmp_path / "nowhere")))
