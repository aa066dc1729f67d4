"""Puts that repeat the request of an earlier put with another object.

For every request boto3 validates the parameters, looks the endpoint up in a set of rules and calls
a dozen handlers. Without TLS it also hashes the body again for the signature. Together that takes
half of the processor time of archiving a picture. So boto3 builds only the first put. The next ones
use its URL, region and headers again; botocore signs and sends them too.

A request that is not answered with success is sent again through boto3, which follows redirects
and knows how to read errors; the next put that succeeds is the new model.
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from threading import local
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.utils import percent_encode

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3 import S3Client

_SAFE = "/-._~"  # characters of a key that botocore does not escape in a URL
_REGION = re.compile(r"AWS4-HMAC-SHA256 Credential=\S+/\d{8}/([^/\s]+)/s3/aws4_request,")
_CHECKSUM = "x-amz-checksum-sha256"
# After this many answers of success with a body the server seems to send one always. boto3 then
# sends all puts, because each would be sent twice.
_MOST_WITH_BODY = 10
# Headers that belong to one object or to one request, in lower case.
_OWN_HEADERS = frozenset(
    {
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "authorization",
        "content-length",
        "content-type",
        "date",
        "expect",
        "if-none-match",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-meta-sha256",
        "x-amz-security-token",
        _CHECKSUM,
    }
)


@dataclass(frozen=True, slots=True)
class Upload:
    """An object to put: its name, bytes and SHA-256 (hex), and whether its name must be free."""

    name: str
    body: BinaryIO | bytes
    sha256: str
    content_type: str
    only_if_free: bool = False

    def rewound(self) -> BinaryIO | bytes:
        """Return the bytes, or the file at its start."""
        if not isinstance(self.body, bytes):
            self.body.seek(0)
        return self.body

    def checksum(self) -> str:
        """Return the SHA-256 as S3 writes it."""
        return base64.b64encode(bytes.fromhex(self.sha256)).decode()

    def headers(self) -> dict[str, str]:
        """Return the headers that only this object has."""
        headers = {
            "Content-Type": self.content_type,
            "x-amz-meta-sha256": self.sha256,
            _CHECKSUM: self.checksum(),
        }
        if self.only_if_free:
            headers["If-None-Match"] = "*"
        if not isinstance(self.body, bytes):
            headers["Expect"] = "100-continue"  # as boto3 does: a refused file is not sent
        return headers


@dataclass(frozen=True, slots=True)
class _Model:
    """What the puts of a client have in common."""

    base: str  # the URL without the name of the object
    region: str
    headers: Mapping[str, str]
    signs_body: bool


class RepeatedPuts:
    """The puts of one client; many threads may use them."""

    def __init__(self, client: "S3Client", credentials: Credentials) -> None:
        self.client = client
        self._credentials = credentials
        self._model: _Model | None = None
        self._with_body = 0
        self._sent = local()  # the latest request of each thread
        client.meta.events.register("before-send.s3.PutObject", self._remember)

    def put(self, upload: Upload, put_object: Callable[[], object]) -> None:
        """Put an object with its SHA-256 as checksum and metadata.

        ``put_object`` does the same with the client. It is called if there is no model, and if the
        server does not answer with success, to raise the error.
        """
        if (model := self._model) and self._repeat(model, upload):
            return
        self._model = None
        put_object()
        if self._with_body < _MOST_WITH_BODY:
            self._model = _model(self._sent.request, upload.name)

    def _remember(self, request: AWSPreparedRequest, **_: object) -> None:
        self._sent.request = request

    def _repeat(self, model: _Model, upload: Upload) -> bool:
        """Send the request; return whether the server answers with success."""
        request = AWSRequest(
            "PUT",
            model.base + _quoted(upload.name),
            headers={**model.headers, **upload.headers()},
            data=upload.rewound(),
        )
        payload = upload.sha256 if model.signs_body else UNSIGNED_PAYLOAD
        _Signer(self._credentials.get_frozen_credentials(), model.region, payload).add_auth(request)
        endpoint: Any = self.client._endpoint  # type: ignore[attr-defined] # noqa: SLF001 - botocore has no public way to send a request of one's own
        # Not request.prepare(): connections know ``Expect`` only as bytes, which this makes of it.
        answer = endpoint.http_session.send(endpoint.prepare_request(request))
        is_success = bool(answer.status_code < HTTPStatus.MULTIPLE_CHOICES)
        if is_success and answer.content:
            # It may be an error that S3 noticed late, or the page of a proxy.
            self._with_body += 1
            return False
        return is_success


class _Signer(S3SigV4Auth):
    """botocore's signature, of a body whose hash is known."""

    def __init__(self, credentials: ReadOnlyCredentials, region: str, payload: str) -> None:
        super().__init__(credentials, "s3", region)
        self._payload = payload

    def payload(self, request: AWSRequest) -> str:  # noqa: ARG002 - botocore's signature
        return self._payload


def _model(sent: AWSPreparedRequest, name: str) -> _Model | None:
    """Return what other puts can take over; None if their requests would differ in another way."""
    headers = {key: _text(value) for key, value in sent.headers.items()}
    lower = {key.lower(): value for key, value in headers.items()}
    region = _REGION.match(lower.get("authorization", ""))
    if not (region and _CHECKSUM in lower and sent.url.endswith(f"/{_quoted(name)}")):
        return None
    return _Model(
        sent.url.removesuffix(_quoted(name)),
        region[1],
        {key: value for key, value in headers.items() if key.lower() not in _OWN_HEADERS},
        signs_body=lower.get("x-amz-content-sha256") != UNSIGNED_PAYLOAD,
    )


def _quoted(name: str) -> str:
    return str(percent_encode(name, safe=_SAFE))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
