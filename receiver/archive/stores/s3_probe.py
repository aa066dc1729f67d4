"""Find out what an S3 server can do, by trying it with objects that are deleted again."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import requests
from botocore.exceptions import BotoCoreError, ClientError

from receiver.archive.stores.s3_bucket import Bucket, Checksum
from receiver.archive.stores.s3_errors import is_unsupported, status
from receiver.archive.stores.s3_put import Upload

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3 import S3Client

_TEXT = b"Written by `receiver doctor`, to be deleted at once. May be deleted.\n"
_SHA256 = hashlib.sha256(_TEXT).hexdigest()
_LINK_TIMEOUT = 10  # seconds to fetch a signed link


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server can do (True) or cannot. ``server`` is the name it gives itself."""

    server: str
    whole: bool  # what was read back is what was written
    conditional: bool  # it supports `If-None-Match: *`
    hashes: bool  # it refuses bytes that do not match the SHA-256 in the request
    metadata: bool  # it keeps the metadata of an object
    lists: bool
    links: bool  # it serves a signed URL
    deletes: bool

    def lacks(self) -> list[str]:
        """Return a line for each thing that the server cannot do, with the consequence."""
        without = {
            "conditional": "no conditional put: each put first checks if the key is free",
            "hashes": "accepts a wrong SHA-256",
            "metadata": "keeps no metadata: only the process that wrote an object notices damage",
            "lists": "may not be listed: `receiver rebuild` and `audit --deep` cannot work "
            "(allow s3:ListBucket)",
            "links": "serves no signed links: our own API serves the files",
            "deletes": "cannot delete: this trial object stays, and a full quarantine takes no new "
            "files (allow s3:DeleteObject)",
        }
        return [text for name, text in without.items() if not getattr(self, name)]


def probe(bucket: Bucket, prefix: str, checksum: Checksum) -> Capabilities:
    """Try everything on a new object below the prefix.

    Raise what boto3 raises if the object cannot be written or read.
    """
    name = f"{prefix}.receiver-doctor-{secrets.token_hex(8)}"
    client = bucket.client()
    upload = Upload(name, _TEXT, _SHA256, "text/plain")
    written = bucket.put_object(upload, checksum)
    try:
        read = client.get_object(Bucket=bucket.name, Key=name)
        metadata = {word.lower(): value for word, value in read["Metadata"].items()}
        findings = {
            "whole": read["Body"].read() == _TEXT,
            "metadata": metadata.get("sha256") == _SHA256,
            "conditional": _is_refused(
                lambda: bucket.put_object(upload, checksum, IfNoneMatch="*"),
                {412, 409},
            ),
            "hashes": _refuses_wrong_hash(bucket, f"{name}-wrong"),
            "lists": _works(
                lambda: client.list_objects_v2(Bucket=bucket.name, Prefix=name, MaxKeys=1)
            ),
            "links": _serves_links(client, bucket.name, name),
        }
    finally:
        deletes = _works(
            lambda: client.delete_object(Bucket=bucket.name, Key=name)
        ) and _is_refused(lambda: client.head_object(Bucket=bucket.name, Key=name), {404})
    headers = written["ResponseMetadata"]["HTTPHeaders"]
    return Capabilities(server=headers.get("server", "unnamed")[:60], deletes=deletes, **findings)


def _refuses_wrong_hash(bucket: Bucket, name: str) -> bool:
    """Return whether the server rejects a put whose SHA-256 is wrong."""
    wrong = hashlib.sha256(_TEXT + b"other").hexdigest()
    if _is_refused(
        lambda: bucket.put_object(Upload(name, _TEXT, wrong, "text/plain"), "sha256"),
        {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY},
    ):
        return True
    _works(lambda: bucket.client().delete_object(Bucket=bucket.name, Key=name))
    return False


def _serves_links(client: "S3Client", bucket: str, name: str) -> bool:
    url = client.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": name}, ExpiresIn=60
    )
    try:
        answer = requests.get(url, timeout=_LINK_TIMEOUT, allow_redirects=False)
    except requests.RequestException:
        return False
    return answer.status_code == HTTPStatus.OK and answer.content == _TEXT


def _works(act: Callable[[], object]) -> bool:
    try:
        act()
    except (ClientError, BotoCoreError):
        return False
    return True


def _is_refused(act: Callable[[], object], statuses: set[int]) -> bool:
    """Return whether the server answers with one of these HTTP statuses."""
    try:
        act()
    except ClientError as error:
        return status(error) in statuses and not is_unsupported(error)
    except BotoCoreError:
        return False
    return False
