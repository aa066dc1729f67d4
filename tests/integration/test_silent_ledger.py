"""A PostgreSQL that answers nothing, or has no connection left: probers are answered at once."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from relay import Relay, relay
from side_by_side import side_by_side
from sqlalchemy import make_url, text
from waiting import until
from web_client import RUNNING, WebClient, web_client

from receiver.ledger.postgres import PostgresDatabase
from receiver.web.health_checks import LIFETIMES

ENVIRON = {"CALLBACK_SECRETS": "a-planted-secret-0123", "ADMIN_TOKEN": "a-planted-token-0123"}
PATHS = ("/healthz", "/readyz", "/status", "/metrics")


@pytest.fixture
def between(postgres_url: str) -> Iterator[Relay]:
    """Run a relay before PostgreSQL."""
    folder = make_url(postgres_url).query["host"]
    with relay(f"{folder}/.s.PGSQL.5432") as between:
        yield between


@pytest.fixture
def web(
    postgres_url: str, between: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WebClient]:
    """Open the web application, which keeps no answer; the relay is between it and PostgreSQL."""
    monkeypatch.setattr("receiver.web.health_checks.LIFETIMES", dict.fromkeys(LIFETIMES, 0.0))
    name = make_url(postgres_url).database
    url = f"postgresql://postgres@127.0.0.1:{between.port}/{name}"
    archive = f"file://{tmp_path}/data/archive"
    with web_client(
        tmp_path / "data", {"DATABASE_URL": url, "ARCHIVE_URL": archive, **ENVIRON}
    ) as web:
        yield web


def probe(web: WebClient, path: str) -> int:
    return int(web.client.application.test_client().get(path).status_code)


def probe_all(web: WebClient) -> dict[str, set[int]]:
    """Call each path ten times side by side; return the statuses of each path."""
    paths = PATHS * 10
    statuses = side_by_side([partial(probe, web, path) for path in paths])
    return {
        path: {status for asked, status in zip(paths, statuses, strict=True) if asked == path}
        for path in PATHS
    }


WHILE_IT_HANGS = {"/healthz": {200}, "/readyz": {503}, "/status": {503}, "/metrics": {200}}


def test_a_ledger_that_hangs_holds_no_prober_and_is_ready_again_by_itself(
    web: WebClient, between: Relay
) -> None:
    assert web.client.get("/readyz").status_code == 200
    with between.silent():
        first = web.client.get("/readyz").json
        assert (first["ok"], first["ledger"]) == (False, "no answer within 2 s")
        began = time.perf_counter()
        assert probe_all(web) == WHILE_IT_HANGS
        assert time.perf_counter() - began < 10, "each question is waited for once, for 2 s"
    until(lambda: web.client.get("/readyz").status_code == 200, what="that it is ready again")
    assert web.callback(web.ticket(), RUNNING).status_code == 200


@contextmanager
def every_connection_taken(database: PostgresDatabase) -> Iterator[None]:
    """Hold every connection of the pool during the block."""
    with ExitStack() as taken:
        for _ in range(16):
            connection = taken.enter_context(database._engine.connect())
            connection.execute(text("SELECT 1"))
        yield


def test_without_a_free_connection_probers_are_answered_at_once(web: WebClient) -> None:
    assert isinstance(web.services.database, PostgresDatabase)
    with every_connection_taken(web.services.database):
        assert web.client.get("/readyz").status_code == 503
        assert probe_all(web) == WHILE_IT_HANGS
    until(lambda: web.client.get("/readyz").status_code == 200, what="that it is ready again")
