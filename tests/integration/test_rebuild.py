"""A lost ledger comes back from the archive: on both databases, from a directory and from a bucket."""

import json
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from archives import BAD, LATE, SAFE, Home, made_up, put, told, write_files
from faultproxy import Answer, FaultProxy, Forward, Request, refusal
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


def rebuilt(
    home: Home, below: str = "", stopping: Event | None = None, shown: list[int] | None = None
) -> Rebuilt:
    show = (lambda found: shown.append(found.restored)) if shown is not None else bool
    books = home.books
    return Rebuilder(
        home.store,
        books.database,
        books.queries,
        job_timeout=books.timing.job_timeout,
        hands=4,
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


def test_every_state_a_manifest_can_have_comes_back_as_it_was(home: Home) -> None:
    refs = [
        home.job(SAFE, SAFE, key="order-4711"),
        home.job(SAFE, BAD),
        home.job(SAFE, LATE, BAD, mode=Mode.POLL),
        home.job(prompt=""),
    ]
    assert [home.books.job(ref).state for ref in refs] == [
        "archived",
        "failed",
        "expired",
        "archived",
    ]
    before = home.lose_the_ledger()
    found = rebuilt(home)
    assert (found.restored, found.pictures, found.known) == (4, 5, 0)
    assert (found.wrong.lines, found.unexplained.lines) == ([], [])
    after = home.books.everything()
    for kind, rows in comparable(before).items():
        assert comparable(after)[kind] == rows, kind
    assert [row["body"] for row in by_column(after, "deliveries")] == [b""] * 4
    assert {event["rebuilt"] for event in by_column(after, "events")} == {1}, (
        "or they were told anew"
    )
    assert home.books.totals.audit().ok


def test_a_key_is_spent_again_after_a_rebuild_and_an_operator_may_retry_what_was_lost(
    home: Home,
) -> None:
    lost = home.job(SAFE, BAD, key="order-4711")
    home.lose_the_ledger()
    rebuilt(home)
    with pytest.raises(KeyTakenError, match=f"belongs to job {lost}"):
        home.books.jobs.submit(
            Submission("a fox", "m", {}, key="order-4711"), "https://provider.test"
        )
    job = home.books.operator.retry(lost)
    assert (job.state, job.round, home.books.pending(lost)) == ("archiving", 1, [1])


def test_a_retried_job_comes_back_in_its_round_so_that_no_event_is_taken_for_an_earlier_one(
    here: Home,
) -> None:
    ref = here.job(SAFE, BAD)
    here.books.operator.retry(ref)
    (claimed,) = here.books.assets.claim(1)
    here.books.assets.give_up(claimed, LATE, "too late")
    here.conclude(ref)
    here.lose_the_ledger()
    rebuilt(here)
    assert (here.books.job(ref).round, here.books.job(ref).state, here.books.job(ref).message) == (
        1,
        "expired",
        "asset 1: too late",
    )
    assert here.books.totals.audit().ok


def test_a_rebuild_run_twice_changes_nothing_and_leaves_alone_what_the_ledger_has(
    home: Home,
) -> None:
    first, second = home.job(), home.job()
    home.lose_the_ledger()
    rebuilt(home)
    home.books.execute("UPDATE jobs SET prompt = 'changed since' WHERE ref = :ref", ref=first)
    home.books.execute("DELETE FROM events WHERE ref = :ref", ref=second)
    before = home.books.everything()
    found = rebuilt(home)
    assert (found.restored, found.known, found.wrong.count) == (0, 2, 0)
    assert home.books.everything() == before


def test_a_job_that_a_callback_has_adopted_meanwhile_stays_as_it_is(here: Home) -> None:
    ref = here.job()
    here.lose_the_ledger()
    here.books.deliver(ref, b'{"id": "task-1", "status": "running"}')
    found = rebuilt(here)
    assert (found.restored, found.known) == (0, 1)
    assert here.books.job(ref).state is JobState.WAITING


def test_a_job_in_flight_is_named_by_its_objects_and_nothing_is_invented(home: Home) -> None:
    safe, under_way = home.job(), home.under_way(SAFE, SAFE)
    keys = [home.key(under_way, idx) for idx in (0, 1)]
    home.lose_the_ledger()
    found = rebuilt(home)
    assert (found.restored, found.wrong.count, found.unexplained.lines) == (1, 0, keys)
    assert [job.ref for job in home.books.queries.jobs()] == [safe]
    home.books.deliver(
        under_way,
        b'{"id": "task-2", "status": "succeeded", "results": [{"url": "https://files.test/0.png"}]}',
    )
    assert rebuilt(home).unexplained.lines == [], "its callback has adopted it"


def test_objects_that_no_manifest_names_are_told(home: Home) -> None:
    ref = home.job()
    stray = asset_key(ref, 0, "jpg")
    put(home.store, stray, b"an earlier attempt")
    put(home.store, "readme.txt", b"of a stranger")
    home.lose_the_ledger()
    found = rebuilt(home)
    assert (found.restored, found.unexplained.lines) == (1, [stray, "readme.txt"])


def spoilt(home: Home) -> dict[str, str]:
    """Spoil a job in each way; return its ref with what is to be said."""
    refs = [home.job(prompt=f"fox {number}") for number in range(7)]
    home.spoil(manifest_key(refs[0]), b"{")
    home.edit(refs[1], format=2)
    home.edit(refs[2], assets=[])
    home.edit(refs[3], ref=refs[4])
    home.remove(home.key(refs[4]))
    home.spoil(home.key(refs[5]), b"shorter")
    home.edit(refs[6], state="failed")
    said = [
        "Invalid JSON",
        "format: Input should be 1",
        "assets: ",
        "has a key that is not its own",
        f"its object {home.key(refs[4])} is missing",
        f"its object {home.key(refs[5])} has 7 bytes instead of 28",
        "the job is failed, but 1 of its 1 assets are archived",
    ]
    return dict(zip(refs, said, strict=True))


def test_what_is_broken_is_named_and_does_not_keep_the_others_from_coming_back(home: Home) -> None:
    expected, whole = spoilt(home), home.job()
    home.lose_the_ledger()
    found = rebuilt(home)
    assert (found.restored, found.wrong.count, found.unexplained.count) == (1, 7, 0)
    for (ref, said), line in zip(expected.items(), found.wrong.lines, strict=True):
        assert line.startswith(f"{manifest_key(ref)}: ")
        assert said in line
    assert [job.ref for job in home.books.queries.jobs()] == [whole]


def test_what_was_mended_comes_back_with_the_next_run(here: Home) -> None:
    ref = here.job()
    key = here.key(ref)
    with here.store.open(key) as file:
        data = file.read()
    here.remove(key)
    here.lose_the_ledger()
    assert rebuilt(here).restored == 0
    put(here.store, key, data)
    assert (rebuilt(here).restored, rebuilt(here).known) == (1, 1)


def test_a_manifest_of_the_first_release_tells_reason_message_and_end_by_its_assets(
    here: Home,
) -> None:
    ref = here.job(SAFE, BAD)
    job = here.books.job(ref)
    with here.store.open(manifest_key(ref)) as file:
        content = json.loads(file.read())
    first = {
        name: value
        for name, value in content.items()
        if name not in {"reason", "message", "finished_at", "round"}
    }
    here.spoil(manifest_key(ref), json.dumps(first).encode())
    here.lose_the_ledger()
    rebuilt(here)
    back = here.books.job(ref)
    assert (
        (back.state, back.reason, back.message)
        == (job.state, job.reason, job.message)
        == ("failed", "bad_asset", "asset 1: asset failed")
    )
    assert back.finished_at == here.books.assets_of(ref)[1].finished_at


def test_a_key_and_an_id_that_another_job_has_by_now_are_left_to_it(home: Home) -> None:
    old = home.job(key="order-4711")
    home.lose_the_ledger()
    newer = home.books.jobs.submit(
        Submission("a fox", "m", {}, key="order-4711"), "https://provider.test"
    ).ref
    home.books.jobs.record_accepted(newer, "task-1")
    found = rebuilt(home)
    assert (found.restored, found.wrong.count) == (1, 1)
    assert (
        f"{old} is restored without its provider's id 'task-1', which job {newer} has and its key 'order-4711'"
        in found.wrong.lines[0]
    )
    assert (
        home.books.job(old).key,
        home.books.job(old).provider_id,
        home.books.job(newer).key,
    ) == (None, None, "order-4711")


def test_of_two_manifests_with_one_key_the_elder_has_it(here: Home) -> None:
    (first, one), (second, two) = made_up(2)
    for objects in (one, two):
        write_files(Path(here.store.locate("x")).parent, objects)
    here.edit(second, key="order-0")
    found = rebuilt(here)
    assert (here.books.job(first).key, here.books.job(second).key, found.restored) == (
        "order-0",
        None,
        2,
    )


def test_many_jobs_come_back_in_more_than_one_transaction_and_only_a_part_where_that_is_asked(
    here: Home,
) -> None:
    root, day = Path(here.store.locate("x")).parent, 86_400.0
    count = rebuild.FOLDERS_AT_ONCE + 5
    for _, objects in made_up(count):
        write_files(root, objects)
    other = new_ref(1_790_000_000.0 + 40 * day)
    key = asset_key(other, 0, "png")
    write_files(
        root, {key: b"x", manifest_key(other): json.dumps(told(other, key, b"x", count)).encode()}
    )
    folder = manifest_key(other).rpartition(f"/{other}")[0]
    assert rebuilt(here, below=folder).restored == 1
    shown: list[int] = []
    found = rebuilt(here, shown=shown)
    assert (found.restored, found.known, shown) == (count, 1, [rebuild.FOLDERS_AT_ONCE, count])
    assert here.books.totals.audit().ok


def test_a_rebuild_that_is_stopped_has_whole_jobs_only_and_goes_on_later(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "FOLDERS_AT_ONCE", 3)
    for _, objects in made_up(10):
        write_files(Path(here.store.locate("x")).parent, objects)
    stopping = Event()

    class Stopping(list[int]):
        def append(self, _restored: int, /) -> None:
            stopping.set()

    found = rebuilt(here, stopping=stopping, shown=Stopping())
    assert found.restored == 3
    assert here.books.totals.audit().ok
    assert (rebuilt(here).restored, rebuilt(here).known) == (7, 10)


def test_heavy_manifests_share_no_transaction_with_many_others(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BYTES_AT_ONCE", 3000)
    for _, objects in made_up(6):
        write_files(Path(here.store.locate("x")).parent, objects)
    shown: list[int] = []
    assert rebuilt(here, shown=shown).restored == 6
    assert len(shown) >= 3


def test_a_file_too_large_for_a_manifest_is_not_read(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = here.job()
    monkeypatch.setattr(rebuild, "LARGEST", 100)
    here.lose_the_ledger()
    found = rebuilt(here)
    assert found.wrong.lines[0].startswith(f"{manifest_key(ref)}: ")
    assert found.wrong.lines[0].endswith("bytes are no manifest")


def test_a_job_whose_rows_cannot_all_be_written_is_not_there(
    sqlite_url: str, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "archive")
    for _, objects in made_up(2):
        write_files(tmp_path / "archive", objects)
    with opened(sqlite_url) as books:
        books.execute(
            "CREATE TRIGGER last BEFORE INSERT ON events WHEN NEW.type = 'job.archived' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(IntegrityError):
            rebuilt(Home(books, store))
        assert {table: rows for table, rows in books.everything().items() if rows} == {}
        books.execute("DROP TRIGGER last")
        assert rebuilt(Home(books, store)).restored == 2


# An archive that fails


def test_an_archive_that_is_away_stops_it_and_a_manifest_that_cannot_be_read_does_not(
    books: Books, bucket: str, proxy: FaultProxy
) -> None:
    with closing(S3Store(bucket, "p", timeouts=(1, 5))) as store:
        home = Home(books, store)
        stuck, _ = home.job(), home.job()
        home.lose_the_ledger()

        def fails_for_one(request: Request, forward: Forward) -> Answer:
            return (
                refusal(500, "InternalError")
                if stuck in request.path and "list-type" not in request.path
                else forward(request)
            )

        proxy.rule = fails_for_one
        found = rebuilt(home)
        assert (found.restored, found.wrong.count) == (1, 1)
        assert found.wrong.lines[0].startswith(
            f"{manifest_key(stuck)}: cannot read {manifest_key(stuck)}"
        )
        proxy.rule = lambda _, __: refusal(503, "SlowDown")
        with pytest.raises(StoreError, match="overloaded"):
            rebuilt(home)


def test_an_archive_that_is_not_there_is_told(books: Books, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mount it, or correct ARCHIVE_URL"):
        rebuilt(Home(books, DirectoryStore(tmp_path / "nowhere")))
