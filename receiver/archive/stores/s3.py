"""A store in a bucket of S3-compatible storage.

The server is not trusted: after every put the object is read back and hashed, unless the server
has shown that it rejects an object whose SHA-256 is not the one in the request. A conditional put
(``If-None-Match: *``) keeps the first bytes, if the server supports it. Otherwise the store asks
before the put whether the key is free. Then two puts at the same moment could both find it free;
the ledger's claims prevent that, because only one worker has an asset.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
from urllib3.exceptions import HTTPError

from receiver.archive.stores import AddressingStyle, Checksums, Verify, require_key
from receiver.archive.stores.s3_errors import (
    error_code,
    is_taken,
    is_unsupported,
    remedy,
    status,
)
from receiver.archive.stores.s3_probe import Capabilities, checksum, probe, refuses_wrong_hash
from receiver.archive.stores.s3_read import CHUNK, Download, ReadBack, declared_hash, read_back
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3 import S3Client

MARKER = ".receiver"  # name of the object that `check` writes once; it is no valid key
# What boto3 raises. ValueError and RecursionError come from responses that are not S3's: a number
# that is none, or endless redirects.
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


class _Options(TypedDict, total=False):
    IfNoneMatch: str
    ChecksumSHA256: str


class _Start(TypedDict, total=False):
    StartAfter: str


class _Range(TypedDict, total=False):
    Range: str


@dataclass(frozen=True, slots=True)
class _Abilities:
    """What a server can do."""

    conditional: bool  # it supports `If-None-Match: *`
    checksums: bool  # it takes a SHA-256 in a request; buckets with Object Lock require one
    verifies: bool  # it rejects a wrong one, so objects need not be read back


class S3Store:
    """A store in a bucket, below a prefix.

    Endpoint, region and credentials come from boto3's environment variables. ``timeouts`` are the
    seconds to connect and to wait for data.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        addressing_style: AddressingStyle = "auto",
        checksums: Checksums = "when_required",
        verify: Verify = "auto",
        timeouts: tuple[float, float] = (5, 60),
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._config = Config(
            connect_timeout=timeouts[0],
            read_timeout=timeouts[1],
            max_pool_connections=32,
            # The ledger decides about retries.
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            s3={"addressing_style": addressing_style},
            # By default boto3 signs links with an older version, which most servers refuse.
            signature_version="s3v4",
            # boto3 makes its own long name again for every request, a tenth of its time.
            user_agent="webhook-image-receiver",
        )
        self._lock = Lock()
        self._cached_client: S3Client | None = None
        self._verify = verify
        self._abilities: _Abilities | None = None  # found out at the first use
        self._probing = Lock()  # so that not every thread puts the marker

    def put(
        self,
        key: str,
        path: Path,
        *,
        sha256: str,
        content_type: str,
        hashed: os.stat_result | None = None,  # noqa: ARG002 - the server hashes
    ) -> None:
        """Upload the file and, unless the server verifies it, read it back; see Store.

        If the bytes of an existing object differ from the hash in its own metadata, it is damaged
        and is overwritten. So the next attempt repairs a put that the server damaged, even from
        another process and without permission to delete.
        """
        name = self._name(key)
        with self._store_errors(f"store {key} in"), path.open("rb") as body:
            new = self._put_new(name, body, sha256, content_type)
            if new and self._server().verifies:
                return
            found = self._read_back(name, meant=sha256 if new else None)
            if found.damaged and not new:
                body.seek(0)
                self._upload(name, body, sha256, content_type)
                found = self._read_back(name, meant=sha256)
        self._require_undamaged(key, found)
        if found.sha256 != sha256:
            raise ObjectDiffersError(
                f"{self.locate(key)} already holds other bytes "
                f"(SHA-256 {found.sha256}, not {sha256}); the first ones stay"
            )

    def create(self, key: str, data: bytes, *, content_type: str) -> bool:
        """Upload the bytes unless the key is taken; see Store.

        Only a conditional put makes sure that of two writers one succeeds.
        """
        name = self._name(key)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._store_errors(f"store {key} in"):
            if not self._server().conditional or not self._put_if_free(
                name, data, sha256, content_type
            ):
                return False
            self._require_stored(key, sha256)
        return True

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        """Upload the bytes over what is there; see Store."""
        name = self._name(key)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._store_errors(f"store {key} in"):
            self._upload(name, data, sha256, content_type)
            self._require_stored(key, sha256)

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Start the download; see Store. Only a whole object is compared with its declared hash."""
        part: _Range = {"Range": f"bytes={start}-"} if start else {}
        name = self._name(key)
        with self._store_errors(f"read {key} from"):
            answer = self._client().get_object(Bucket=self._bucket, Key=name, **part)
        declared = None if start else declared_hash(answer)
        return io.BufferedReader(
            Download(answer["Body"], declared, partial(self._store_errors, f"read {key} from")),
            CHUNK,
        )

    def link(self, key: str, seconds: int, *, name: str) -> str | None:
        """Return a signed URL without asking the server; see Store.

        Browsers save the file instead of showing it, whatever it contains.
        """
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
        """List the names in pages of a thousand; see Store."""
        below = f"{self._name(prefix)}/" if prefix else self._prefix
        # Without StartAfter the listing begins at the start; some servers refuse an empty value.
        start: _Start = {"StartAfter": self._prefix + after} if after else {}
        with self._store_errors("list"):
            for page in (
                self._client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self._bucket, Prefix=below, **start)
            ):
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    # Some tools create "folders": empty objects whose name ends with a slash.
                    if not (key.startswith(".") or "/." in key or key.endswith("/")):
                        yield key, found["Size"]

    def delete(self, key: str) -> None:
        """Delete the object; see Store. With versions or Object Lock the bucket keeps its bytes."""
        with self._store_errors(f"delete {key} from"):
            self._client().delete_object(Bucket=self._bucket, Key=self._name(key))

    def check(self) -> None:
        """Put the marker object and read it; see Store.

        Only the first check of a process writes it; the later ones get a 412.
        """
        with self._store_errors("write and read a trial object in"):
            self._put_marker_if_free(checksums=self._server().checksums)
            self._read_back(self._prefix + MARKER)

    def reads_back(self) -> bool:
        """Return whether each object is read back after its put."""
        with self._store_errors("write a trial object to"):
            return not self._server().verifies

    def probe(self) -> Capabilities:
        """Return what the server can do, tried with objects that are deleted again.

        Raise StoreError like ``check``.
        """
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
        """Upload the file unless the key is taken. Return whether it was uploaded."""
        if self._server().conditional:
            return self._put_if_free(name, body, sha256, content_type)
        if self._exists(name):
            return False
        self._upload(name, body, sha256, content_type)
        return True

    def _put_if_free(
        self, name: str, body: BinaryIO | bytes, sha256: str, content_type: str
    ) -> bool:
        """Upload an object in a conditional put; return False if the server says it is taken."""
        try:
            self._upload(name, body, sha256, content_type, IfNoneMatch="*")
        except ClientError as error:
            if is_taken(error):
                return False
            raise
        return True

    def _upload(
        self,
        name: str,
        body: BinaryIO | bytes,
        sha256: str,
        content_type: str,
        *,
        checksums: bool | None = None,
        **options: Unpack[_Options],
    ) -> None:
        if self._server().checksums if checksums is None else checksums:
            options["ChecksumSHA256"] = checksum(sha256)
        self._client().put_object(
            Bucket=self._bucket,
            Key=name,
            Body=body,
            ContentType=content_type,
            Metadata={"sha256": sha256},
            **options,
        )

    def _exists(self, name: str) -> bool:
        try:
            self._client().head_object(Bucket=self._bucket, Key=name)
        except ClientError as error:
            if status(error) == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def _require_stored(self, key: str, sha256: str) -> None:
        """Raise StoreError if the server is not trusted and what was just put is not there."""
        if not self._server().verifies:
            self._require_undamaged(key, self._read_back(self._name(key), meant=sha256))

    def _read_back(self, name: str, *, meant: str | None = None) -> ReadBack:
        return read_back(self._client(), self._bucket, name, meant=meant)

    def _require_undamaged(self, key: str, found: ReadBack) -> None:
        if found.damaged:
            raise StoreError(
                f"{self.locate(key)} was stored damaged: "
                f"its SHA-256 is {found.sha256} instead of {found.declared}"
            )

    def _server(self) -> _Abilities:
        """Return what the server can do; the first call finds it out with the marker."""
        with self._probing:
            if self._abilities is None:
                checksums = self._takes_checksums()
                self._abilities = _Abilities(
                    conditional=self._put_marker_if_free(checksums=checksums),
                    checksums=checksums,
                    verifies=checksums and self._verify == "auto" and self._refuses_wrong_hash(),
                )
            return self._abilities

    def _takes_checksums(self) -> bool:
        """Put the marker; return whether the server takes the SHA-256 in the request."""
        try:
            self._put_marker(checksums=True)
        except ClientError as error:
            if not is_unsupported(error):
                raise
            return False
        return True

    def _put_marker_if_free(self, *, checksums: bool) -> bool:
        """Return whether the server supports `If-None-Match: *`: the marker can be put only once.

        Some servers answer 501 or 400 to the header, some ignore it and overwrite (rclone).
        """
        for _ in range(2):
            try:
                self._put_marker(checksums=checksums, IfNoneMatch="*")
            except ClientError as error:
                if is_taken(error):
                    return True
                if not is_unsupported(error):
                    raise
                # Without the header; if that was not the cause, this fails too.
                self._put_marker(checksums=checksums)
                return False
        return False

    def _refuses_wrong_hash(self) -> bool:
        # If it takes the wrong hash, the marker is overwritten with the same text.
        name = self._prefix + MARKER
        return refuses_wrong_hash(self._client(), self._bucket, name, _MARKER_TEXT)

    def _put_marker(self, *, checksums: bool, **options: Unpack[_Options]) -> None:
        sha256 = hashlib.sha256(_MARKER_TEXT).hexdigest()
        name = self._prefix + MARKER
        self._upload(name, _MARKER_TEXT, sha256, "text/plain", checksums=checksums, **options)

    @contextmanager
    def _store_errors(self, doing: str) -> Iterator[None]:
        """Turn errors of boto3, and of the local file, into a StoreError that says what to do."""
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
        # Without the user name and password that the URL may contain.
        endpoint = self._cached_client.meta.endpoint_url.rpartition("@")[2]
        return f"the bucket {self._bucket!r} at {endpoint}"
