"""Open the store that an ARCHIVE_URL names."""

import re
from pathlib import Path
from urllib.parse import unquote

from receiver.archive.stores import Store, is_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.stores.s3_options import DEFAULT, S3Options

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")


def open_store(url: str, options: S3Options = DEFAULT) -> Store:
    """Return the store that an ARCHIVE_URL names: ``file:///path`` or ``s3://bucket/prefix``.

    Nothing is connected or created yet. ``options`` matter only for S3. Raise ValueError for a
    wrong URL; its text says what to write instead.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        return _directory(rest)
    if scheme != "s3":  # the value is not repeated: it may be a URL that contains a secret
        raise ValueError(
            "ARCHIVE_URL starts with file:/// or s3://: write file:///path or s3://bucket/prefix"
        )
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise ValueError(
            "ARCHIVE_URL holds no credentials: "
            "give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            "ARCHIVE_URL needs a bucket of 3 to 63 letters, digits, dots and hyphens, "
            f"s3://bucket/prefix, not {bucket!r}"
        )
    prefix = prefix.strip("/")
    if prefix and not is_key(prefix):
        raise ValueError(
            "ARCHIVE_URL needs a prefix of letters, digits, '.', '_' and '-', "
            f"no name starting with a dot, not {prefix!r}"
        )
    # Imported here, because boto3 costs 0.1 s that a directory store does not need.
    from receiver.archive.stores.s3 import S3Store  # noqa: PLC0415

    return S3Store(bucket, prefix, options)


def archive_name(url: str, home: Path | None) -> str:
    """Return what names the archive of an ARCHIVE_URL on every machine.

    ``home`` is the folder of an embedded ledger: a directory in it is named relative to it, because
    both may be moved together. The region is left out, and so is AWS' endpoint, because a bucket's
    name is unique at AWS. It is "" if boto3's files cannot be read now.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        path = Path(unquote(rest))
        if home is not None and path.is_relative_to(home):
            return f"file:{path.relative_to(home)}"
        return f"file://{path.resolve()}"
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - see open_store

    from receiver.archive.stores.s3_endpoint import configured_host  # noqa: PLC0415 - as above

    try:
        host = configured_host()
    except BotoCoreError:  # the store reports it when it is used
        return ""
    bucket, _, prefix = rest.partition("/")
    return f"s3://{bucket}/{prefix.strip('/')}" + (f" at {host}" if host else "")


def _directory(path: str) -> Store:
    root = Path(unquote(path))
    if not root.is_absolute() or root == Path("/") or "\0" in str(root):
        raise ValueError(
            "ARCHIVE_URL needs three slashes and the absolute path of a directory, "
            f"file:///path, not file://{path}"
        )
    return DirectoryStore(root)
