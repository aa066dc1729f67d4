"""A client of boto3 that uses renewed credentials without a restart."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, TypeVar

import boto3
from botocore.exceptions import BotoCoreError, ClientError


class Closable(Protocol):
    """What every client of boto3 is."""

    def close(self) -> None:
        """Close the connections."""


C = TypeVar("C", bound=Closable)
T = TypeVar("T")

# Error codes after which other credentials may help.
_REFUSED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurityToken",
        "InvalidToken",
        "InvalidTokenId",  # MinIO's name for it
        "RequestExpired",
        "SecurityTokenExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
# boto3's variables for the files with credentials, and its defaults.
_FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
}


class AwsClient(Generic[C]):
    """One client, made from a session at the first use and again when there are new credentials.

    They are read again if boto3's files change, or if the server refuses the present ones and any
    source has others.
    """

    def __init__(self, make: Callable[[boto3.session.Session], C]) -> None:
        self._make = make
        self._lock = Lock()
        self._client: C | None = None
        self._credentials: object = None  # those of the client
        self._paths = [
            Path(os.environ.get(variable) or default).expanduser()
            for variable, default in _FILES.items()
        ]
        self._files: object = None  # the state of these files when they were read

    @property
    def made(self) -> C | None:
        """The client, if it has been made."""
        return self._client

    def get(self) -> C:
        """Return the client; many threads may use it."""
        with self._lock:  # making a client is not thread-safe, using one is
            files = [_state(path) for path in self._paths]
            client = self._client
            if client is None or files != self._files:
                try:
                    client = self._begin()
                except BotoCoreError:  # the file is being written, or wrong: use what we have
                    if client is None:
                        raise
                    return client
            self._files = files
            return client

    def call(self, operation: Callable[[C], T]) -> T:
        """Return what the operation returns; repeat it if the credentials were renewed."""
        client = self.get()
        try:
            return operation(client)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code not in _REFUSED or not self._has_renewed(client):
                raise
        return operation(self.get())

    def close(self) -> None:
        """Close the connections; the next use makes a new client."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _begin(self) -> C:
        session = boto3.session.Session()
        client, self._credentials = self._make(session), _credentials(session)
        self._client = client
        return client

    def _has_renewed(self, client: C) -> bool:
        """Return whether there are other credentials than the client's by now.

        Making a client costs ten times as much as finding that out.
        """
        with self._lock:
            if self._client is not client:
                return True  # another thread was here before
            if _credentials(boto3.session.Session()) == self._credentials:
                return False
            self._begin()
            return True


def _credentials(session: boto3.session.Session) -> object:
    """Return the credentials that boto3 finds now, in all its sources."""
    found = session.get_credentials()
    return found and found.get_frozen_credentials()


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return a value that changes when the file is written."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
