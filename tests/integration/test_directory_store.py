"""What only a directory can suffer: files in the way, missing disks, full disks, killed writers."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from receiver.archive.stores import open_store
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

KEY = "2026/07/01/REF/0.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Name the archive's directory; nobody has made it."""
    return tmp_path / "archive"


def put(root: Path, data: bytes, key: str = KEY) -> None:
    source = root.parent / "fetched"
    source.write_bytes(data)
    DirectoryStore(root).put(key, source, sha256=hashlib.sha256(data).hexdigest(), content_type="image/png")


def test_nothing_is_made_before_it_is_needed(root: Path) -> None:
    open_store(f"file://{root}")
    assert not root.exists()


def test_objects_are_plain_files_that_others_may_not_read(root: Path) -> None:
    put(root, b"picture")
    assert (root / KEY).read_bytes() == b"picture"
    assert stat.S_IMODE((root / KEY).stat().st_mode) == 0o640
    assert (root / KEY).stat().st_nlink == 1


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
    with pytest.raises(StoreError, match=f"no directory {root}/disk to hold the archive: create or mount it"):
        DirectoryStore(root / "disk" / "archive").check()
    assert not root.exists()


def test_a_file_in_place_of_the_directory_is_named(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StoreError, match=f"{root}: a file stands where a directory should be"):
        DirectoryStore(root).check()


def test_an_object_in_place_of_a_directory_is_named(root: Path) -> None:
    put(root, b"picture", key="2026")
    with pytest.raises(StoreError, match=f"cannot store {KEY} .*: a file stands where a directory should be"):
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
def test_what_the_disk_complains_of_is_told_with_its_remedy(root: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str) -> None:
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
    run = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, timeout=30)
    assert "StoreError: cannot store" in run.stderr
    assert "File too large" in run.stderr
    assert [path.name for path in root.iterdir()] == [".tmp"]
    assert list((root / ".tmp").iterdir()) == []


def test_a_killed_put_leaves_nothing_visible_and_the_next_process_sweeps_the_rest(root: Path) -> None:
    slow = root.parent / "slow"
    os.mkfifo(slow)
    script = f"""
from pathlib import Path
from receiver.archive.stores.directory import DirectoryStore
DirectoryStore(Path({str(root)!r})).put({KEY!r}, Path({str(slow)!r}), sha256="", content_type="image/png")
"""
    writer = subprocess.Popen([sys.executable, "-c", script])
    try:
        with slow.open("wb", buffering=0) as source:
            source.write(bytes(300_000))  # more than is read at once
            other = DirectoryStore(root)
            wait_until_it_writes(root)
            other.check()  # sweeps too, but the writer is alive
            assert len(list((root / ".tmp").iterdir())) == 1
            writer.send_signal(signal.SIGKILL)
            writer.wait()
    finally:
        writer.kill()
        writer.wait()
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
