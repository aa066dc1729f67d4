"""What only a directory can suffer: files in the way, missing disks, full disks, killed writers."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from processes import python

from receiver.archive.stores.archive_url import open_store
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

KEY = "2026/07/01/REF/0.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the path of the archive, which does not exist yet."""
    return tmp_path / "archive"


def put(root: Path, data: bytes, key: str = KEY) -> None:
    source = root.parent / "fetched"
    source.write_bytes(data)
    DirectoryStore(root).put(
        key, source, sha256=hashlib.sha256(data).hexdigest(), content_type="image/png"
    )


def test_nothing_is_made_before_it_is_needed(root: Path) -> None:
    open_store(f"file://{root}")
    assert not root.exists()


def test_objects_are_plain_files_that_others_may_not_read(root: Path) -> None:
    put(root, b"picture")
    assert (root / KEY).read_bytes() == b"picture"
    assert stat.S_IMODE((root / KEY).stat().st_mode) == 0o640
    assert (root / KEY).stat().st_nlink == 1


def test_a_file_on_the_archive_s_file_system_becomes_the_object_itself(root: Path) -> None:
    source = root.parent / "fetched"
    source.write_bytes(b"picture")
    number = source.stat().st_ino
    put(root, b"picture")
    assert (root / KEY).stat().st_ino == number
    assert not source.exists()


def test_a_file_that_changed_after_it_was_hashed_is_hashed_again(root: Path) -> None:
    source = root.parent / "fetched"
    source.write_bytes(b"picture")
    hashed, sha256 = source.stat(), hashlib.sha256(b"picture").hexdigest()
    source.write_bytes(b"another")
    with pytest.raises(StoreError, match="the file changed"):
        DirectoryStore(root).put(
            KEY, source, sha256=sha256, content_type="image/png", hashed=hashed
        )
    assert not (root / KEY).exists()


def test_writing_to_the_fetched_file_later_leaves_the_object_alone(root: Path) -> None:
    put(root, b"picture")
    (root.parent / "fetched").write_bytes(b"the next fetch")
    assert (root / KEY).read_bytes() == b"picture"


def test_nothing_hidden_is_left_after_any_kind_of_put(root: Path) -> None:
    put(root, b"picture")
    put(root, b"picture")
    with pytest.raises(ObjectDiffersError):
        put(root, b"other")
    DirectoryStore(root).replace("2026/07/01/REF/job.json", b"{}", content_type="application/json")
    DirectoryStore(root).check()
    assert list((root / ".tmp").iterdir()) == []


def test_a_missing_disk_is_not_replaced_by_a_directory_of_its_name(root: Path) -> None:
    with pytest.raises(
        StoreError, match=f"no directory {root}/disk to hold the archive: create or mount it"
    ):
        DirectoryStore(root / "disk" / "archive").check()
    assert not root.exists()


def test_a_file_in_place_of_the_directory_is_named(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StoreError, match=f"{root}: a file stands where a directory should be"):
        DirectoryStore(root).check()


def test_an_object_in_place_of_a_directory_is_named(root: Path) -> None:
    put(root, b"picture", key="2026")
    with pytest.raises(
        StoreError, match=f"cannot store {KEY} .*: a file stands where a directory should be"
    ):
        put(root, b"picture")
    with pytest.raises(MissingObjectError):
        DirectoryStore(root).open(KEY)


def test_a_directory_is_no_object(root: Path) -> None:
    put(root, b"picture")
    with pytest.raises(MissingObjectError):
        DirectoryStore(root).open("2026/07")
    with pytest.raises(StoreError):
        put(root, b"picture", key="2026/07")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "mounted read-only: mount it read-write"),
        (errno.EACCES, "give this user the right to write there"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_an_error_of_the_disk_says_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    DirectoryStore(root).check()
    with monkeypatch.context() as disk:  # a full disk cannot be had here without being root
        disk.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match=f"{root}: .*{remedy}"):
            put(root, b"picture")
    assert not (root / KEY).exists()
    assert list((root / ".tmp").iterdir()) == []


def test_a_put_cut_off_by_a_full_file_system_leaves_nothing(root: Path) -> None:
    limited = f"""
import resource
from pathlib import Path
from receiver.archive.stores.directory import DirectoryStore
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
DirectoryStore(Path({str(root)!r})).replace({KEY!r}, bytes(1_000_000), content_type="image/png")
"""
    run = subprocess.run(
        [sys.executable, "-c", limited], capture_output=True, text=True, check=False, timeout=30
    )
    assert "StoreError: cannot store" in run.stderr
    assert "File too large" in run.stderr
    assert [path.name for path in root.iterdir()] == [".tmp"]
    assert list((root / ".tmp").iterdir()) == []


def test_a_killed_put_leaves_nothing_visible_and_the_next_process_removes_the_rest(
    root: Path,
) -> None:
    slow = root.parent / "slow"
    os.mkfifo(slow)
    script = f"""
from pathlib import Path
from receiver.archive.stores.directory import DirectoryStore
store = DirectoryStore(Path({str(root)!r}))
store.put({KEY!r}, Path({str(slow)!r}), sha256="", content_type="image/png")
"""
    with python("-c", script) as writer, slow.open("wb", buffering=0) as source:
        source.write(bytes(300_000))  # more than is read at once
        other = DirectoryStore(root)
        wait_until_it_writes(root)
        other.check()  # sweeps too, but the writer is alive
        assert len(list((root / ".tmp").iterdir())) == 1
        writer.kill()
        writer.ended()
    assert [path.name for path in root.iterdir()] == [".tmp"]
    assert len(list((root / ".tmp").iterdir())) == 1
    put(root, b"picture")
    assert list((root / ".tmp").iterdir()) == []
    assert (root / KEY).read_bytes() == b"picture"


def wait_until_it_writes(root: Path) -> None:
    pause = threading.Event()
    for _ in range(1000):
        with suppress(FileNotFoundError):
            if any(path.stat().st_size for path in (root / ".tmp").iterdir()):
                return
        pause.wait(0.01)
    pytest.fail("the writer never wrote")


# An archive that was there once and went away: a disk not mounted, a directory moved.

AWAY = "mount it, or correct ARCHIVE_URL"


@pytest.fixture
def known(root: Path) -> DirectoryStore:
    """Give the store of a running process, with an object in it."""
    store = DirectoryStore(root)
    put_in(store, root, b"picture")
    return store


def put_in(store: DirectoryStore, root: Path, data: bytes, key: str = KEY) -> None:
    source = root.parent / "fetched"
    source.write_bytes(data)
    store.put(key, source, sha256=hashlib.sha256(data).hexdigest(), content_type="image/png")


def every_use(store: DirectoryStore, root: Path) -> list[Callable[[], object]]:
    return [
        store.check,
        partial(put_in, store, root, b"picture", "2026/07/02/REF/0.png"),
        partial(store.replace, "2026/07/02/REF/job.json", b"{}", content_type="application/json"),
        lambda: store.open(KEY).close(),
        lambda: list(store.keys()),
    ]


def moved(root: Path) -> Path:
    return root.rename(root.with_name("moved"))


def dismounted(root: Path) -> Path:
    """Move the archive away and leave what a mount that went away leaves: an empty directory."""
    away = moved(root)
    root.mkdir()
    return away


def without_note(root: Path) -> None:
    """Remove the note beside the archive, as if the disk with both had been unmounted."""
    (root.parent / ".archive.receiver").rmdir()


def assert_away(store: DirectoryStore, root: Path) -> None:
    (root.parent / "fetched").touch()
    before = sorted(root.parent.rglob("*"))
    for use in every_use(store, root):
        with pytest.raises(StoreError, match=f"no archive directory {root}.*: {AWAY}") as failure:
            use()
        assert type(failure.value) is StoreError, "no MissingObjectError"
        assert not failure.value.permanent
    assert sorted(root.parent.rglob("*")) == before, "nothing was made"


@pytest.mark.parametrize("leave", [moved, dismounted])
@pytest.mark.parametrize("known_from", ["memory", "note", "both"])
def test_an_archive_that_went_away_is_away_until_it_is_back(
    known: DirectoryStore, root: Path, leave: Callable[[Path], Path], known_from: str
) -> None:
    store = DirectoryStore(root) if known_from == "note" else known
    if known_from == "memory":
        without_note(root)
    away = leave(root)
    assert_away(store, root)
    if root.exists():
        root.rmdir()
    away.rename(root)
    for use in every_use(store, root):
        use()
    assert (root / KEY).read_bytes() == b"picture"


def test_an_archive_another_process_made_in_the_meantime_is_not_the_one_that_went_away(
    known: DirectoryStore, root: Path
) -> None:
    without_note(root)
    away = moved(root)
    DirectoryStore(
        root
    ).check()  # without the note, as if the disk that holds archive and note were not mounted
    assert_away(known, root)
    shutil.rmtree(root)
    away.rename(root)
    known.check()


def test_an_archive_brought_back_from_a_backup_without_hidden_files_is_the_archive(
    known: DirectoryStore, root: Path
) -> None:
    away = dismounted(root)
    shutil.copytree(away / "2026", root / "2026")
    for store in (known, DirectoryStore(root)):
        for use in every_use(store, root):
            use()


def test_folders_without_an_object_are_no_archive(known: DirectoryStore, root: Path) -> None:
    dismounted(root)
    (root / "2026/07").mkdir(parents=True)
    assert_away(known, root)


def test_a_put_under_way_does_not_make_the_archive_again(
    known: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def goes_away(descriptor: int) -> None:
        monkeypatch.undo()
        fsync(descriptor)
        moved(root)

    monkeypatch.setattr(os, "fsync", goes_away)
    with pytest.raises(StoreError, match=f"cannot store .* {root}"):
        put_in(known, root, b"picture", "2027/01/01/REF/0.png")
    assert not root.exists()


def test_a_new_archive_can_be_begun_where_one_was_as_the_error_says(
    known: DirectoryStore, root: Path
) -> None:
    shutil.rmtree(root)
    with pytest.raises(StoreError, match=r"to begin a new one, remove (.*) and restart") as failure:
        known.check()
    Path(str(failure.value).partition("remove ")[2].partition(" and")[0]).rmdir()
    put(root, b"picture")


def test_an_archive_of_an_earlier_release_is_known_from_its_first_use_on(root: Path) -> None:
    (root / "2026").mkdir(parents=True)
    (root / "2026/0.png").write_bytes(b"picture")
    DirectoryStore(root).check()
    dismounted(root)
    assert_away(DirectoryStore(root), root)


def test_where_no_note_can_be_left_the_archive_is_used_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def of_another_user(
        path: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False
    ) -> None:
        if path.parent == root.parent and path != root:
            raise PermissionError(errno.EACCES, "Permission denied")
        mkdir(path, mode, parents=parents, exist_ok=exist_ok)

    monkeypatch.setattr(
        Path, "mkdir", of_another_user
    )  # tests may run as root, who may write everywhere
    store = DirectoryStore(root)
    put_in(store, root, b"picture")
    moved(root)
    assert_away(store, root)


def test_of_many_processes_that_begin_an_archive_none_takes_it_for_gone(tmp_path: Path) -> None:
    for number in range(20):
        root = tmp_path / str(number) / "archive"
        root.parent.mkdir()
        stores = [DirectoryStore(root) for _ in range(8)]  # one each, as if each were a process
        with ThreadPoolExecutor(len(stores)) as pool:
            list(pool.map(DirectoryStore.check, stores))


def test_folders_that_were_removed_and_are_made_again_are_synced_again(
    known: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person moved them away; without the sync a power loss would take all that follows."""
    (root / "2026").rename(root.with_name("moved"))
    synced, fsync = set[str](), os.fsync

    def noting(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    put_in(known, root, b"picture")
    folders = [root, *(parent for parent in (root / KEY).parents if parent.is_relative_to(root))]
    assert set(map(str, folders)) <= synced
