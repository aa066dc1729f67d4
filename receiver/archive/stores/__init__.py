"""Where the bytes go: a directory, or a bucket of S3-compatible storage.

A store gives two promises: a put that returned is durable and was verified by us, and the first bytes put under a key stay.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast, get_args
from urllib.parse import unquote

from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.stores.keys import is_key
from receiver.archive.stores.s3_choices import AddressingStyle, Checksums

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")


class Store(Protocol):
    """A place for objects, safe to use from many threads and processes.

    A key is a path of letters, digits, ``.``, ``_`` and ``-`` such as ``2026/07/01/01J…/0.png``; anything else is a ValueError.
    Whatever else goes wrong is a StoreError whose text names the place and the remedy.
    """

    def put(self, key: str, path: Path, *, sha256: str, content_type: str) -> None:
        """Store the file's bytes under the key; on return they are durable and their SHA-256 (lower-case hex) was checked.

        The same bytes already there are a success: an earlier put whose finish was lost. Other bytes already there stay, and
        ObjectDiffersError is raised.
        """

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        """Store these bytes under the key whatever is there; readers see the old or the new ones, never a mixture. Durable on return."""

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Return the object's bytes, from the one at ``start`` on, as a stream to be read in parts and closed.

        Raise MissingObjectError if there is none.
        """

    def link(self, key: str, seconds: int, *, name: str) -> str | None:
        """Return a URL that gives the object to everybody for so many seconds, as a file called ``name``; None where there is none."""

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        """Go through the objects below the folder ``prefix``, sorted by name: name and size in bytes.

        A listing that was broken off goes on behind ``after``, the last name it gave. What begins with a dot is passed over; what strangers
        put there is not, so that a name need not be a key. Raise StoreError, also where there is no archive at all.
        """

    def check(self) -> None:
        """Try whether objects can be written and read back here; raise StoreError saying what is wrong and what to do."""

    def locate(self, key: str) -> str:
        """Return where the object is, for people: a file's path or an ``s3://`` URL."""

    def close(self) -> None:
        """Let go of connections; the store opens new ones if it is used again."""


def open_store(
    url: str, *, addressing_style: str = "auto", checksums: str = "when_required"
) -> Store:
    """Return the store an ARCHIVE_URL names: ``file:///path`` or ``s3://bucket/prefix``. Nothing is connected or created yet.

    ``addressing_style`` is ``auto``, ``path`` or ``virtual``, ``checksums`` is ``when_required`` or ``when_supported``; both matter
    to S3 only. A wrong value is a ValueError whose text names the remedy.
    """
    if addressing_style not in get_args(AddressingStyle):
        raise ValueError(
            f"S3_ADDRESSING_STYLE is one of {', '.join(get_args(AddressingStyle))}, not {addressing_style!r}"
        )
    if checksums not in get_args(Checksums):
        raise ValueError(
            f"S3_CHECKSUMS is one of {', '.join(get_args(Checksums))}, not {checksums!r}"
        )
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        return _directory(rest)
    if scheme != "s3":  # not echoed: what stands there may be a URL with a secret in it
        raise ValueError(
            "ARCHIVE_URL starts with file:/// or s3://: write file:///path or s3://bucket/prefix"
        )
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise ValueError(
            "ARCHIVE_URL holds no credentials: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            f"ARCHIVE_URL needs a bucket of 3 to 63 letters, digits, dots and hyphens, s3://bucket/prefix, not {bucket!r}"
        )
    prefix = prefix.strip("/")
    if prefix and not is_key(prefix):
        raise ValueError(
            f"ARCHIVE_URL needs a prefix of letters, digits, '.', '_' and '-', no name starting with a dot, not {prefix!r}"
        )
    from receiver.archive.stores.s3 import S3Store  # noqa: PLC0415 - 0.1 s of import that a directory does not need

    return S3Store(
        bucket,
        prefix,
        addressing_style=cast("AddressingStyle", addressing_style),
        checksums=cast("Checksums", checksums),
    )


def _directory(path: str) -> Store:
    root = Path(unquote(path))
    if not root.is_absolute() or root == Path("/") or "\0" in str(root):
        raise ValueError(
            f"ARCHIVE_URL needs three slashes and the absolute path of a directory, file:///path, not file://{path}"
        )
    return DirectoryStore(root)
