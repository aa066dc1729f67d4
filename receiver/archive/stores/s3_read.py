"""Read objects of S3-compatible storage and compare them with the hash their writer declared."""

import hashlib
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.response import StreamingBody

from receiver.archive.stores.s3_bucket import Bucket
from receiver.errors import StoreError

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from _typeshed import WriteableBuffer
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

CHUNK = 256 * 1024  # bytes read at once


@dataclass(frozen=True, slots=True)
class ReadBack:
    """An object read back: the SHA-256 of its bytes, and the one its writer declared, if known."""

    sha256: str
    declared: str | None

    @property
    def damaged(self) -> bool:
        """Whether the bytes are not what their writer sent: damaged in transit or in the bucket."""
        return self.declared is not None and self.declared != self.sha256


def read_back(bucket: Bucket, name: str, *, meant: str | None) -> ReadBack:
    """Download and hash an object.

    ``meant`` is the expected hash, for servers that keep no metadata.
    """
    answer = bucket.call(lambda client: client.get_object(Bucket=bucket.name, Key=name))
    digest = hashlib.sha256()
    body = answer["Body"]
    try:
        for chunk in body.iter_chunks(CHUNK):
            digest.update(chunk)
    finally:
        body.close()
    return ReadBack(digest.hexdigest(), declared_hash(answer) or meant)


class Download(io.RawIOBase):
    """The body of a response as a raw stream that raises StoreErrors.

    At its end the SHA-256 must be the ``declared`` one, if that is known.
    """

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
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some bytes; none only at the end."""
        view = memoryview(buffer)
        with self._store_errors():
            data = self._body.read(len(view))
        self._digest.update(data)
        if view and not data and self._declared not in (None, self._digest.hexdigest()):
            raise StoreError(
                f"the object is damaged: its SHA-256 is {self._digest.hexdigest()} "
                f"instead of {self._declared}"
            )
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the connection; the rest of the body is not read."""
        self._body.close()
        super().close()


def declared_hash(answer: "GetObjectOutputTypeDef") -> str | None:
    """Return the SHA-256 in the object's metadata. Some servers change the case: `Sha256`."""
    return {word.lower(): value for word, value in answer["Metadata"].items()}.get("sha256")
