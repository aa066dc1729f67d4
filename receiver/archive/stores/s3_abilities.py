"""Find out how a server stores objects, with the marker object and few writes."""

import base64
import hashlib
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

from botocore.exceptions import ClientError

from receiver.archive.stores.s3_bucket import Bucket, Checksum, Condition
from receiver.archive.stores.s3_errors import error_code, is_taken, is_unsupported, status
from receiver.archive.stores.s3_put import Upload

MARKER_TEXT = (
    b"Written once by webhook-image-receiver to see whether it may write here. May be deleted.\n"
)
_SHA256 = hashlib.sha256(MARKER_TEXT).hexdigest()
_WRONG = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
# Errors 400 that say nothing about a hash.
_FAULTS = frozenset({"ExpiredToken", "InvalidToken", "RequestTimeout", "TokenRefreshRequired"})
_ONLY_IF_FREE: Condition = {"IfNoneMatch": "*"}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server can do."""

    conditional: bool  # it supports `If-None-Match: *`
    checksum: Checksum  # what it takes in a put; buckets with Object Lock require one
    verifies: bool  # it rejects a wrong SHA-256, so objects need not be read back


class _Outcome(Enum):
    STORED = auto()
    TAKEN = auto()
    WRONG_HASH = auto()
    UNSUPPORTED = auto()


def find_abilities(bucket: Bucket, marker: str) -> Abilities:
    """Return what the server can do.

    The marker is written if it is not there. A server that ignores conditions and hashes overwrites
    it once, with the same text. So a process costs at most one new version of it.
    """
    known = None if _exists(bucket, marker) else put_marker(bucket, marker)
    if known not in (None, "sha256"):
        return Abilities(_is_conditional(bucket, marker, known), known, verifies=False)
    match _try(bucket, marker, wrong=True, condition=_ONLY_IF_FREE):
        case _Outcome.STORED:
            return Abilities(conditional=False, checksum="sha256", verifies=False)
        case _Outcome.WRONG_HASH:
            return Abilities(_is_conditional(bucket, marker, "sha256"), "sha256", verifies=True)
        case first:
            hashed = _try(bucket, marker, wrong=True)
            takes_hash = hashed is not _Outcome.UNSUPPORTED
            checksum = "sha256" if takes_hash else put_marker(bucket, marker)
            return Abilities(
                first is _Outcome.TAKEN or _is_conditional(bucket, marker, checksum),
                checksum,
                verifies=hashed is _Outcome.WRONG_HASH,
            )


def put_marker(bucket: Bucket, marker: str) -> Checksum:
    """Put the marker; return the best checksum that the server takes.

    Some servers refuse a SHA-256. Of these, some require an MD5 if the bucket has Object Lock.
    """
    try:
        _put(bucket, marker, "sha256")
    except ClientError as error:
        if not is_unsupported(error):
            raise
    else:
        return "sha256"
    try:
        _put(bucket, marker, "md5")
    except ClientError as error:
        if not is_unsupported(error):
            raise
    else:
        return "md5"
    _put(bucket, marker, "none")
    return "none"


def _exists(bucket: Bucket, marker: str) -> bool:
    try:
        return bucket.exists(marker)
    except ClientError as error:
        if status(error) == HTTPStatus.FORBIDDEN:
            return False  # who may not list gets no 404; the put says whether it may write
        raise


def _is_conditional(bucket: Bucket, marker: str, checksum: Checksum) -> bool:
    """Return whether the server supports `If-None-Match: *`: the marker is there already.

    Some servers answer 501 or 400 to the header, some ignore it and overwrite (rclone).
    """
    return _try(bucket, marker, checksum, condition=_ONLY_IF_FREE) is _Outcome.TAKEN


def _try(
    bucket: Bucket,
    marker: str,
    checksum: Checksum = "sha256",
    *,
    wrong: bool = False,
    condition: Condition | None = None,
) -> _Outcome:
    try:
        _put(bucket, marker, checksum, wrong=wrong, condition=condition)
    except ClientError as error:
        if is_taken(error):
            return _Outcome.TAKEN
        if is_unsupported(error):
            return _Outcome.UNSUPPORTED
        if wrong and _rejects_hash(error):
            return _Outcome.WRONG_HASH
        raise
    return _Outcome.STORED


def _rejects_hash(error: ClientError) -> bool:
    is_bad = status(error) in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
    return is_bad and error_code(error) not in _FAULTS


def _put(
    bucket: Bucket,
    marker: str,
    checksum: Checksum,
    *,
    wrong: bool = False,
    condition: Condition | None = None,
) -> None:
    condition = condition or {}
    if wrong:
        condition, checksum = {**condition, "ChecksumSHA256": _WRONG}, "none"
    bucket.put_object(Upload(marker, MARKER_TEXT, _SHA256, "text/plain"), checksum, **condition)
