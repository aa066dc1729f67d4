"""The procedures of docs/operations.md, rehearsed with the commands of the page."""

import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from archives import ArchivedJobs
from commands import invoke
from ledgers import LedgerHarness, opened
from pages import blocks, run_line, section
from postgres import PostgresServer
from processes import ROOT

from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import TicketError
from receiver.ingest.tickets import Tickets
from receiver.ledger import schema
from receiver.model import Submission, new_ref
from receiver.settings import Settings

PAGE = "operations.md"
SECRET = "a-planted-secret-0123"


@pytest.fixture
def data(sqlite_url: str, tmp_path: Path) -> Iterator[Path]:
    """Have a DATA_DIR with a ledger, a secret and an archive."""
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    (folder / "secrets").mkdir()
    (folder / "secrets" / "callback").write_text(SECRET)
    DirectoryStore(folder / "archive").check()
    yield folder
    assert list(tmp_path.glob(".*.sqlite3*")) == []


def run(lines: list[str], environ: dict[str, str], folder: Path) -> None:
    """Run the lines; each must succeed."""
    for line in lines:
        assert run_line(line, environ, folder) == 0, line


def refs(url: str) -> set[str]:
    with opened(url) as ledger:
        assert ledger.totals.audit().ok
        return {job.ref for job in ledger.queries.jobs(limit=1000)}


def submit(ledger: LedgerHarness) -> str:
    return ledger.jobs.submit(Submission("a fox", "m", {}), "https://provider.test").ref


# Backup and restore.


def test_backup_and_restore_lose_nothing(data: Path, sqlite_url: str, tmp_path: Path) -> None:
    kept = tmp_path / "backup"
    kept.mkdir()
    environ = {"DATA_DIR": str(data), "BACKUP": str(kept)}
    save, restore = blocks(PAGE, "Backup and restore")
    with opened(sqlite_url) as ledger:
        archived = ArchivedJobs(ledger, DirectoryStore(data / "archive"))
        earlier = {archived.job(), archived.job()}
        run(save, environ, tmp_path)
        later = archived.job()
    (data / "ledger.sqlite3").write_bytes(b"lost")
    run(restore, environ, tmp_path)
    assert refs(sqlite_url) == earlier | {later}
    assert {path.name for path in kept.iterdir()} == {"ledger.sqlite3", "secrets", "archive"}


# Upgrade and rollback.

LATER_RELEASE = """
ALTER TABLE jobs ADD COLUMN of_a_later_release TEXT;
CREATE TABLE of_a_later_release (id INTEGER PRIMARY KEY);
UPDATE alembic_version SET version_num = '9999'
"""


@pytest.mark.both_databases
def test_this_release_works_on_the_ledger_of_a_later_one(
    ledger_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if ledger_url.startswith("postgresql"):
        # Its tables change, so not the database that the tests share.
        server: PostgresServer = request.getfixturevalue("postgres_server")
        ledger_url = server.make_database(template=ledger_url)
        request.addfinalizer(lambda: server.drop_database(ledger_url))
    environ = {"DATA_DIR": str(tmp_path / "data"), **variables(ledger_url, tmp_path)}
    with opened(ledger_url) as ledger:
        for statement in LATER_RELEASE.split(";"):
            ledger.execute(statement)
        store = DirectoryStore(tmp_path / "archive")
        store.check()
        ref = ArchivedJobs(ledger, store).job()
        schema.require_current(ledger.database)
    for command, said in [
        (("receiver", "migrate"), "the ledger's schema is 9999"),
        (("receiver", "show", ref), "archived"),
        (("receiver", "audit"), ""),
    ]:
        done = invoke(command, environ, folder=tmp_path)
        assert (done.status, said in done.out) == (0, True), done


def variables(url: str, folder: Path) -> dict[str, str]:
    given = {"DATABASE_URL": url.replace("+psycopg", ""), "ARCHIVE_URL": f"file://{folder}/archive"}
    return {**given, "CALLBACK_SECRETS": SECRET, "ADMIN_TOKEN": SECRET}


def test_the_tests_that_the_page_names_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", section(PAGE, "Upgrade and rollback"))
    assert len(named) > 5
    for file, test in named:
        text = (ROOT / "tests/integration" / file).read_text(encoding="utf-8")
        assert f"def {test}" in text


# Rotation of secrets.


def secrets_after(block: list[str], file: Path) -> list[list[str]]:
    """Run a block in one shell; return CALLBACK_SECRETS as it is after each edit of the file."""
    script = "\n".join(f'{line}\ncat "$ENV_FILE"' if "sed -i" in line else line for line in block)
    environ = {"ENV_FILE": str(file), "PATH": "/usr/bin:/bin"}
    shell = ["/bin/sh", "-euc", script]
    done = subprocess.run(shell, check=True, env=environ, capture_output=True, text=True)
    found = re.findall(r"^CALLBACK_SECRETS=(.*)$", done.stdout, re.MULTILINE)
    settings = [Settings.load({"CALLBACK_SECRETS": value}) for value in found]
    return [[one.get_secret_value() for one in chosen.callback_secrets] for chosen in settings]


def accepts(secrets: list[str], signed_with: list[str]) -> bool:
    ref = new_ref(0)
    try:
        return Tickets(secrets).ref(Tickets(signed_with).sign(ref)) == ref
    except TicketError:
        return False


def test_no_step_of_a_rotation_refuses_a_ticket_that_another_machine_signs(tmp_path: Path) -> None:
    file = tmp_path / "receiver.env"
    file.write_text(f"A=1\nCALLBACK_SECRETS={SECRET}\nB=2\n")
    (block,) = blocks(PAGE, "Rotation of secrets")
    steps = [[SECRET], *secrets_after(block, file)]
    assert [len(step) for step in steps] == [1, 2, 2, 1]
    assert SECRET not in steps[-1]
    for before, after in pairwise(steps):
        assert accepts(before, after)
        assert accepts(after, before) or after is steps[-1]
    assert accepts(steps[-1], steps[-2])
    assert file.read_text().startswith("A=1\n")
    assert file.read_text().endswith("\nB=2\n")


# Moving up to PostgreSQL.


@pytest.fixture
def new_postgres(postgres_server: PostgresServer, migrated_postgres: str) -> Iterator[str]:
    """Make an empty ledger on PostgreSQL for one test."""
    postgres_server.empty(migrated_postgres)
    url = postgres_server.make_database(template=migrated_postgres)
    yield url
    postgres_server.drop_database(url)


def test_moving_up_keeps_every_job(
    data: Path, sqlite_url: str, new_postgres: str, tmp_path: Path
) -> None:
    (block,) = blocks("scaling.md", "Moving up from one machine")
    first, stop, second, start = [
        line.replace("/var/lib/receiver/ledger.sqlite3", str(data / "ledger.sqlite3"))
        for line in block
    ]
    assert stop.startswith("systemctl stop")
    assert start.startswith("systemctl start")
    environ = {"DATA_DIR": str(tmp_path / "new"), **variables(new_postgres, tmp_path)}
    with opened(sqlite_url) as service:
        jobs = {submit(service)}
        assert run_line(first, environ, tmp_path) == 1, "the old service still runs"
        jobs.add(submit(service))
    assert run_line(second, environ, tmp_path) == 0
    assert refs(new_postgres) == jobs


# The log, and the figures.


def test_the_events_of_the_log_that_the_page_names_exist() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section(PAGE, "The log"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row) if name != "event"]
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("receiver/**/*.py"))
    assert len(named) > 10
    assert [name for name in named if f'"{name}"' not in code] == []


@pytest.mark.parametrize(
    ("figure", "page"),
    [
        ("3,323", "performance.md"),
        ("1,909", "performance.md"),
        ("145 MB", "performance.md"),
        ("2.4 kB", "scaling.md"),
        ("1.5 kB", "scaling.md"),
    ],
)
def test_the_figures_of_the_size_table_are_measured_ones(figure: str, page: str) -> None:
    assert figure in section(PAGE, "Size and cost")
    assert figure in (ROOT / "docs" / page).read_text(encoding="utf-8")
