"""What is on the disk after a power loss, by the system calls that a process made.

``strace`` records every write, sync, link, rename and removal, those of SQLite's C code too. The
record is played back on a disk of the strictest kind that POSIX allows: a write is there once its
file was synced, a name once its directory was synced. A real disk keeps more.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    "openat,open,creat,close,dup,dup2,dup3,write,writev,pwrite64,pwritev,lseek,ftruncate,truncate,"
    "fallocate,sendfile,copy_file_range,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir"
)
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|([^,"\s]+)')

# Says whether a sync of this path is left out, to see that it is needed.
Ignored = Callable[[str], bool]


def is_possible() -> bool:
    """Say whether processes can be traced here."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode == 0  # noqa: S607


def record(command: Sequence[str], into: Path, environ: dict[str, str]) -> list[str]:
    """Run a command of one thread and return its system calls; raise if it fails."""
    options = ["-qq", "-xx", "-s", "1000000", "-e", "signal=none", "-e", f"trace={_CALLS}"]
    subprocess.run(
        ["strace", *options, "-o", str(into), *command],  # noqa: S607 - is_possible
        check=True,
        env={**os.environ, **environ},
        timeout=120,
    )
    return into.read_text(encoding="ascii").splitlines()


@dataclass(slots=True, eq=False)
class File:
    """What readers see now, and what would be there after a power loss."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass(slots=True, eq=False)
class Folder:
    """As ``File``, with the names of files and folders."""

    live: "dict[str, File | Folder]" = field(default_factory=dict)
    durable: "dict[str, File | Folder]" = field(default_factory=dict)


@dataclass(slots=True)
class _Opened:
    node: File | Folder
    path: str
    position: int = 0


class Disk:
    """Plays system calls back below ``root``; what is there already counts as durable.

    ``said`` are the lines that the process wrote to its standard output so far. ``syncs`` counts
    the syncs: what would be there after a power loss changes with no other call.
    """

    def __init__(self, root: Path, ignored: Ignored = lambda _: False) -> None:
        self.said: list[str] = []
        self.syncs = 0
        self._root = str(root)
        self._ignored = ignored
        self._folder = _load(root)
        self._opened: dict[int, _Opened] = {}

    def play(self, line: str) -> None:
        """Apply one line of the record."""
        if not (found := _LINE.match(line)) or int(found[3]) < 0:
            return
        call = getattr(self, f"_{found[1]}", None)
        arguments = [
            plain or bytes.fromhex(text.replace("\\x", ""))
            for text, plain in _ARGUMENT.findall(found[2])
        ]
        assert call is not None or not self._is_ours(arguments), f"not known: {line[:200]}"
        if call is not None:
            call(int(found[3]), *arguments)

    def restore(self, folder: Path) -> None:
        """Write what would be there after a power loss into a new folder."""
        _restore(self._folder, folder)

    # What the process asks for.

    def _openat(self, result: int, at: str, name: bytes, flags: str, *_: str) -> None:
        path = self._path(at, name)
        if path is None:
            return
        folder, last = self._parent(path)
        node: File | Folder | None = self._folder if path == self._root else folder.live.get(last)
        if node is None:
            node = folder.live[last] = File()
        if "O_TRUNC" in flags and isinstance(node, File):
            node.live.clear()
        end = len(node.live) if "O_APPEND" in flags else 0
        self._opened[result] = _Opened(node, path, end)

    def _close(self, _: int, descriptor: str) -> None:
        self._opened.pop(int(descriptor), None)

    def _write(self, result: int, descriptor: str, data: bytes, *_: str) -> None:
        if descriptor == "1":
            self.said += data.decode().splitlines()
        elif opened := self._opened.get(int(descriptor)):
            self._put(opened, data[:result], opened.position)
            opened.position += result

    def _pwrite64(self, result: int, descriptor: str, data: bytes, _size: str, at: str) -> None:
        if opened := self._opened.get(int(descriptor)):
            self._put(opened, data[:result], int(at))

    def _lseek(self, result: int, descriptor: str, *_: str) -> None:
        if opened := self._opened.get(int(descriptor)):
            opened.position = result

    def _ftruncate(self, _: int, descriptor: str, size: str) -> None:
        opened = self._opened.get(int(descriptor))
        if opened and isinstance(opened.node, File):
            old = opened.node.live[: int(size)]
            opened.node.live = old + bytes(int(size) - len(old))

    def _fsync(self, _: int, descriptor: str) -> None:
        opened = self._opened.get(int(descriptor))
        if opened is None or self._ignored(opened.path.removeprefix(self._root)):
            return
        self.syncs += 1
        if isinstance(opened.node, File):
            opened.node.durable = bytes(opened.node.live)
        else:
            opened.node.durable = dict(opened.node.live)

    _fdatasync = _fsync

    def _linkat(self, _: int, at: str, old: bytes, to: str, new: bytes, *__: str) -> None:
        self._move(self._path(at, old), self._path(to, new), keep=True)

    def _link(self, _: int, old: bytes, new: bytes) -> None:
        self._move(self._path("AT_FDCWD", old), self._path("AT_FDCWD", new), keep=True)

    def _rename(self, _: int, old: bytes, new: bytes) -> None:
        self._move(self._path("AT_FDCWD", old), self._path("AT_FDCWD", new), keep=False)

    def _unlink(self, _: int, name: bytes) -> None:
        self._unlinkat(0, "AT_FDCWD", name)

    _rmdir = _unlink

    def _unlinkat(self, _: int, at: str, name: bytes, *__: str) -> None:
        if path := self._path(at, name):
            folder, last = self._parent(path)
            del folder.live[last]

    def _mkdir(self, _: int, name: bytes, *__: str) -> None:
        if path := self._path("AT_FDCWD", name):
            folder, last = self._parent(path)
            folder.live[last] = Folder()

    # Details.

    def _put(self, opened: _Opened, data: bytes, at: int) -> None:
        assert isinstance(opened.node, File)
        missing = at - len(opened.node.live)
        opened.node.live += bytes(max(0, missing))
        opened.node.live[at : at + len(data)] = data

    def _move(self, old: str | None, new: str | None, *, keep: bool) -> None:
        assert (old is None) == (new is None), "a move across the border of the disk"
        if old and new:
            (folder, last), (target, name) = self._parent(old), self._parent(new)
            target.live[name] = folder.live[last] if keep else folder.live.pop(last)

    def _path(self, at: str, name: bytes) -> str | None:
        """Return a path if it is on our disk."""
        path = name.decode()
        if not path.startswith("/") and at.isdigit() and int(at) in self._opened:
            path = f"{self._opened[int(at)].path}/{path}"
        return path if path == self._root or path.startswith(f"{self._root}/") else None

    def _parent(self, path: str) -> tuple[Folder, str]:
        *folders, last = path.removeprefix(self._root).strip("/").split("/")
        found: File | Folder = self._folder
        for name in folders:
            assert isinstance(found, Folder)
            found = found.live[name]
        assert isinstance(found, Folder)
        return found, last

    def _is_ours(self, arguments: Sequence[str | bytes]) -> bool:
        return any(
            self._path("AT_FDCWD", one) is not None
            if isinstance(one, bytes)
            else one.isdigit() and int(one) in self._opened
            for one in arguments
        )


def losses(root: Path, lines: Sequence[str], ignored: Ignored = lambda _: False) -> Iterator[Disk]:
    """Yield the disk at every moment at which a power loss would leave something else.

    That is after each sync, and after each line that the process wrote to its standard output.
    """
    disk, before = Disk(root, ignored), (-1, -1)
    for line in lines:
        disk.play(line)
        if (now := (disk.syncs, len(disk.said))) != before:
            before = now
            yield disk


def _load(root: Path) -> Folder:
    found: dict[str, File | Folder] = {}
    for path in root.iterdir():
        data = b"" if path.is_dir() else path.read_bytes()
        found[path.name] = _load(path) if path.is_dir() else File(bytearray(data), data)
    return Folder(found, dict(found))


def _restore(folder: Folder, to: Path) -> None:
    to.mkdir()
    for name, node in folder.durable.items():
        if isinstance(node, Folder):
            _restore(node, to / name)
        else:
            (to / name).write_bytes(node.durable)
