"""The callback secrets that the service generated, in DATA_DIR.

``secrets/callback`` has the secret that signs. ``secrets/callback.old`` has the older ones, one on
each line, newest first. There are two files because the previous release knows only the first one.
Before running processes sign or verify, they check the status of the files, so they notice a
change.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from receiver import data_dir
from receiver.errors import ConfigurationError

# What changes when a file is replaced: inode, time of its last change (ns), size in bytes.
_Status = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class _Read:
    """The secrets, and the status that the files had before they were read."""

    status: tuple[_Status, _Status]
    secrets: tuple[str, ...]


class KeptSecrets:
    """The callback secrets of a DATA_DIR; the first one is generated when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "secrets" / "callback"
        self._old = old_path(self.path)
        self._read: _Read | None = None

    def secrets(self) -> tuple[str, ...]:
        """Return the secrets, newest first: the same object as long as the files do not change.

        Raise ConfigurationError if they cannot be read. If the first file is removed, the secrets
        that were read before stay valid in this process.
        """
        if self._read is None:
            data_dir.keep(self.path)
        status = (_status(self.path), _status(self._old))
        if self._read is None or (status != self._read.status and status[0] is not None):
            # In this order: `rotate` writes the old ones first, so that none is ever missing.
            newest = data_dir.keep(self.path)
            found = dict.fromkeys([newest, *read_old(self.path)])
            self._read = _Read(status, tuple(found))
        return self._read.secrets

    def require(self) -> None:
        """Raise ConfigurationError if there is no secret yet; nothing is generated."""
        if not self.path.exists():
            mistake = f"no callback secret in {self.path}; set DATA_DIR to that of the service"
            raise ConfigurationError([f"DATA_DIR: {mistake}"])

    def rotated_at(self) -> float:
        """Return when the first secret was generated, in seconds since the epoch."""
        self.secrets()
        return self.path.stat().st_mtime

    def rotate(self) -> None:
        """Generate a new first secret; the others stay behind it."""
        with self._changing():
            self._write_old(self.secrets())
            data_dir.replace(self.path, secrets.token_urlsafe(32))

    def remove(self, unwanted: Sequence[str]) -> None:
        """Remove some of the old secrets; the first one stays."""
        with self._changing():
            self._write_old([one for one in self.secrets()[1:] if one not in unwanted])

    def _write_old(self, wanted: Sequence[str]) -> None:
        if wanted:
            data_dir.replace(self._old, "\n".join(wanted))
        else:
            self._old.unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let one process at a time change the files; raise ConfigurationError if that fails."""
        self.secrets()  # creates the folder
        try:
            with data_dir.locked(self.path.with_name("callback.lock")):
                yield
        except OSError as error:
            raise ConfigurationError(
                [f"DATA_DIR: the secret {self.path} cannot be changed ({error}); make it writable"]
            ) from error


def old_path(path: Path) -> Path:
    """Return the file of the secrets before the one in the file ``path``."""
    return path.with_name(f"{path.name}.old")


def read_old(path: Path) -> list[str]:
    """Return the secrets that are older than the one in the file ``path``, newest first.

    Raise ConfigurationError if they cannot be read.
    """
    old = old_path(path)
    try:
        found = data_dir.read_own(old).split() if old.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        mistake = f"the secrets {old} cannot be read ({error}); restore them, or remove the file"
        raise ConfigurationError([f"DATA_DIR: {mistake}"]) from error
    if any(len(one) < data_dir.MIN_SECRET for one in found):
        mistake = f"{old} has a secret of fewer than {data_dir.MIN_SECRET} characters; remove it"
        raise ConfigurationError([f"DATA_DIR: {mistake}"])
    return found


def _status(path: Path) -> _Status:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
