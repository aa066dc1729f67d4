"""Objects in a bucket of S3-compatible storage, whichever dialect it speaks.

Nothing a server says is believed: after every put the object is read back and hashed. The first bytes stay by a conditional put
(``If-None-Match: *``) where the server keeps it. One that does not is asked before the put whether the key is free, which leaves a
gap: two puts at the same instant may both find it so. The ledger's claims, one worker to an asset, keep that from happening.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, TypedDict, Unpack

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from botocore.response import StreamingBody
from urllib3.exceptions import HTTPError

from receiver.archive.stores import AddressingStyle, Checksums, require_key
from receiver.archive.stores.s3_errors import error_code, remedy, status
from receiver.archive.stores.s3_probe import Capabilities, probe
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from _typeshed import WriteableBuffer
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

CHUNK = 256 * 1024  # bytes read at once
MARKER = ".receiver"  # the object that `check` writes once; no key can have this name
# What boto3 raises; the last two when an answer is none of S3's, a number that is no number or redirects without end.
_FOREIGN_ERRORS = (
    ClientError,
    BotoCoreError,
    HTTPError,
    ResponseParserError,
    ValueError,
    RecursionError,
)
_MARKER_TEXT = (
    b"Written once by webhook-image-receiver to see whether it may write here. May be deleted.\n"
)


class _Condition(TypedDict, total=False):
    IfNoneMatch: str


class _Start(TypedDict, total=False):
    StartAfter: str


class _Range(TypedDict, total=False):
    Range: str


@dataclass(frozen=True, slots=True)
class _ReadBack:
    """What was read back: the hash of the bytes, and the one their writer declared for them, if that is known."""

    sha256: str
    declared: str | None

    @property
    def damaged(self) -> bool:
        """Not the bytes their own writer meant: they were spoilt under way or at rest, and nobody wants to keep them."""
        return self.declared is not None and self.declared != self.sha256


class S3Store:
    """A store in a bucket, below a prefix; endpoint, region and credentials are boto3's own environment variables.

    ``timeouts`` are seconds: to a connection, and without a byte on it.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        addressing_style: AddressingStyle = "auto",
        checksums: Checksums = "when_required",
        timeouts: tuple[float, float] = (5, 60),
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._config = Config(
            connect_timeout=timeouts[0],
            read_timeout=timeouts[1],
            max_pool_connections=32,
            retries={
                "total_max_attempts": 1,
                "mode": "standard",
            },  # trying again is the ledger's business
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            s3={"addressing_style": addressing_style},
            signature_version="s3v4",  # links are signed in an older way by default, which most servers no longer take
        )
        self._lock = Lock()
        self._cached_client: S3Client | None = None
        self._conditional: bool | None = (
            None  # does the server keep `If-None-Match: *`? None = not asked yet
        )

    def put(self, key: str, path: Path, *, sha256: str, content_type: str) -> None:
        """Upload the file and read it back; see Store.

        An object whose bytes are not those its own metadata declares is damaged, not "first": it is overwritten. So a put spoilt
        by the server heals with the next try, even in another process, and without the right to delete anything.
        """
        name = self._name(key)
        with self._store_errors(f"store {key} in"), path.open("rb") as body:
            new = self._put_new(name, body, sha256, content_type)
            found = self._read_back(name, meant=sha256 if new else None)
            if found.damaged and not new:
                body.seek(0)
                self._upload(name, body, sha256, content_type)
                found = self._read_back(name, meant=sha256)
        self._require_undamaged(key, found)
        if found.sha256 != sha256:
            raise ObjectDiffersError(
                f"{self.locate(key)} already holds other bytes (SHA-256 {found.sha256}, not {sha256}); the first ones stay"
            )

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        """Upload the bytes over what is there and read them back; see Store."""
        name = self._name(key)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._store_errors(f"store {key} in"):
            self._upload(name, data, sha256, content_type)
            found = self._read_back(name, meant=sha256)
        self._require_undamaged(key, found)

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Start the download; see Store. Only the whole object can be held against the hash its writer declared."""
        part: _Range = {"Range": f"bytes={start}-"} if start else {}
        name = self._name(key)
        with self._store_errors(f"read {key} from"):
            answer = self._client().get_object(Bucket=self._bucket, Key=name, **part)
        declared = None if start else _declared(answer)
        return io.BufferedReader(
            _Download(answer["Body"], declared, partial(self._store_errors, f"read {key} from")),
            CHUNK,
        )

    def link(self, key: str, seconds: int, *, name: str) -> str | None:
        """Sign a URL, without asking the server; see Store. It is saved rather than shown, whatever it holds."""
        wanted = {
            "Bucket": self._bucket,
            "Key": self._name(key),
            "ResponseContentDisposition": f'attachment; filename="{name}"',
        }
        with self._store_errors(f"sign a link to {key} in"):
            return self._client().generate_presigned_url(
                "get_object", Params=wanted, ExpiresIn=seconds
            )

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        """Ask for the names page by page, a thousand at a time; see Store."""
        below = f"{self._name(prefix)}/" if prefix else self._prefix
        # A name of nothing means "from the start", but not every server takes an empty one.
        start: _Start = {"StartAfter": self._prefix + after} if after else {}
        with self._store_errors("list"):
            for page in (
                self._client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self._bucket, Prefix=below, **start)
            ):
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    if not (
                        key.startswith(".") or "/." in key or key.endswith("/")
                    ):  # at the end: some tools make "folders" so
                        yield key, found["Size"]

    def check(self) -> None:
        """Put the marker object and read it; see Store. Only the first check ever writes, the later ones are answered 412."""
        with self._store_errors("write and read a trial object in"):
            self._conditional = self._probe_conditional_put()
            self._read_back(self._prefix + MARKER)

    def probe(self) -> Capabilities:
        """Find out which dialect the server speaks, with trial objects that are deleted again; raise StoreError like ``check``."""
        with self._store_errors("write and read a trial object in"):
            return probe(self._client(), self._bucket, self._prefix)

    def locate(self, key: str) -> str:
        """Return the object's ``s3://`` URL."""
        return f"s3://{self._bucket}/{self._name(key)}"

    def close(self) -> None:
        """Close the connections; see Store."""
        with self._lock:
            if self._cached_client is not None:
                self._cached_client.close()
            self._cached_client = None

    def _name(self, key: str) -> str:
        return self._prefix + require_key(key)

    def _client(self) -> "S3Client":
        with self._lock:  # making a client is not thread-safe, using one is
            if self._cached_client is None:
                try:
                    self._cached_client = boto3.session.Session().client("s3", config=self._config)
                except ValueError as error:  # botocore's complaint about an endpoint
                    raise StoreError(
                        "AWS_ENDPOINT_URL_S3 is no URL: write it like https://host:port"
                    ) from error
            return self._cached_client

    def _put_new(self, name: str, body: BinaryIO, sha256: str, content_type: str) -> bool:
        """Upload the file unless the key is taken; say whether it was uploaded."""
        if self._conditional is None:
            self._conditional = self._probe_conditional_put()
        if not self._conditional and self._exists(name):
            return False
        condition: _Condition = {"IfNoneMatch": "*"} if self._conditional else {}
        try:
            self._upload(name, body, sha256, content_type, **condition)
        except ClientError as error:
            if _is_taken(error):
                return False
            raise
        return True

    def _upload(
        self,
        name: str,
        body: BinaryIO | bytes,
        sha256: str,
        content_type: str,
        **condition: Unpack[_Condition],
    ) -> None:
        self._client().put_object(
            Bucket=self._bucket,
            Key=name,
            Body=body,
            ContentType=content_type,
            Metadata={"sha256": sha256},
            **condition,
        )

    def _exists(self, name: str) -> bool:
        try:
            self._client().head_object(Bucket=self._bucket, Key=name)
        except ClientError as error:
            if status(error) == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def _read_back(self, name: str, *, meant: str | None = None) -> _ReadBack:
        """Download and hash the object; ``meant`` is the hash it should have if a server keeps no metadata to say so."""
        answer = self._client().get_object(Bucket=self._bucket, Key=name)
        digest = hashlib.sha256()
        body = answer["Body"]
        try:
            for chunk in body.iter_chunks(CHUNK):
                digest.update(chunk)
        finally:
            body.close()
        return _ReadBack(digest.hexdigest(), _declared(answer) or meant)

    def _require_undamaged(self, key: str, found: _ReadBack) -> None:
        if found.damaged:
            raise StoreError(
                f"{self.locate(key)} was stored damaged: its SHA-256 is {found.sha256} instead of {found.declared}"
            )

    def _probe_conditional_put(self) -> bool:
        """Find out whether the server keeps `If-None-Match: *`: then the marker can be put only once.

        Some answer 501 or 400 to the header, some overwrite in spite of it (rclone). What is found holds for the life of the process.
        """
        for _ in range(2):
            try:
                self._put_marker(IfNoneMatch="*")
            except ClientError as error:
                if _is_taken(error):
                    return True
                if not _is_unsupported(error):
                    raise
                self._put_marker()  # was it the header? If not, this fails too and says why
                return False
        return False

    def _put_marker(self, **condition: Unpack[_Condition]) -> None:
        self._upload(
            self._prefix + MARKER,
            _MARKER_TEXT,
            hashlib.sha256(_MARKER_TEXT).hexdigest(),
            "text/plain",
            **condition,
        )

    @contextmanager
    def _store_errors(self, doing: str) -> Iterator[None]:
        """Turn the errors of boto3, and of the file to be sent, into ours."""
        try:
            yield
        except _FOREIGN_ERRORS as error:
            kind = MissingObjectError if error_code(error) == "NoSuchKey" else StoreError
            raise kind(f"cannot {doing} {self._place()}: {remedy(error)}") from error
        except OSError as error:
            raise StoreError(f"cannot {doing} {self._place()}: {error}") from error

    def _place(self) -> str:
        if self._cached_client is None:
            return f"the bucket {self._bucket!r}"
        endpoint = self._cached_client.meta.endpoint_url.rpartition("@")[
            2
        ]  # a password in it is nobody's business
        return f"the bucket {self._bucket!r} at {endpoint}"


class _Download(io.RawIOBase):
    """The body of an answer as a raw stream whose errors are ours; at its end it must be what its writer ``declared``, if that is known."""

    def __init__(
        self,
        body: StreamingBody,
        declared: str | None,
        store_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__()
        self._body, self._declared, self._store_errors = body, declared, store_errors
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some bytes, none only at the end."""
        view = memoryview(buffer)
        with self._store_errors():
            data = self._body.read(len(view))
        self._digest.update(data)
        if view and not data and self._declared not in (None, self._digest.hexdigest()):
            raise StoreError(
                f"the object is damaged: its SHA-256 is {self._digest.hexdigest()} instead of {self._declared}"
            )
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Give up the connection; what was not read is lost."""
        self._body.close()
        super().close()


def _declared(answer: "GetObjectOutputTypeDef") -> str | None:
    """Return the hash the object's writer declared. Some servers spell the names of metadata in their own way: `Sha256`."""
    return {word.lower(): value for word, value in answer["Metadata"].items()}.get("sha256")


def _is_taken(error: ClientError) -> bool:
    """Say whether a conditional put was refused because the key is taken, or is just being taken."""
    return (
        status(error) == HTTPStatus.PRECONDITION_FAILED
        or error_code(error) == "ConditionalRequestConflict"
    )


def _is_unsupported(error: ClientError) -> bool:
    """Say whether the server may have stumbled over the condition itself."""
    return status(error) == HTTPStatus.NOT_IMPLEMENTED or error_code(error) in (
        "NotImplemented",
        "InvalidArgument",
        "InvalidRequest",
    )
