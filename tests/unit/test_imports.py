"""What is not imported until it is needed: drivers, decoders, and what takes much memory."""

import subprocess
import sys
from pathlib import Path

from processes import ROOT

# The last ones are extras.
PACKAGES = ("psycopg", "PIL", "boto3", "cryptography", "openai", "mcp", "opentelemetry")


def imported(code: str, *packages: str) -> list[str]:
    """Return which of these a new process has imported after running the code."""
    asked = f"import sys; {code}; print(*[name for name in {packages} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", asked],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    return found.stdout.split()


def test_web_and_worker_do_not_import_what_most_installations_do_not_need() -> None:
    code = "import receiver.cli, receiver.web, receiver.cli.worker; receiver.web.create_app()"
    assert imported(code, *PACKAGES, "rich", "alembic") == []


def test_a_command_that_prints_a_table_imports_what_the_service_did_not() -> None:
    assert imported("import receiver.cli, receiver.cli.jobs", "rich") == ["rich"]


def test_a_first_start_leaves_nothing_of_its_migration_in_the_processes_of_the_service(
    tmp_path: Path,
) -> None:
    code = f"""import os, sys
os.environ.update(DATA_DIR={str(tmp_path)!r}, PORT="0", HOST="127.0.0.1")
import receiver.cli.serve as serve
serve.become_supervisor = lambda *_: None
serve.serve.main([], standalone_mode=False)"""
    assert imported(f"exec({code!r})", "alembic", "rich") == []
    assert (tmp_path / "ledger.sqlite3").stat().st_size


def test_no_metric_is_created_before_the_metrics_of_a_process_are_shared() -> None:
    code = "import receiver.cli.serve, receiver.cli.worker, receiver.gunicorn_conf"
    code += ", receiver.server.gunicorn_worker"
    assert imported(code, "receiver.telemetry.metrics") == []
