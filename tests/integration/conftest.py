"""Fixtures of the integration tests: ledgers on SQLite and PostgreSQL, stores, sandbox, web client.

A ledger fixture fails if its test left a connection open.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import product
from pathlib import Path

import pytest
from archives import ArchivedJobs
from archiving import SIZE
from dashboard_client import log_in
from direct_route import DirectRoute
from event_server import SECRET, EventServer
from fake_s3 import FakeS3, fake_s3
from faultproxy import FaultProxy, fault_proxy
from ledgers import LedgerHarness, migrated_file, opened
from poison import CrashHarness
from postgres import KillablePostgres, PostgresServer, killable_postgres
from reconciling import ReconcileHarness
from seaweed import S3Server
from waiting import until
from web_client import WebClient, web_client

from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import open_store
from receiver.archive.stores.directory import DirectoryStore
from receiver.ledger import schema
from receiver.services import Services
from receiver.settings import Settings
from submitter.sandbox import Sandbox

BOTH = ("sqlite", "postgresql")
STORES = ("directory", "bucket")
USUAL_PAIRS = {("directory", "sqlite"), ("bucket", "postgresql")}


# Ledgers


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "ledger.sqlite3"
    migrated_file(path)
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """Migrate one PostgreSQL database, to be emptied for each test."""
    url = postgres_server.make_database()
    schema.migrate(url)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> Iterator[str]:
    """Make a SQLite ledger for one test."""
    path = tmp_path / "ledger.sqlite3"
    yield migrated_file(path)
    assert open_files(path) == []


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, migrated_postgres: str) -> Iterator[str]:
    """Make a PostgreSQL ledger for one test."""
    postgres_server.empty(migrated_postgres)
    yield migrated_postgres
    until(
        lambda: postgres_server.connections(migrated_postgres) == 0,
        what="every connection closed",
    )


@pytest.fixture(scope="module")
def killable() -> Iterator[KillablePostgres]:
    """Run a PostgreSQL for one module, which may stop and restart it."""
    with killable_postgres() as server:
        yield server


@pytest.fixture
def killable_url(killable: KillablePostgres) -> str:
    """Make a database on it."""
    return killable.make_database()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of ``ledger_url`` on SQLite, and on PostgreSQL too where the dialect matters.

    A test of ``store`` runs on both stores. With both databases it has all four combinations only
    if it is thorough: no code of a store knows the database.
    """
    fixtures = {"ledger_url", "store_kind"} & {*metafunc.fixturenames}
    always = metafunc.config.getoption("databases") == "both"
    both = always or any(metafunc.definition.iter_markers("both_databases"))
    if fixtures == {"ledger_url", "store_kind"} and both:
        marks = () if always else pytest.mark.thorough
        pairs = [
            pytest.param(*pair, marks=() if pair in USUAL_PAIRS else marks)
            for pair in product(STORES, BOTH)
        ]
        metafunc.parametrize(("store_kind", "ledger_url"), pairs, indirect=["ledger_url"])
        return
    if "store_kind" in fixtures:
        metafunc.parametrize("store_kind", STORES)
    if "ledger_url" in fixtures:
        metafunc.parametrize("ledger_url", BOTH if both else BOTH[:1], indirect=True)


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest) -> str:
    """Make a ledger for one test."""
    return str(
        request.getfixturevalue(
            {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
        )
    )


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[LedgerHarness]:
    """Open the ledger at ``ledger_url``."""
    with opened(ledger_url) as ledger:
        yield ledger


# Archives


@pytest.fixture
def store(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Open a directory, and a bucket of a real S3 server. Both have the store's hidden files."""
    url = (
        f"file://{tmp_path}/archive"
        if store_kind == "directory"
        else f"s3://{request.getfixturevalue('bucket')}/some/prefix"
    )
    with closing(open_store(url)) as store:
        store.check()
        yield store


@pytest.fixture
def archived_jobs(ledger: LedgerHarness, store: Store) -> ArchivedJobs:
    """Have an archive on each of the two stores."""
    return ArchivedJobs(ledger, store)


@pytest.fixture
def directory_jobs(ledger: LedgerHarness, tmp_path: Path) -> ArchivedJobs:
    """Have an archive in a directory, for tests that do not depend on the store."""
    store = DirectoryStore(tmp_path / "archive")
    store.check()
    return ArchivedJobs(ledger, store)


@pytest.fixture
def proxy(
    s3_server: S3Server,
    bucket: str,  # noqa: ARG001 - its address goes last
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FaultProxy]:
    """Put a proxy before the S3 server; it changes nothing until a test sets a fault."""
    with fault_proxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


@pytest.fixture
def fake_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeS3, FaultProxy]]:
    """Run a fake S3 server whose bucket is called `pictures`; boto3's variables lead to it."""
    with fake_s3("pictures") as (server, proxy):
        for name, value in S3Server(proxy.url, client=None).environment().items():  # type: ignore[arg-type] # no client is needed
            monkeypatch.setenv(name, value)
        yield server, proxy


# The sandbox as the provider


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Run a sandbox whose pictures are ready at once."""
    with Sandbox(script={"delay": 0, "bytes": SIZE}) as running:
        yield running


@pytest.fixture
def harness(sqlite_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[ReconcileHarness]:
    """Return a reconciler whose provider is the sandbox."""
    with opened(sqlite_url) as ledger:
        yield ReconcileHarness(ledger, tmp_path, sandbox)


@pytest.fixture
def services(sandbox: Sandbox, tmp_path: Path) -> Iterator[Services]:
    """Open services whose provider is the sandbox, and whose callbacks are not received."""
    environ = {
        "DATA_DIR": str(tmp_path),
        "GRSAI_API_KEY": "sk-test",
        "GRSAI_BASE_URL": sandbox.url,
        "PUBLIC_URL": "http://127.0.0.1:9",
    }
    migrated_file(tmp_path / "ledger.sqlite3")
    with closing(Services(Settings.load(environ)).open()) as services:
        yield services


# Workers, the direct route and destinations of events


@pytest.fixture
def crash_harness(ledger: LedgerHarness, tmp_path: Path) -> CrashHarness:
    """Return a ledger whose workers crash."""
    return CrashHarness(ledger, tmp_path)


@pytest.fixture
def route(ledger: LedgerHarness, tmp_path: Path) -> DirectRoute:
    """Return the direct route on this ledger."""
    return DirectRoute(ledger, tmp_path)


@pytest.fixture
def sqlite_route(sqlite_url: str, tmp_path: Path) -> Iterator[DirectRoute]:
    """Return the direct route on SQLite alone, for tests that do not depend on the database."""
    with opened(sqlite_url) as ledger:
        yield DirectRoute(ledger, tmp_path)


@pytest.fixture
def event_server() -> Iterator[EventServer]:
    """Run a destination of events."""
    with EventServer() as running:
        yield running


@pytest.fixture
def webhook_environ(
    services: Services, sandbox: Sandbox, event_server: EventServer
) -> dict[str, str]:
    """Return the variables of a service whose jobs may name webhooks at the event server."""
    return {
        "DATA_DIR": str(services.settings.data_dir),
        "GRSAI_API_KEY": "sk-test",
        "GRSAI_BASE_URL": sandbox.url,
        "EVENT_SECRET": SECRET,
        "FETCH_ALLOW": event_server.address,
    }


# The web application


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[WebClient]:
    """Open the web application."""
    with web_client(tmp_path / "data", {"DATABASE_URL": sqlite_url}) as web:
        yield web


@pytest.fixture
def logged_in(web: WebClient) -> WebClient:
    """Open the web application and log in."""
    log_in(web)
    return web


def open_files(path: Path) -> list[str]:
    """Return which files of the ledger at ``path`` this process has open (Linux only)."""
    found = []
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(FileNotFoundError):  # the one that was open for this list
            found.append(str(link.readlink()))
    return [target for target in found if target.startswith(str(path))]
