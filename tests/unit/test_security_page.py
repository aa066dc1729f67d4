"""Every test that the security page names exists, and its numbers are those of the code."""

import re
from pathlib import Path

import pytest

from receiver.archive.inspect import reader
from receiver.jobs.reconcile import MOST_HINT_ATTEMPTS
from receiver.ledger import deliveries, hints
from receiver.net import client, connection, download
from receiver.server import gunicorn_worker, request_timeout
from receiver.server.arrivals import READ_TIMEOUT
from receiver.web import callback
from receiver.web.rate_limit import SHARE

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_every_test_it_names_exists(file: str, name: str) -> None:
    (path,) = (ROOT / "tests").rglob(file)
    assert re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_line_of_its_tables_names_a_test() -> None:
    lines = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith("| attack")
    ]
    assert len(lines) > 20
    assert [line for line in lines if not re.search(r"`test_\w+\.py::test_\w+`", line)] == []


def test_its_numbers_are_those_of_the_code() -> None:
    for number in (
        f"({callback.TASKS_A_MINUTE} new ids a minute",
        f"{hints.MOST_A_MINUTE} new ids a minute in all",
        f"at most {MOST_HINT_ATTEMPTS} times",
        f"{hints.MOST_WAITING:,} waiting",
        f"a wall clock of {request_timeout.REQUEST_TIMEOUT:.0f} s",
        f"cut after {READ_TIMEOUT} s",
        f"closed after {gunicorn_worker.CLOSE_TIMEOUT} s",
        f"{deliveries.MOST_KEPT} deliveries and {deliveries.MOST_BYTES >> 20} MiB",
        f"at most {download.MAX_REDIRECTS} redirects",
        f"{connection.MAX_HEAD >> 10} KiB around a body",
        f"at most {client.IDLE_CONNECTIONS} are kept, for at most {client.IDLE_SECONDS:.0f} s",
        f"{reader.MAX_SIDE:,} pixels a side",
        f"{reader.MAX_FRAMES:,} frames",
    ):
        assert number in PAGE
    assert SHARE == 0.5
    assert reader.MAX_AREA == 10**9


def test_it_says_how_to_report_a_hole() -> None:
    assert "## To report a hole" in PAGE
    assert "docs/security.md" in (ROOT / "README.md").read_text(encoding="utf-8")
