"""A store in a bucket of S3-compatible storage.

The server is not trusted: after every put the object is read back and hashed. This is skipped only
if the server has shown that it rejects an object with a wrong SHA-256. A conditional put
(``If-None-Match: *``) keeps the first bytes, if the server supports it. Otherwise the store asks
before the put whether the key is free. Then two puts at the same moment could both find it free;
the ledger's claims prevent that, because only one worker has an asset.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, TypedDict

from botocore.exceptions import ClientError

from receiver.archive.stores import require_key
from receiver.archive.stores.s3_abilities import Abilities, find_abilities, put_marker
from receiver.archive.stores.s3_bucket import Bucket
from receiver.archive.stores.s3_errors import error_code, is_taken
from receiver.archive.stores.s3_options import DEFAULT, S3Options
from receiver.archive.stores.s3_probe import Capabilities, probe
from receiver.archive.stores.s3_put import Upload
from receiver.archive.stores.s3_read import CHUNK, Download, ReadBack, declared_hash, read_back
from receiver.archive.stores.s3_transport import LIMITS, Limits
from receiver.errors import ObjectDiffersError, StoreError

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

MARKER = ".receiver"  # name of the object that `check` writes once; it is not a valid key
_WAIT = 5.0  # seconds that a thread waits for another one that writes the marker


class _Start(TypedDict, total=False):
    StartAfter: str
    ContinuationToken: str


class _Range(TypedDict, total=False):
    Range: str


class S3Store:
    """A store in a bucket, below a prefix.

    Endpoint, region and credentials come from boto3's variables and files.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        options: S3Options = DEFAULT,
        limits: Limits = LIMITS,
    ) -> None:
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = Bucket(bucket, options, limits)
        self._always_reads = options.verify == "always"
        self._abilities: Abilities | None = None  # found out at the first use
        self._probing = Lock()  # so that not every thread puts the marker
        self._marking = Lock()
        self._failed_to_write = False

    def put(
        self,
        key: str,
        path: Path,
        *,
        sha256: str,
        content_type: str,
        hashed: os.stat_result | None = None,  # noqa: ARG002 - the server hashes
        settled: bool = True,  # noqa: ARG002 - a bucket always settles
    ) -> None:
        """Upload the file and, unless the server verifies it, read it back; see Store.

        If the bytes of an existing object differ from the hash in its own metadata, it is damaged
        and is overwritten. So the next attempt repairs a put that the server damaged, even from
        another process and without permission to delete.
        """
        name = self._name(key)
        with self._writing(key), path.open("rb") as body:
            upload = Upload(name, body, sha256, content_type)
            new = self._put_new(upload)
            if new and not self._reads():
                return
            found = self._read_back(name, meant=sha256 if new else None)
            if found.damaged and not new:
                self._upload(upload)
                found = self._read_back(name, meant=sha256)
        self._require_undamaged(key, found)
        if found.sha256 != sha256:
            raise ObjectDiffersError(
                f"{self.locate(key)} already holds other bytes "
                f"(SHA-256 {found.sha256}, not {sha256}); the first ones stay"
            )

    def settle(self, key: str) -> None:
        """Do nothing: a bucket's object has its name when the put returns; see Store."""

    def create(self, key: str, data: bytes, *, content_type: str) -> bool:
        """Upload the bytes unless the key is taken; see Store.

        Only a conditional put makes sure that of two writers one succeeds.
        """
        upload = self._bytes_upload(key, data, content_type)
        with self._writing(key):
            if not (self._server().conditional and self._put_if_free(upload)):
                return False
            self._require_stored(key, upload.sha256)
        return True

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        """Upload the bytes over what is there; see Store."""
        upload = self._bytes_upload(key, data, content_type)
        with self._writing(key):
            self._upload(upload)
            self._require_stored(key, upload.sha256)

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Start the download; see Store. Only a whole object is compared with its declared hash."""
        part: _Range = {"Range": f"bytes={start}-"} if start else {}
        name = self._name(key)
        with self._bucket.store_errors(f"read {key} from"):
            answer = self._bucket.call(
                lambda client: client.get_object(Bucket=self._bucket.name, Key=name, **part)
            )
        declared = None if start else declared_hash(answer)
        return io.BufferedReader(
            Download(
                answer["Body"], declared, partial(self._bucket.store_errors, f"read {key} from")
            ),
            CHUNK,
        )

    def link(self, key: str, seconds: int, *, name: str) -> str | None:
        """Return a signed URL without asking the server; see Store.

        Browsers save the file instead of showing it, whatever it contains.
        """
        wanted = {
            "Bucket": self._bucket.name,
            "Key": self._name(key),
            "ResponseContentDisposition": f'attachment; filename="{name}"',
        }
        with self._bucket.store_errors(f"sign a link to {key} in"):
            return self._bucket.client().generate_presigned_url(
                "get_object", Params=wanted, ExpiresIn=seconds
            )

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        """List the names in pages of a thousand; see Store."""
        below = f"{self._name(prefix)}/" if prefix else self._prefix
        # Without StartAfter the listing begins at the start; some servers refuse an empty value.
        start: _Start = {"StartAfter": self._prefix + after} if after else {}
        with self._bucket.store_errors("list"):
            while True:
                page = self._page(below, start)
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    # Some tools create "folders": empty objects whose name ends with a slash.
                    if not (key.startswith(".") or "/." in key or key.endswith("/")):
                        yield key, found["Size"]
                if not page.get("IsTruncated"):
                    return
                start = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Delete the object; see Store. With versions or Object Lock the bucket keeps its bytes."""
        name = self._name(key)
        with self._bucket.store_errors(f"delete {key} from"):
            self._bucket.call(
                lambda client: client.delete_object(Bucket=self._bucket.name, Key=name)
            )

    def check(self) -> None:
        """Read the marker object; see Store.

        It is written only if it is missing, or if a write failed before: then a reader could not
        tell whether the archive can be used again.
        """
        with self._bucket.store_errors("write and read a trial object in"):
            self._server()
            if self._failed_to_write:
                self._put_marker(lambda: self._failed_to_write)
            try:
                self._read_back(self._prefix + MARKER)
            except ClientError as error:
                if error_code(error) != "NoSuchKey":
                    raise
                self._put_marker(lambda: not self._bucket.exists(self._prefix + MARKER))

    def _put_marker(self, is_needed: Callable[[], bool]) -> None:
        """Put the marker if that is still needed when no other thread is doing it."""
        if not self._marking.acquire(timeout=_WAIT):
            raise StoreError("another thread is still trying to write to the bucket")
        try:
            if is_needed():
                put_marker(self._bucket, self._prefix + MARKER)
                self._failed_to_write = False
        finally:
            self._marking.release()

    def reads_back(self) -> bool:
        """Return whether each object is read back after its put."""
        with self._bucket.store_errors("write a trial object to"):
            return self._reads()

    def probe(self) -> Capabilities:
        """Return what the server can do, tried with objects that are deleted again.

        Raise StoreError like ``check``.
        """
        with self._bucket.store_errors("write and read a trial object in"):
            return probe(self._bucket, self._prefix, self._server().checksum)

    def locate(self, key: str) -> str:
        """Return the object's ``s3://`` URL."""
        return f"s3://{self._bucket.name}/{self._name(key)}"

    def close(self) -> None:
        """Close the connections; see Store."""
        self._bucket.close()

    def _name(self, key: str) -> str:
        return self._prefix + require_key(key)

    def _bytes_upload(self, key: str, data: bytes, content_type: str) -> Upload:
        return Upload(self._name(key), data, hashlib.sha256(data).hexdigest(), content_type)

    def _put_new(self, upload: Upload) -> bool:
        """Upload the file unless the key is taken. Return whether it was uploaded."""
        if self._server().conditional:
            return self._put_if_free(upload)
        if self._bucket.exists(upload.name):
            return False
        self._upload(upload)
        return True

    def _put_if_free(self, upload: Upload) -> bool:
        """Upload an object in a conditional put; return False if the server says it is taken."""
        try:
            self._upload(replace(upload, only_if_free=True))
        except ClientError as error:
            if is_taken(error):
                return False
            raise
        return True

    def _upload(self, upload: Upload) -> None:
        self._bucket.put(upload, self._server().checksum)

    def _page(self, below: str, start: _Start) -> "ListObjectsV2OutputTypeDef":
        return self._bucket.call(
            lambda client: client.list_objects_v2(Bucket=self._bucket.name, Prefix=below, **start)
        )

    def _require_stored(self, key: str, sha256: str) -> None:
        """Raise StoreError if the server is not trusted and what was just put is not there."""
        if self._reads():
            self._require_undamaged(key, self._read_back(self._name(key), meant=sha256))

    def _read_back(self, name: str, *, meant: str | None = None) -> ReadBack:
        return read_back(self._bucket, name, meant=meant)

    def _require_undamaged(self, key: str, found: ReadBack) -> None:
        if found.damaged:
            raise StoreError(
                f"{self.locate(key)} was stored damaged: "
                f"its SHA-256 is {found.sha256} instead of {found.declared}"
            )

    def _reads(self) -> bool:
        return self._always_reads or not self._server().verifies

    def _server(self) -> Abilities:
        """Return what the server can do; the first call finds it out with the marker."""
        with self._probing:
            if self._abilities is None:
                self._abilities = find_abilities(self._bucket, self._prefix + MARKER)
            return self._abilities

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """Turn errors into StoreErrors, and remember that a write failed."""
        try:
            with self._bucket.store_errors(f"store {key} in"):
                yield
        except StoreError:
            self._failed_to_write = True
            raise
