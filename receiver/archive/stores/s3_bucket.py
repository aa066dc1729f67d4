"""The client of a bucket of S3-compatible storage, and its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from receiver.archive.stores import AddressingStyle, Checksums
from receiver.archive.stores.s3_errors import error_code, remedy
from receiver.errors import MissingObjectError, StoreError

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from mypy_boto3_s3 import S3Client

# What boto3 raises. ValueError and RecursionError come from responses that are not S3's: a number
# that is none, or endless redirects.
_FOREIGN_ERRORS = (
    ClientError,
    BotoCoreError,
    HTTPError,
    ResponseParserError,
    ValueError,
    RecursionError,
)


class Bucket:
    """A bucket and the one client that everything uses.

    Endpoint, region and credentials come from boto3's environment variables. ``timeouts`` are the
    seconds to connect and to wait for data.
    """

    def __init__(
        self,
        name: str,
        addressing_style: AddressingStyle,
        checksums: Checksums,
        timeouts: tuple[float, float],
    ) -> None:
        self.name = name
        self._config = Config(
            connect_timeout=timeouts[0],
            read_timeout=timeouts[1],
            max_pool_connections=32,
            # The ledger decides about retries.
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            s3={"addressing_style": addressing_style},
            # By default boto3 signs links with an older version, which most servers refuse.
            signature_version="s3v4",
            # boto3 makes its own long name again for every request, a tenth of its time.
            user_agent="webhook-image-receiver",
        )
        self._lock = Lock()
        self._cached_client: S3Client | None = None

    def client(self) -> "S3Client":
        """Return the client; many threads may use it."""
        with self._lock:  # making a client is not thread-safe, using one is
            if self._cached_client is None:
                try:
                    self._cached_client = boto3.session.Session().client("s3", config=self._config)
                except ValueError as error:  # botocore's complaint about an endpoint
                    raise StoreError(
                        "AWS_ENDPOINT_URL_S3 is no URL: write it like https://host:port"
                    ) from error
            return self._cached_client

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._cached_client is not None:
                self._cached_client.close()
            self._cached_client = None

    @contextmanager
    def store_errors(self, doing: str) -> Iterator[None]:
        """Turn errors of boto3, and of the local file, into a StoreError that says what to do."""
        try:
            yield
        except _FOREIGN_ERRORS as error:
            kind = MissingObjectError if error_code(error) == "NoSuchKey" else StoreError
            raise kind(f"cannot {doing} {self._place()}: {remedy(error)}") from error
        except OSError as error:
            raise StoreError(f"cannot {doing} {self._place()}: {error}") from error

    def _place(self) -> str:
        if self._cached_client is None:
            return f"the bucket {self.name!r}"
        # Without the user name and password that the URL may contain.
        endpoint = self._cached_client.meta.endpoint_url.rpartition("@")[2]
        return f"the bucket {self.name!r} at {endpoint}"
