"""Power loss: whatever moment it comes, and whatever was not synced is gone, the promises hold."""

import hashlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from http_server import HttpServer
from power_loss import Ignored, is_possible, losses, record
from processes import ROOT
from real_parts import missing

from submitter.sandbox.pictures import picture

PNG = picture("a picture", "png", 8, 8, 400, None)
JOBS = 2
# What the process says that must survive.
KINDS = {"secret", "submitted", "acknowledged", "archived", "ended"}


class Files(HttpServer):
    """Serves the same picture under every path."""

    def handle_get(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(PNG)))
        request.end_headers()
        request.wfile.write(PNG)


@pytest.fixture(scope="module")
def recorded(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """Record one process; return what was on the disk before, and its system calls."""
    if not is_possible():
        missing("strace")
    folder = tmp_path_factory.mktemp("power")
    data, before = folder / "data", folder / "before"
    data.mkdir()
    shutil.copy(sqlite_template, data / "ledger.sqlite3")
    shutil.copytree(data, before)
    scenario = str(ROOT / "tests/support/power_loss_scenario.py")
    paths = f"{ROOT}:{ROOT / 'tests/support'}"
    with Files() as source:
        command = [sys.executable, scenario, str(data), source.address, str(JOBS)]
        lines = record(command, folder / "calls", {"PYTHONPATH": paths})
    shutil.rmtree(data)
    before.rename(data)
    return data, lines


def damages(data: Path, lines: list[str], into: Path, ignored: Ignored) -> Iterator[str]:
    """Yield what is missing after a power loss, at each moment at which one differs."""
    for number, disk in enumerate(losses(data, lines, ignored)):
        left = into / str(number)
        disk.restore(left)
        for damage in missing_from(left, disk.said):
            yield f"{damage}, after {disk.said[-1:]}"
        shutil.rmtree(left)


def missing_from(left: Path, said: list[str]) -> Iterator[str]:
    """Compare what is left with what the process had said; open the ledger as SQLite does."""
    with closing(sqlite3.connect(left / "ledger.sqlite3")) as ledger:
        if ledger.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            yield "the ledger is damaged"
            return
        states = dict(ledger.execute("SELECT ref, state FROM jobs"))
        archived = ledger.execute(
            "SELECT ref, idx, key, sha256 FROM assets WHERE state = 'archived'"
        ).fetchall()
        there = {f"submitted {ref}" for ref in states}
        there |= {f"ended {ref}" for ref, state in states.items() if state == "archived"}
        there |= {f"archived {ref} {idx}" for ref, idx, *_ in archived}
        for ref, digest in ledger.execute("SELECT ref, digest FROM deliveries"):
            there.add(f"acknowledged {ref} {digest}")
    with suppress(FileNotFoundError):
        there.add(f"secret {(left / 'secrets/callback').read_text().strip()}")
    yield from (line for line in said if line not in there and line.partition(" ")[0] in KINDS)
    for *_, key, sha256 in archived:
        path = left / "archive" / key
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            yield "a picture"
    for ref in (ref for ref, state in states.items() if state == "archived"):
        manifests = list((left / "archive").glob(f"*/*/*/{ref}/job.json"))
        if len(manifests) != 1 or json.loads(manifests[0].read_bytes() or b"{}").get("ref") != ref:
            yield "a manifest"


def test_a_power_loss_at_any_moment_loses_nothing_that_was_acknowledged(
    recorded: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data, lines = recorded
    assert list(damages(data, lines, tmp_path, ignored=lambda _: False)) == []
    *_, disk = losses(data, lines)
    assert disk.said[-1] == "closed"
    assert disk.syncs > 10 * JOBS


@pytest.mark.parametrize(
    ("sync", "ignored", "damage"),
    [
        ("the log of the ledger", lambda path: path.endswith("-wal"), "acknowledged"),
        ("the ledger itself", lambda path: path == "/ledger.sqlite3", "acknowledged"),
        ("the pictures", lambda path: path.startswith("/scratch/"), "picture"),
        ("the manifests", lambda path: path.startswith("/archive/.tmp/"), "manifest"),
        ("the folder of a job", lambda path: path.count("/") == 5, "picture"),
        ("the folders above", lambda path: path.count("/") in {2, 3, 4}, "picture"),
        ("DATA_DIR", lambda path: not path, "acknowledged"),
        ("the secret", lambda path: path.startswith("/secrets/"), "secret"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_sync_a_power_loss_loses_something(
    recorded: tuple[Path, list[str]], tmp_path: Path, sync: str, ignored: Ignored, damage: str
) -> None:
    data, lines = recorded
    found = set()
    for each in damages(data, lines, tmp_path, ignored):
        found.add(each)
        if damage in each:
            return
    pytest.fail(f"without the sync of {sync} there is only {found or 'no damage'}")
