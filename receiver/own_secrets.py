"""What is nobody else's: the secrets the embedded default makes for itself and keeps, and the modes of everything else it writes."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from receiver.errors import ConfigurationError


def write_for_owner_only() -> None:
    """Have this process, and those it starts, make files that only their owner can read: ledger, scratch, figures, bell.

    Objects of an archive directory are given a mode of their own.
    """
    os.umask(0o077)


def make_data_dir(path: Path) -> None:
    """Make DATA_DIR for its owner only, if it is missing; one that is there keeps its mode. Raise OSError if it cannot be made."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def keep(path: Path, prefix: str = "") -> str:
    """Return the secret kept in ``path``; make it first where there is none. Processes that start together agree on one.

    Raise ConfigurationError if the file cannot be made or read.
    """
    try:
        if not path.exists():
            _make(path, prefix + secrets.token_urlsafe(32))
        value = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"DATA_DIR: the secret {path} cannot be kept ({error}); name a directory that can be written"]) from error
    if not value:
        raise ConfigurationError([f"DATA_DIR: the secret file {path} is empty; restore it, or remove it to have a new one made"])
    return value


def _make(path: Path, value: str) -> None:
    """Write the file whole or not at all; whoever links first wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
            file.write(value + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Put the folder's entries on disk: a secret that signs callbacks must outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
