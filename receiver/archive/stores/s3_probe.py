"""Find out what an S3 server can do, by trying it with objects that are deleted again."""

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import requests
from botocore.exceptions import BotoCoreError, ClientError

from receiver.archive.stores.s3_errors import status

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3 import S3Client

_TEXT = b"Written by `receiver doctor`, to be deleted at once. May be deleted.\n"
_WRONG_HASH = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}
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


def probe(client: "S3Client", bucket: str, prefix: str) -> Capabilities:
    """Try everything on a new object below the prefix.

    Raise what boto3 raises if the object cannot be written or read.
    """
    name = f"{prefix}.receiver-doctor-{secrets.token_hex(8)}"
    digest = hashlib.sha256(_TEXT).hexdigest()
    written = client.put_object(
        Bucket=bucket, Key=name, Body=_TEXT, ContentType="text/plain", Metadata={"sha256": digest}
    )
    try:
        read = client.get_object(Bucket=bucket, Key=name)
        metadata = {word.lower(): value for word, value in read["Metadata"].items()}
        findings = {
            "whole": read["Body"].read() == _TEXT,
            "metadata": metadata.get("sha256") == digest,
            "conditional": _is_refused(
                lambda: client.put_object(Bucket=bucket, Key=name, Body=_TEXT, IfNoneMatch="*"),
                {412, 409},
            ),
            "hashes": _refuses_wrong_hash(client, bucket, f"{name}-wrong"),
            "lists": _works(lambda: client.list_objects_v2(Bucket=bucket, Prefix=name, MaxKeys=1)),
            "links": _serves_links(client, bucket, name),
        }
    finally:
        deletes = _works(lambda: client.delete_object(Bucket=bucket, Key=name)) and _is_refused(
            lambda: client.head_object(Bucket=bucket, Key=name), {404}
        )
    headers = written["ResponseMetadata"]["HTTPHeaders"]
    return Capabilities(server=headers.get("server", "unnamed")[:60], deletes=deletes, **findings)


def checksum(sha256: str) -> str:
    """Return a SHA-256 (hex) as S3 writes it in requests: base64."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def refuses_wrong_hash(client: "S3Client", bucket: str, name: str, data: bytes) -> bool:
    """Return whether the server rejects a put whose SHA-256 is wrong; otherwise it has stored it.

    Raise what boto3 raises if it rejects the put for another reason.
    """
    wrong = checksum(hashlib.sha256(data + b"other").hexdigest())
    try:
        client.put_object(Bucket=bucket, Key=name, Body=data, ChecksumSHA256=wrong)
    except ClientError as error:
        if status(error) in _WRONG_HASH:
            return True
        raise
    return False


def _refuses_wrong_hash(client: "S3Client", bucket: str, name: str) -> bool:
    try:
        return refuses_wrong_hash(client, bucket, name, _TEXT)
    except (ClientError, BotoCoreError):
        return False
    finally:
        _works(lambda: client.delete_object(Bucket=bucket, Key=name))


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
        return status(error) in statuses
    except BotoCoreError:
        return False
    return False
