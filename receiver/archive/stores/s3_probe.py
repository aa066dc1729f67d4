"""What a bucket's server can do: tried with objects of our own, which are deleted again."""

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import requests
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3 import S3Client

_TEXT = b"Written by `receiver doctor`, to be deleted at once. May be deleted.\n"
_LINK_TIMEOUT = 10  # seconds for a signed link


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found: the ``server``'s name for itself, and what it can (True) or cannot do."""

    server: str
    whole: bool  # what was read back is what was written
    conditional: bool  # it keeps `If-None-Match: *`
    hashes: bool  # it refuses bytes that are not those of the SHA-256 sent along
    metadata: bool  # it keeps what is noted with an object
    lists: bool
    links: bool  # it serves a signed URL
    deletes: bool

    def lacks(self) -> list[str]:
        """Say what it cannot do, and what is done without."""
        without = {
            "conditional": "no conditional put: each put first asks whether the key is free",
            "hashes": "accepts a wrong SHA-256: every object is read back and hashed, as always",
            "metadata": "keeps no metadata: a damaged object is told only by whoever wrote it",
            "lists": "may not be listed: `receiver rebuild` and `audit --deep` cannot work (allow s3:ListBucket)",
            "links": "serves no signed links: files are passed on by our own API",
            "deletes": "nothing can be deleted: the service never does, but this trial object stays",
        }
        return [text for name, text in without.items() if not getattr(self, name)]


def probe(client: "S3Client", bucket: str, prefix: str) -> Capabilities:
    """Try everything on an object of our own below the prefix; raise what boto3 raises if it cannot be written or read."""
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


def _refuses_wrong_hash(client: "S3Client", bucket: str, name: str) -> bool:
    wrong = base64.b64encode(hashlib.sha256(b"something else").digest()).decode()
    try:
        return _is_refused(
            lambda: client.put_object(Bucket=bucket, Key=name, Body=_TEXT, ChecksumSHA256=wrong),
            {400, 422},
        )
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
    """Say whether something is answered with one of these statuses."""
    try:
        act()
    except ClientError as error:
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in statuses
    except BotoCoreError:
        return False
    return False
