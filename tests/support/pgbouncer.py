"""PgBouncer, a pooler, before the PostgreSQL of the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from processes import free_port
from real_parts import missing
from sqlalchemy import make_url
from waiting import until

# It refuses to run as root, so root runs it as the user nobody.
_NOBODY = 65534
_ELSEWHERE = "/usr/sbin"  # where Debian installs it; a user's PATH may lack it


@contextmanager
def pgbouncer(url: str, *lines: str) -> Iterator[str]:
    """Run PgBouncer, configured with these lines, before the database at ``url``; yield its URL."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:{_ELSEWHERE}")
    if program is None:
        missing("PgBouncer (Debian: pgbouncer)")
    behind, port = make_url(url), free_port()
    pooled = behind.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    # Not in the test's folder, which that user may not read.
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir="/tmp") as folder:
        users, config = Path(folder, "users.txt"), Path(folder, "pgbouncer.ini")
        users.write_text(f'"{behind.username}" "{behind.password or ""}"\n')
        config.write_text(
            f"[databases]\n* = host={behind.query.get('host', behind.host)}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\n" + "\n".join(lines)
        )
        Path(folder).chmod(0o755)
        nobody = _NOBODY if os.geteuid() == 0 else None
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, str(config)],
                stdout=log,
                stderr=log,
                user=nobody,
                group=nobody,
                extra_groups=None if nobody is None else [],
            )
        try:
            until(lambda: process.poll() is None and _answers(port), what="PgBouncer's answer")
            yield pooled
        finally:
            process.terminate()
            process.wait()


def _answers(port: int) -> bool:
    """Return whether it takes connections; it knows no user of this name."""
    try:
        psycopg.connect(f"host=127.0.0.1 port={port} dbname=none user=unknown", connect_timeout=5)
    except psycopg.OperationalError as error:
        return "refused" not in str(error)
    return True
