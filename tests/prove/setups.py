"""The setups: ledger and archive. Each round has its own database and bucket or folder."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from postgres import PostgresServer
from seaweed import S3Server, client_of

_PREFIX = "archive"


@dataclass(frozen=True, slots=True)
class Setup:
    """One combination of ledger and archive."""

    ledger: str  # sqlite, postgresql
    archive: str  # directory, s3

    @property
    def name(self) -> str:
        """Its name in options and tables."""
        return f"{self.ledger}+{self.archive}"


SQLITE_DIRECTORY, SQLITE_S3, POSTGRESQL_S3 = (
    Setup("sqlite", "directory"),
    Setup("sqlite", "s3"),
    Setup("postgresql", "s3"),
)
SETUPS = {setup.name: setup for setup in (SQLITE_DIRECTORY, SQLITE_S3, POSTGRESQL_S3)}


@dataclass(frozen=True, slots=True)
class Servers:
    """The real servers that the rounds share, or None if no setup needs one."""

    s3_url: str | None = None
    postgres: PostgresServer | None = None

    def s3(self) -> S3Server:
        """Return the S3 server with this process's own connections."""
        assert self.s3_url is not None
        return S3Server(self.s3_url, client_of(self.s3_url))


class Archive(Protocol):
    """The archive without any code of the service. Names do not include the prefix."""

    def names(self) -> list[str]:
        """List every object, hidden ones too."""

    def read(self, name: str) -> bytes:
        """Return an object's bytes."""

    def remove(self, name: str) -> None:
        """Remove an object, to check that it is missed."""


@dataclass(frozen=True, slots=True)
class Folder:
    """An archive in a directory."""

    root: Path

    def names(self) -> list[str]:
        """See Archive."""
        return sorted(
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()
        )

    def read(self, name: str) -> bytes:
        """See Archive."""
        return (self.root / name).read_bytes()

    def remove(self, name: str) -> None:
        """See Archive."""
        (self.root / name).unlink()


@dataclass(frozen=True, slots=True)
class Bucket:
    """An archive in a bucket."""

    server: S3Server
    name: str

    def names(self) -> list[str]:
        """See Archive."""
        pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(
            entry["Key"].removeprefix(f"{_PREFIX}/")
            for page in pages
            for entry in page.get("Contents", [])
        )

    def read(self, name: str) -> bytes:
        """See Archive."""
        return self.server.client.get_object(Bucket=self.name, Key=f"{_PREFIX}/{name}")[
            "Body"
        ].read()

    def remove(self, name: str) -> None:
        """See Archive."""
        self.server.client.delete_object(Bucket=self.name, Key=f"{_PREFIX}/{name}")


def digests(archive: Archive) -> dict[str, str]:
    """Return the SHA-256 of every object that is neither a manifest nor hidden."""
    plain = [
        name for name in archive.names() if not is_hidden(name) and not name.endswith("/job.json")
    ]
    return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in plain}


def is_hidden(name: str) -> bool:
    """Say whether an object is hidden: neither picture nor manifest."""
    return any(part.startswith(".") for part in name.split("/"))


@dataclass(frozen=True, slots=True)
class RoundStorage:
    """One round's storage: variables for the service, the archive, its S3 server if any."""

    environ: dict[str, str]
    archive: Archive
    s3: S3Server | None = None


@contextmanager
def round_storage(
    setup: Setup, servers: Servers, data: Path, own_s3: S3Server | None = None
) -> Iterator[RoundStorage]:
    """Make a database and an archive, removed at the end. ``own_s3``: on its own S3 server."""
    with _ledger(setup, servers) as environ:
        if setup.archive == "directory":
            yield RoundStorage(environ, Folder(data / "archive"))
            return
        server = own_s3 or servers.s3()
        bucket = server.make_bucket()
        more = {**server.environment(), "ARCHIVE_URL": f"s3://{bucket}/{_PREFIX}"}
        yield RoundStorage({**environ, **more}, Bucket(server, bucket), server)


@contextmanager
def _ledger(setup: Setup, servers: Servers) -> Iterator[dict[str, str]]:
    if setup.ledger == "sqlite":
        yield {}
        return
    assert servers.postgres is not None
    url = servers.postgres.make_database()
    try:
        yield {"DATABASE_URL": url.replace("postgresql+psycopg://", "postgresql://")}
    finally:
        if (
            sys.exc_info()[0] is None
        ):  # after a broken promise it is evidence; it ends with the server anyway
            servers.postgres.drop_database(url)
