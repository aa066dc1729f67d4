"""Small disks: tmpfs file systems of a few megabytes that tests fill up or make read-only.

Without permission to mount, a limit on the file size makes writes fail as on a full disk.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from real_parts import missing


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """One mounted disk."""

    root: Path

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no byte free until the block ends."""
        ballast = self.root / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse every write until the block ends, as after a hardware error.

        No file may be open for writing.
        """
        _mount("-o", "remount,ro", str(self.root))
        try:
            yield
        finally:
            _mount("-o", "remount,rw", str(self.root))


@contextmanager
def small_disk(folder: Path, *, kilobytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of this size at the new folder ``folder``.

    If that is not permitted, the test is skipped; it fails if REQUIRE_REAL_PARTS is set.
    """
    folder.mkdir(parents=True)
    owner = f"uid={os.getuid()},gid={os.getgid()},mode=0755"
    try:
        _mount("-t", "tmpfs", "-o", f"size={kilobytes}k,{owner}", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        missing("the right to mount a disk (root, or sudo without a password)")
    try:
        yield SmallDisk(folder)
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Make writes of this process fail beyond this size of a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _mount(*arguments: str) -> None:
    _run("mount", *arguments)


def _run(command: str, *arguments: str) -> None:
    """Run a command as root, or with sudo if that needs no password."""
    path = (
        shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/usr/sbin:/sbin")
        or command
    )
    before = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    subprocess.run([*before, path, *arguments], check=True, capture_output=True, timeout=20)
