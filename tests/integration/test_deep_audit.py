"""The deep audit finds every kind of damage, names it, and is content with an archive that has none."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import pytest
from archives import BAD, SAFE, Home, made_up, put, write_files
from faultproxy import Answer, FaultProxy, Forward, Request, refusal
from ledgers import Books
from seaweed import S3Server

from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.stores.s3 import S3Store
from receiver.errors import StoreError
from receiver.maintenance import checkpoint, deep_audit
from receiver.maintenance.checkpoint import Checkpoint, Step
from receiver.maintenance.deep_audit import DeepAudit, Interrupted
from receiver.maintenance.prune import Pruner
from receiver.maintenance.rebuild import Rebuilder

URL = "file:///some/archive"


def audited(
    home: Home,
    place: Checkpoint | None = None,
    *,
    stopping: Event | None = None,
    show: Callable[[], object] = bool,
) -> Checkpoint:
    """Audit what is left from a place on; return the place then."""
    place = place or Checkpoint(archive=URL)
    DeepAudit(
        home.store, home.books.queries, place, hands=4, stopping=stopping or Event(), show=show
    ).run()
    return place


def test_what_is_whole_is_found_whole_whatever_became_of_the_jobs(home: Home) -> None:
    home.job(SAFE, SAFE)
    home.job(SAFE, BAD)
    home.job(BAD)
    home.books.expired("never-heard-of")
    home.under_way(SAFE, SAFE)
    home.books.waiting("going-on")
    place = audited(home)
    assert place.named == []
    assert (place.jobs, place.pictures, place.names, place.step) == (6, 5, 7, Step.NAMES)


def planted(home: Home) -> list[str]:
    """Plant damage of each kind; return what is to be said of it."""
    refs = [home.job(SAFE, SAFE) for _ in range(8)]
    keys = [home.key(ref) for ref in refs]
    home.remove(keys[0])
    home.spoil(keys[1], b"Q" * 28)
    home.spoil(keys[2], b"cut")
    home.remove(manifest_key(refs[3]))
    home.spoil(manifest_key(refs[4]), b"{}")
    home.edit(refs[5], state="archived", assets=[content_of(home, refs[5])["assets"][0]])
    stray, nobodys = asset_key(refs[6], 0, "jpg"), asset_key("01JZ2Q7V3N0123456789ABCDEF", 0, "png")
    for key in (stray, nobodys, "readme.txt"):
        put(home.store, key, b"of somebody else")
    return [
        f"missing: {keys[0]} (job {refs[0]})",
        f"differs: {keys[1]} (job {refs[1]}): its SHA-256 is ",
        f"differs: {keys[2]} (job {refs[2]}): it has 3 bytes instead of 28",
        f"manifest missing: {manifest_key(refs[3])} (job {refs[3]})",
        f"manifest unreadable: {manifest_key(refs[4])} (job {refs[4]}): format: Field required",
        f"manifest differs: {manifest_key(refs[5])} (job {refs[5]}): it says something else of asset 1",
        f"unknown object: {stray} (job {refs[6]} does not name it)",
        f"unknown object: {nobodys} (there is no job 01JZ2Q7V3N0123456789ABCDEF)",
        "unknown object: readme.txt",
    ]


def content_of(home: Home, ref: str) -> dict[str, Any]:
    with home.store.open(manifest_key(ref)) as file:
        return dict(json.loads(file.read()))


def test_damage_of_every_kind_is_found_and_named_once(home: Home) -> None:
    expected = planted(home)
    place = audited(home)
    assert place.differences == len(place.named) == len(expected)
    assert [
        said for said in expected if sum(line.startswith(said) for line in place.named) != 1
    ] == []


def test_what_the_ledger_has_forgotten_is_held_against_its_manifest(home: Home) -> None:
    whole, spoilt, unexplained, robbed = refs = [home.job(SAFE, SAFE) for _ in range(4)]
    stray, key, gone = asset_key(whole, 7, "webp"), home.key(spoilt), home.key(robbed)
    put(home.store, stray, b"of nobody")
    home.spoil(key, b"Q" * 28)
    home.remove(manifest_key(unexplained))
    home.remove(gone)
    newest = home.books.failed("task-newest")  # it stays, so that its numbers are not given twice
    went, _, _ = Pruner(home.books.database).jobs(home.books.clock.now + 9e6)
    assert (went, [job.ref for job in home.books.queries.jobs()]) == (len(refs), [newest])
    place = audited(home)
    assert (place.jobs, place.pictures, place.names, place.forgotten) == (1, 0, 11, 8)
    assert sorted(line.partition(": its SHA-256")[0] for line in place.named) == sorted(
        [
            f"unknown object: {stray} (there is no job {whole}, and its manifest does not name it)",
            f"differs: {key} (job {spoilt})",
            f"missing: {gone} (job {robbed})",
            *(
                f"unknown object: {asset_key(unexplained, number, 'png')} (there is no job {unexplained})"
                for number in range(2)
            ),
        ]
    )


def test_an_object_that_its_own_metadata_calls_damaged_is_named(
    books: Books, bucket: str, s3_server: S3Server
) -> None:
    with closing(S3Store(bucket)) as store:
        home = Home(books, store)
        key = home.key(home.job())
        s3_server.client.put_object(
            Bucket=bucket, Key=key, Body=b"rotten", Metadata={"sha256": "0" * 64}
        )
        place = audited(home)
        assert place.differences == 1
        assert place.named[0].startswith((f"unreadable: {key}", f"differs: {key}"))


def test_a_few_hundred_jobs_are_audited_page_by_page_and_a_rebuilt_ledger_agrees_with_its_archive(
    here: Home,
) -> None:
    count = deep_audit.JOBS_AT_ONCE + 50
    for _, objects in made_up(count):
        write_files(Path(here.store.locate("x")).parent, objects)
    books, shown = here.books, []
    Rebuilder(
        here.store,
        books.database,
        books.queries,
        job_timeout=3600.0,
        hands=4,
        stopping=Event(),
        show=bool,
    ).run()
    place = audited(here, show=lambda: shown.append(1))
    assert (place.jobs, place.pictures, place.names, place.named) == (count, count, 2 * count, [])
    assert len(shown) == count + 1


def test_an_object_that_is_just_being_archived_is_no_stranger(here: Home) -> None:
    ref = here.books.archiving(2)
    put(here.store, asset_key(ref, 1, "webp"), b"put, but its end is not told yet")
    assert audited(here).named == []
    put(here.store, asset_key(ref, 2, "webp"), b"of an asset that there is not")
    assert audited(here).named == [
        f"unknown object: {asset_key(ref, 2, 'webp')} (job {ref} does not name it)"
    ]


def test_a_job_that_changes_while_it_is_looked_at_is_looked_at_again(here: Home) -> None:
    class Meddled(DirectoryStore):
        """An archive whose operator retries a job while its manifest is read."""

        def open(self, key: str, start: int = 0) -> BinaryIO:
            if key == manifest_key(ref) and here.books.job(ref).finished_at is not None:
                here.books.operator.retry(ref)
            return super().open(key, start)

    ref = here.job(SAFE, BAD)
    here.remove(manifest_key(ref))
    here.store = Meddled(Path(here.store.locate("x")).parent)
    assert audited(here).named == [], "in flight again: its manifest will be written anew"


def test_a_stopped_audit_goes_on_where_it_was_and_finds_everything_once(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_audit, "JOBS_AT_ONCE", 3)
    monkeypatch.setattr(deep_audit, "NAMES_AT_ONCE", 3)
    expected, place, stops = planted(here), Checkpoint(archive=URL), 0
    while True:
        stopping = Event()
        try:
            audited(here, place, stopping=stopping, show=stopping.set)
        except Interrupted:
            stops += 1
            continue
        break
    assert stops > 5
    assert [
        said for said in expected if sum(line.startswith(said) for line in place.named) != 1
    ] == []
    assert (place.differences, place.jobs) == (len(expected), 8)


def test_an_audit_asked_to_stop_leaves_a_long_object_in_the_middle(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_audit, "CHUNK", 1)
    stopping = Event()
    here.job()
    stopping.set()
    place = Checkpoint(archive=URL)
    with pytest.raises(Interrupted):
        audited(here, place, stopping=stopping)
    assert (place.jobs, place.named) == (0, [])


def test_an_empty_archive_is_away_and_not_every_picture_missing(home: Home) -> None:
    ref = home.job()
    home.remove(home.key(ref))
    home.remove(manifest_key(ref))
    place = Checkpoint(archive=URL)
    with pytest.raises(
        StoreError, match="the archive holds no object at all: mount it, or correct ARCHIVE_URL"
    ):
        audited(home, place)
    assert (place.jobs, place.named) == (0, [])


def test_an_archive_that_goes_away_stops_the_audit_with_its_place_kept(
    books: Books, bucket: str, proxy: FaultProxy
) -> None:
    with closing(S3Store(bucket, timeouts=(1, 5))) as store:
        home = Home(books, store)
        first, second = home.job(), home.job()  # the newer one is looked at first
        place = Checkpoint(archive=URL)

        def goes_away() -> None:
            proxy.rule = lambda _, __: refusal(503, "SlowDown")

        with pytest.raises(StoreError, match="overloaded"):
            DeepAudit(store, books.queries, place, hands=1, stopping=Event(), show=goes_away).run()
        assert place.after in {first, second}
        proxy.rule = lambda request, forward: forward(request)
        assert (audited(home, place).jobs, place.named) == (2, [])


def test_one_cut_connection_is_no_damage_and_an_object_that_never_comes_is_named(
    books: Books, bucket: str, proxy: FaultProxy
) -> None:
    with closing(S3Store(bucket, timeouts=(1, 5))) as store:
        home = Home(books, store)
        shaky, stuck = home.key(home.job()), home.key(home.job())
        cut: list[str] = []

        def cuts(request: Request, forward: Forward) -> Answer | None:
            if request.path.endswith(stuck) or (request.path.endswith(shaky) and not cut):
                cut.append(request.path)
                return None
            return forward(request)

        proxy.rule = cuts
        place = audited(home)
        assert [line.partition(" (")[0] for line in place.named] == [f"unreadable: {stuck}"]


# The place


def test_a_place_is_kept_and_found_again_whatever_was_found(tmp_path: Path) -> None:
    place = Checkpoint(archive=URL)
    place.passed("A", ["unknown object: \ud800\n"], jobs=1, pictures=2)
    place.go_to(Step.NAMES)
    place.passed("a\udc80b", [], names=3)
    checkpoint.save(tmp_path / "place.json", place)
    again = checkpoint.load(tmp_path / "place.json", URL)
    assert again is not None
    assert (again.step, again.jobs, again.pictures, again.names, again.differences) == (
        Step.NAMES,
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
    monkeypatch.setattr(checkpoint, "MOST_NAMED", 3)
    place = Checkpoint(archive=URL)
    for number in range(3):
        place.passed(str(number), [f"{number} a", f"{number} b"])
    assert (place.differences, place.named) == (6, ["0 a", "0 b", "1 a"])
