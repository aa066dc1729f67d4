"""PgBouncer before PostgreSQL: transaction mode is refused, session mode works as the page says."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from commands import invoke
from engine_harness import DistributedHarness, at_work
from ledgers import opened
from pgbouncer import pgbouncer
from postgres import PostgresServer
from processes import ROOT, Finished
from sqlalchemy import make_url, text
from waiting import until

from receiver.ledger import liveness
from receiver.ledger.postgres import PostgresDatabase

SECRET = "a-planted-secret-0123"
IGNORE = "ignore_startup_parameters = options"
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
CONFIGURATION, LIMITS = re.findall(
    r"^```\n(.*?)^```",
    PAGE.partition("## Poolers\n")[2].partition("\n## ")[0],
    re.MULTILINE | re.DOTALL,
)


def jobs(folder: Path, url: str) -> Finished:
    """Run a command that only looks."""
    environ = {
        "DATA_DIR": str(folder),
        "DATABASE_URL": url.replace("+psycopg", ""),
        "ARCHIVE_URL": f"file://{folder}/archive",
        "CALLBACK_SECRETS": SECRET,
        "ADMIN_TOKEN": SECRET,
    }
    return invoke(("receiver", "jobs"), environ, folder=folder)


@contextmanager
def busy(url: str, clients: int) -> Iterator[None]:
    """Have other clients of the pooler run transactions all the time."""
    stop = threading.Event()

    def run() -> None:
        with psycopg.connect(psycopg_url(url), autocommit=True, prepare_threshold=None) as client:
            while not stop.is_set():
                client.execute("SELECT 1")

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def psycopg_url(url: str) -> str:
    return url.replace("+psycopg", "")


@pytest.mark.parametrize(
    ("mode", "status", "said"),
    [
        ("transaction", 2, "set pool_mode=session there, or use the address of PostgreSQL itself"),
        ("statement", 1, "in statement pooling mode; set pool_mode = session in the pooler"),
    ],
)
def test_a_pooler_that_does_not_keep_sessions_is_refused_with_the_remedy(
    postgres_url: str, tmp_path: Path, mode: str, status: int, said: str
) -> None:
    with pgbouncer(postgres_url, f"pool_mode = {mode}", IGNORE) as url:
        done = jobs(tmp_path, url)
        assert (done.status, said in done.err) == (status, True), done


def test_other_clients_do_not_hide_the_mode(postgres_url: str) -> None:
    with (
        pgbouncer(postgres_url, "pool_mode = transaction", IGNORE) as url,
        busy(url, 4),
        ExitStack() as opened_ones,
    ):
        for _ in range(10):
            database = opened_ones.enter_context(closing(PostgresDatabase(url)))
            assert not database.keeps_sessions()


def test_without_a_pooler_sessions_are_kept(postgres_url: str) -> None:
    with closing(PostgresDatabase(postgres_url)) as database:
        assert database.keeps_sessions()


def test_a_pooler_that_refuses_our_options_is_named_with_the_remedy(
    postgres_url: str, tmp_path: Path
) -> None:
    with pgbouncer(postgres_url, "pool_mode = session") as url:
        done = jobs(tmp_path, url)
    assert done.status == 1
    assert "unsupported startup parameter: options" in done.err
    assert IGNORE in done.err


@pytest.fixture
def role(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    """Have a role with the limits of the page; yield the URL with its name."""
    url = make_url(postgres_url)
    with psycopg.connect(psycopg_url(postgres_url), autocommit=True) as connection:
        connection.execute("CREATE ROLE pooled LOGIN SUPERUSER")
        for statement in LIMITS.replace("USER", "pooled").split(";")[:-1]:
            connection.execute(statement.encode())
    yield url.set(username="pooled").render_as_string(hide_password=False)
    until(lambda: postgres_server.connections(postgres_url) == 0, what="every session's end")
    with psycopg.connect(psycopg_url(postgres_url), autocommit=True) as connection:
        connection.execute("DROP ROLE pooled")


def test_with_the_pages_settings_limits_notifications_and_locks_work(
    role: str, tmp_path: Path
) -> None:
    with pgbouncer(role, *CONFIGURATION.splitlines()) as url:
        assert jobs(tmp_path, url).status == 0
        with opened(url) as ledger, opened(url) as other:
            assert isinstance(ledger.database, PostgresDatabase)
            ledger.database.hold_lock(7)
            limit = text("SHOW statement_timeout")
            assert ledger.database.read(lambda one: one.execute(limit).scalar()) == "1min"
            assert other.database.read(lambda one: liveness.is_alive(one, 7))
            harness = DistributedHarness(ledger, tmp_path, url)
            with at_work(harness.engine(), harness.queue()):
                harness.add_jobs()
                until(harness.archived, what="the first, by which the engine listens")
                began = time.monotonic()
                DistributedHarness(other, tmp_path, url).add_jobs()
                until(lambda: harness.archived() == 2, what="the work, by a notification alone")
                assert time.monotonic() - began < 60
