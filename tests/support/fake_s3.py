"""A small S3 server in memory, for rules that a real one cannot be made to have.

It verifies checksums and conditions like AWS and keeps every version. Signatures are not checked.
The rules of ``faultproxy`` work before it too.
"""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from faultproxy import FaultProxy, ProxyRequest, ProxyResponse, proxy_before, s3_error

_KEPT = ("content-type", "x-amz-meta-", "x-amz-server-side-", "x-amz-storage-class")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of an object: its bytes, and the headers that came with them."""

    body: bytes
    headers: dict[str, str]


@dataclass(slots=True)
class FakeS3:
    """One bucket; ``versions`` has all that was ever put, by name."""

    bucket: str
    versions: dict[str, list[StoredObject]] = field(default_factory=dict)

    def answer(self, request: ProxyRequest) -> ProxyResponse:
        """Answer one request."""
        url = urlsplit(request.path)
        bucket, _, name = unquote(url.path).lstrip("/").partition("/")
        if bucket != self.bucket:
            return s3_error(404, "NoSuchBucket", "The specified bucket does not exist")
        if request.method == "PUT":
            return self._put(name, request)
        if request.method == "DELETE":
            self.versions.pop(name, None)
            return ProxyResponse(204)
        if not name:
            return self._list(parse_qs(url.query))
        found = self.versions.get(name)
        if found is None:
            return s3_error(404, "NoSuchKey", "The specified key does not exist.")
        body = found[-1].body if request.method == "GET" else b""
        return ProxyResponse(
            200, {"content-length": str(len(found[-1].body)), **found[-1].headers}, body
        )

    def _put(self, name: str, request: ProxyRequest) -> ProxyResponse:
        for header, digest in (
            ("x-amz-checksum-sha256", hashlib.sha256),
            ("content-md5", hashlib.md5),
        ):
            meant = request.headers.get(header)
            if meant and meant != base64.b64encode(digest(request.body).digest()).decode():
                return s3_error(400, "BadDigest", "The digest did not match.")
        if "if-none-match" in request.headers and name in self.versions:
            return s3_error(412, "PreconditionFailed")
        headers = {name: value for name, value in request.headers.items() if name.startswith(_KEPT)}
        self.versions.setdefault(name, []).append(StoredObject(request.body, headers))
        # The ETag is not an MD5, as with objects that are encrypted with KMS.
        return ProxyResponse(200, {"etag": '"no-digest-1"'})

    def _list(self, query: dict[str, list[str]]) -> ProxyResponse:
        prefix = query.get("prefix", [""])[0]
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(found[-1].body)}</Size></Contents>"
            for name, found in sorted(self.versions.items())
            if name.startswith(prefix)
        )
        return ProxyResponse(
            200,
            {"content-type": "application/xml"},
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}"
            "</ListBucketResult>".encode(),
        )


@contextmanager
def fake_s3(bucket: str) -> Iterator[tuple[FakeS3, FaultProxy]]:
    """Run the server behind a proxy, which has its URL and the rule, until the block ends."""
    server = FakeS3(bucket)
    with proxy_before(server.answer) as proxy:
        yield server, proxy
