"""Open the store that an ARCHIVE_URL names."""

import re
from pathlib import Path
from typing import cast, get_args
from urllib.parse import unquote

from receiver.archive.stores import AddressingStyle, Checksums, Store, is_key
from receiver.archive.stores.directory import DirectoryStore

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")


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
