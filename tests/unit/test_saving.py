"""Saving archived files: whole or not at all, verified, and never over another file."""

import io
import os
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from receiver.archive import saving
from receiver.errors import ReceiverError, StoreError

DATA = b"a picture" * 1000
DIGEST = sha256(DATA).hexdigest()


def source() -> io.BytesIO:
    return io.BytesIO(DATA)


def names(folder: Path) -> list[str]:
    """Return everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_saved_once_and_again_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    assert saving.save(source, DIGEST, target)
    status = target.stat()
    assert (target.read_bytes(), status.st_mode & 0o777) == (DATA, 0o666 & ~_umask())
    assert not saving.save(source, DIGEST, target)
    assert (target.stat().st_ino, names(tmp_path)) == (status.st_ino, ["a.png"])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _other_file(target: Path) -> None:
    target.write_bytes(b"mine")


def _empty_file(target: Path) -> None:
    target.touch()


def _folder(target: Path) -> None:
    target.mkdir()


def _dangling_link(target: Path) -> None:
    target.symlink_to("nowhere")


def _without_access_time(target: Path) -> tuple[int, ...]:
    """Return what only a change of the file changes; the access time changes when it is read."""
    found = os.lstat(target)
    return (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@pytest.mark.parametrize("occupy", [_other_file, _empty_file, _folder, _dangling_link])
def test_another_file_of_that_name_is_never_overwritten(
    tmp_path: Path, occupy: Callable[[Path], None]
) -> None:
    target = tmp_path / "a.png"
    occupy(target)
    before = _without_access_time(target)
    with pytest.raises(ReceiverError, match="nothing was written"):
        saving.save(source, DIGEST, target)
    assert (_without_access_time(target), names(tmp_path)) == (before, ["a.png"])


def test_another_file_is_replaced_if_that_is_asked_for(tmp_path: Path) -> None:
    _other_file(target := tmp_path / "a.png")
    assert saving.save(source, DIGEST, target, overwrite=True)
    assert (target.read_bytes(), names(tmp_path)) == (DATA, ["a.png"])


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def slow() -> io.BytesIO:
        _other_file(tmp_path / "a.png")
        return source()

    with pytest.raises(ReceiverError, match="nothing was written"):
        saving.save(slow, DIGEST, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("taken", ["", "taken meanwhile"])
def test_a_file_system_without_hard_links_does_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    def no_links(_source: Path, target: Path) -> None:
        if taken:
            _other_file(target)
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    if taken:
        with pytest.raises(ReceiverError, match="nothing was written"):
            saving.save(source, DIGEST, tmp_path / "a.png")
    else:
        assert saving.save(source, DIGEST, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == (b"mine" if taken else DATA)
    assert names(tmp_path) == ["a.png"]


def test_of_a_damaged_or_broken_off_file_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(ReceiverError, match="damaged: its SHA-256 is"):
        saving.save(partial(io.BytesIO, DATA[:-1]), DIGEST, tmp_path / "a.png")

    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise StoreError("the archive is away")

    with pytest.raises(StoreError):
        saving.save(Broken, DIGEST, tmp_path / "a.png")
    assert names(tmp_path) == []


@pytest.mark.parametrize("target", ["missing/a.png", "file/a.png", "x" * 300])
def test_what_cannot_be_written_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReceiverError, match="cannot write"):
        saving.save(source, DIGEST, tmp_path / target)


def test_a_folder_is_made_with_its_parents_and_tried_out(tmp_path: Path) -> None:
    saving.make_folder(tmp_path / "a" / "b")
    saving.make_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "c"):
        with pytest.raises(ReceiverError, match="cannot write into"):
            saving.make_folder(wrong)
