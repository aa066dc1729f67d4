"""The endpoint: its name, and a URL that contains the bucket, as consoles of providers show it."""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from botocore.configprovider import ConfiguredEndpointProvider
from botocore.session import Session

# How the host of a service begins or ends, without a bucket.
_SERVICE = re.compile(
    r"(s3|oss|cos|obs|minio|storage|objects?)[-.]"
    r"|.*\.(r2\.cloudflarestorage|digitaloceanspaces|backblazeb2|wasabisys)\.com$"
)


_AWS = re.compile(r"(.+\.)?amazonaws\.com(\.cn)?$")


def configured_host() -> str:
    """Return host and port of the endpoint in boto3's variables and files; "" for AWS itself.

    Raise BotoCoreError if they cannot be read.
    """
    session = Session()
    found = ConfiguredEndpointProvider(
        session.full_config, session.get_scoped_config(), "s3", os.environ
    ).provide()
    url = urlsplit(found or "")
    host, port = url.hostname or "", f":{url.port}" if url.port else ""
    return "" if _AWS.match(host) else f"{host}{port}"


@dataclass(frozen=True, slots=True)
class Misplaced:
    """The correct value, and whether the URL can mean nothing else."""

    remedy: str
    certain: bool


def bucket_in_endpoint(endpoint: str, bucket: str) -> Misplaced | None:
    """Return what to write instead of an endpoint that contains the bucket, else None."""
    url = urlsplit(endpoint)
    host, port = url.hostname or "", f":{url.port}" if url.port else ""
    host = f"[{host}]" if ":" in host else host
    rest = host.removeprefix(f"{bucket.lower()}.")
    in_path = url.path.strip("/").partition("/")[0] == bucket
    # A name and a top-level domain are left at least.
    in_host = rest != host and "." in rest and not rest.replace(".", "").isdigit()
    if _SERVICE.match(host) and not _SERVICE.match(rest):
        in_host = False  # a bucket called "s3" at s3.amazonaws.com
    if in_path:
        return Misplaced(_remedy(f"{url.scheme}://{host}{port}"), certain=True)
    if in_host:
        return Misplaced(
            _remedy(f"{url.scheme}://{rest}{port}"), certain=bool(_SERVICE.match(rest))
        )
    return None


def _remedy(correct: str) -> str:
    return (
        "AWS_ENDPOINT_URL_S3 contains the bucket, which ARCHIVE_URL names already: "
        f"write AWS_ENDPOINT_URL_S3={correct}"
    )
