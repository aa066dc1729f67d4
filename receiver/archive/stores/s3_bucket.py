"""A bucket of S3-compatible storage: its client, which renews its credentials, and its errors."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from receiver.archive.stores.s3_endpoint import bucket_in_endpoint
from receiver.archive.stores.s3_errors import (
    error_code,
    is_unsupported,
    remedy,
    status,
)
from receiver.archive.stores.s3_options import S3Options
from receiver.archive.stores.s3_put import RepeatedPuts, Upload
from receiver.archive.stores.s3_transport import Limits, limit_time
from receiver.errors import MissingObjectError, StoreError
from receiver.net.aws_client import AwsClient

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectOutputTypeDef

T = TypeVar("T")
_BLOCK = 256 * 1024  # bytes hashed at once
# What a put says about its bytes, so that the server can verify them.
Checksum = Literal["sha256", "md5", "none"]

# What boto3 raises. ValueError and RecursionError come from responses that are not S3's: a
# malformed number, or endless redirects.
_FOREIGN_ERRORS = (
    ClientError,
    BotoCoreError,
    HTTPError,
    ResponseParserError,
    ValueError,
    RecursionError,
)


class Condition(TypedDict, total=False):
    """What trials of a server say besides."""

    IfNoneMatch: str
    ChecksumSHA256: str


class Bucket:
    """A bucket and the one client that everything uses.

    Endpoint, region and credentials come from boto3's environment variables and files; renewed ones
    are used, see AwsClient.
    """

    def __init__(self, name: str, options: S3Options, limits: Limits) -> None:
        self.name = name
        self._options = options
        self._limits = limits
        self._config = Config(
            connect_timeout=limits.connect,
            read_timeout=limits.stall,
            max_pool_connections=32,
            # The ledger decides about retries.
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation=options.checksums,
            response_checksum_validation=options.checksums,
            s3={"addressing_style": options.addressing_style},
            # By default boto3 signs links with an older version, which most servers refuse.
            signature_version="s3v4",
            # boto3 makes its own long name again for every request, a tenth of its time.
            user_agent="webhook-image-receiver",
        )
        self._client: AwsClient[S3Client] = AwsClient(self._make)
        self._puts: RepeatedPuts | None = None

    def client(self) -> "S3Client":
        """Return the client; many threads may use it."""
        return self._client.get()

    def call(self, operation: Callable[["S3Client"], T]) -> T:
        """Return what the operation returns; repeat it if the credentials were renewed."""
        return self._client.call(operation)

    def put(self, upload: Upload, checksum: Checksum) -> None:
        """Upload an object with its SHA-256 as metadata, like ``put_object`` but cheaper."""

        def put(client: "S3Client") -> None:
            puts = self._puts
            if checksum == "sha256" and puts and puts.client is client:
                puts.put(upload, lambda: self._put_object(client, upload, checksum))
            else:
                self._put_object(client, upload, checksum)

        self.call(put)

    def put_object(
        self, upload: Upload, checksum: Checksum, **condition: Unpack[Condition]
    ) -> "PutObjectOutputTypeDef":
        """Upload an object with its SHA-256 as metadata; return the whole answer."""
        return self.call(lambda client: self._put_object(client, upload, checksum, **condition))

    def _put_object(
        self,
        client: "S3Client",
        upload: Upload,
        checksum: Checksum,
        **condition: Unpack[Condition],
    ) -> "PutObjectOutputTypeDef":
        declared: Any = {**condition, **self._options.put_headers()}
        if upload.only_if_free:
            declared["IfNoneMatch"] = "*"
        if checksum == "sha256":
            declared["ChecksumSHA256"] = upload.checksum()
        elif checksum == "md5":
            declared["ContentMD5"] = _md5(upload)
        return client.put_object(
            Bucket=self.name,
            Key=upload.name,
            Body=upload.rewound(),
            ContentType=upload.content_type,
            Metadata={"sha256": upload.sha256},
            **declared,
        )

    def exists(self, name: str) -> bool:
        """Return whether there is such an object.

        The answer to a HEAD has no body. So a refused one is repeated as GET, whose answer says
        why.
        """
        try:
            self.call(lambda client: client.head_object(Bucket=self.name, Key=name))
        except ClientError as error:
            if status(error) == HTTPStatus.NOT_FOUND:
                return False
            return self._can_get(name)
        return True

    def _can_get(self, name: str) -> bool:
        try:
            self.call(lambda client: client.get_object(Bucket=self.name, Key=name))["Body"].close()
        except ClientError as error:
            if error_code(error) == "NoSuchKey":  # asked with credentials renewed since the HEAD
                return False
            raise
        return True

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def store_errors(self, doing: str) -> Iterator[None]:
        """Turn errors of boto3, and of the local file, into a StoreError that says what to do."""
        try:
            yield
        except _FOREIGN_ERRORS as error:
            kind = MissingObjectError if error_code(error) == "NoSuchKey" else StoreError
            raise kind(
                f"cannot {doing} {self._place()}: {remedy(error)}{self._suspicion(error)}"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot {doing} {self._place()}: {error}") from error

    def _make(self, session: boto3.session.Session) -> "S3Client":
        try:
            client = session.client("s3", config=self._config)
        except ValueError as error:  # botocore's complaint about an endpoint
            raise StoreError(
                "AWS_ENDPOINT_URL_S3 is not a URL: write it like https://host:port"
            ) from error
        if (found := bucket_in_endpoint(client.meta.endpoint_url, self.name)) and found.certain:
            raise StoreError(found.remedy)
        limit_time(client, self._limits)
        credentials = session.get_credentials()  # None: the first put says which are missing
        self._puts = RepeatedPuts(client, credentials) if credentials else None
        return client

    def _suspicion(self, error: Exception) -> str:
        """Return what else may be the cause of an error, as the settings suggest."""
        if self._client.made is None:
            return ""
        found = bucket_in_endpoint(self._client.made.meta.endpoint_url, self.name)
        if found and error_code(error) != "NoSuchKey":
            return f"; if it is not meant so: {found.remedy}"
        if isinstance(error, ClientError) and is_unsupported(error) and self._options.put_headers():
            return "; it may not know what S3_SSE or S3_STORAGE_CLASS say"
        return ""

    def _place(self) -> str:
        if self._client.made is None:
            return f"the bucket {self.name!r}"
        # Without the user name and password that the URL may contain.
        endpoint = self._client.made.meta.endpoint_url.rpartition("@")[2]
        return f"the bucket {self.name!r} at {endpoint}"


def _md5(upload: Upload) -> str:
    body = upload.rewound()
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes):
        digest.update(body)
    else:
        while block := body.read(_BLOCK):
            digest.update(block)
    return base64.b64encode(digest.digest()).decode()
