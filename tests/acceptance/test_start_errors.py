"""Commands that cannot start or are interrupted print a remedy, never a traceback."""

import os
import signal
import socket
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner
from installation import Installation
from processes import running
from small_disks import SmallDisk, small_disk
from waiting import until

from receiver import data_dir
from receiver.cli import main as receiver
from receiver.cli.base import Commands
from receiver.model import Submission
from receiver.worker.process import is_working
from submitter.cli import main as submitter

GUNICORN = ("gunicorn", "-c", "python:receiver.gunicorn_conf", "receiver.web:create_app()")
REMEDY = "name a directory that can be written"


def expired(installation: Installation) -> None:
    """Have one event there."""
    with installation.services() as services:
        services.jobs.expire(
            services.jobs.submit(Submission("a fox", "gpt-image-1.5", {}), "https://past.test").ref,
            "no word",
        )


# A DATA_DIR that cannot be written.


@pytest.fixture
def disk(installation: Installation) -> Iterator[SmallDisk]:
    with small_disk(installation.data, kilobytes=8192) as disk:
        yield disk


@contextmanager
def turned_read_only(installation: Installation, disk: SmallDisk) -> Iterator[None]:
    """Have a ledger and a worker's lock in DATA_DIR, which then cannot be written."""
    with installation.services():
        (installation.data / "worker.lock").touch()
    with disk.read_only():
        yield


def test_a_data_dir_on_a_read_only_disk_is_a_wrong_configuration_and_nothing_is_started(
    installation: Installation, disk: SmallDisk
) -> None:
    lines = installation.folder / "lines.jsonl"
    lines.write_text('{"prompt": "a fox"}\n')
    with turned_read_only(installation, disk):
        for done in (
            installation.run("receiver", "serve"),
            installation.run("receiver", "worker"),
            installation.run(*GUNICORN),
            installation.invoke("receiver", "audit", "--deep"),
            installation.invoke("submitter", "batch", str(lines), "--mode", "poll"),
        ):
            assert (done.status, done.out) == (2, ""), done
            first, mistake = done.err.splitlines()
            assert first == "the configuration is wrong:"
            assert (
                mistake.strip() == f"DATA_DIR: {installation.data} cannot be written"
                f" (Read-only file system); {REMEDY}"
            )
    assert installation.sandbox.tasks() == []


def test_whether_a_worker_runs_can_be_asked_where_writing_is_impossible(
    installation: Installation, disk: SmallDisk
) -> None:
    with turned_read_only(installation, disk):
        assert not is_working(installation.data)


@pytest.mark.parametrize("folder", ["/sys", "/proc"])
def test_a_data_dir_in_which_no_file_can_be_made_is_reported_with_a_remedy(
    installation: Installation, folder: str
) -> None:
    done = installation.run(
        "receiver", "serve", DATA_DIR=folder, ARCHIVE_URL=f"file://{installation.folder}/archive"
    )
    assert (
        done.status,
        f"DATA_DIR: {folder} cannot be written" in done.err,
        REMEDY in done.err,
    ) == (2, True, True), done


def test_a_full_disk_is_no_wrong_configuration(installation: Installation, disk: SmallDisk) -> None:
    with installation.services(), disk.full():
        data_dir.require_writable(installation.data)


# The address.


def test_a_free_port_is_announced_as_the_one_it_is(installation: Installation) -> None:
    with running(
        ("receiver", "serve", "--port", "0"), installation.environ, installation.folder
    ) as service:
        service.says("receiver on http://127.0.0.1:")
        port = int(service.output().partition("receiver on http://127.0.0.1:")[2].split()[0])
        assert port > 0
        installation.port = port
        until(
            lambda: installation.status("/healthz") == 200,
            what="an answer at the port that was announced",
        )
        assert service.stop() == 0


def test_a_ledger_that_cannot_be_migrated_is_reported_once_and_nothing_is_started(
    installation: Installation,
) -> None:
    installation.data.mkdir()
    with closing(sqlite3.connect(installation.data / "ledger.sqlite3")) as ledger, ledger:
        ledger.execute("CREATE TABLE alembic_version (version_num TEXT)")
        ledger.execute("INSERT INTO alembic_version VALUES ('0001')")
    tried = installation.run("receiver", "serve")
    assert tried.status == 1, tried.err
    assert tried.err.count("no such table") == 1, tried.err
    assert "Traceback" not in tried.err
    assert not is_working(installation.data)


def test_a_ledger_whose_folder_cannot_be_read_is_reported(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installation.services() as services, monkeypatch.context() as patch:
        patch.setattr(Path, "stat", Mock(side_effect=PermissionError(13, "no")))
        assert services.needs_migration(), "the migration then says what is not permitted"


def test_nothing_is_announced_where_the_port_is_taken(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", installation.port)):
        done = installation.run("receiver", "serve")
    assert (done.status, "receiver on" in done.err, "choose another" in done.err) == (
        2,
        False,
        True,
    )


# Wrong usage.


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (submitter, ["sandbox", "--port", "99999"], "99999"),
        (submitter, ["sandbox", "--port", "-1"], "-1"),
        (receiver, ["listen", "--after", "9" * 23, "--no-follow"], "--after"),
        (receiver, ["jobs", "--after", "nonsense"], "such as 01JZ2Q7V3N0123456789ABCDEF"),
        (receiver, ["jobs", "--after", "01jz2q7v3n0123456789abcdei"], "is not a ref"),
    ],
)
def test_a_value_that_cannot_be_meant_is_wrong_usage(
    command: Any, arguments: list[str], said: str
) -> None:
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code, said in result.output) == (2, True), result.output


def test_jobs_behind_a_ref_are_listed(installation: Installation) -> None:
    assert installation.invoke("receiver", "migrate").status == 0
    done = installation.invoke("receiver", "jobs", "--after", "01JZ2Q7V3N0123456789ABCDEF")
    assert done.status == 0


# Ctrl-C.


@click.command()
def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_package_that_is_not_installed_is_named_once_and_nothing_is_left_running(
    installation: Installation,
) -> None:
    packages = installation.folder / "packages"
    packages.mkdir()
    (packages / "flask_wtf.py").write_text("raise ModuleNotFoundError(name=__name__)")
    done = installation.run("receiver", "serve", PYTHONPATH=str(packages))
    assert done.status == 2
    assert done.err.count("the Python package flask_wtf is not installed") == 1
    assert "starting it again" not in done.err


def test_ctrl_c_ends_any_command_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("a_module_of_this_test")
    module.interrupted = interrupted  # type: ignore[attr-defined]  # as a module of commands has them
    monkeypatch.setitem(sys.modules, module.__name__, module)
    result = CliRunner().invoke(
        Commands({"interrupted": module.__name__}, name="x"), ["interrupted"]
    )
    assert (result.exit_code, result.output) == (130, "")


def test_ctrl_c_ends_listening_quietly(installation: Installation) -> None:
    expired(installation)
    with running(
        ("receiver", "listen", "--after", "0"), installation.environ, installation.folder
    ) as listening:
        listening.says("job.expired")
        assert listening.stop(signal.SIGINT) == 130
        assert len(listening.output().splitlines()) == 1


# What is written.


def test_what_an_earlier_release_left_open_to_others_is_closed_at_a_start(
    installation: Installation,
) -> None:
    with installation.services() as services:
        assert services.admin_token
    opened = [installation.data, installation.data / "ledger.sqlite3"]
    opened += [installation.data / "secrets", installation.data / "secrets" / "admin"]
    for path in opened:
        path.chmod(0o755)
    archive = installation.data / "archive"
    archive.mkdir(exist_ok=True)
    archive.chmod(0o755)
    assert installation.invoke("receiver", "jobs").status == 0
    assert stat.S_IMODE(opened[0].stat().st_mode) == 0o755, "who looks changes nothing"
    with installation.services():
        assert [stat.S_IMODE(path.stat().st_mode) for path in opened] == [0o700] * len(opened)
        assert stat.S_IMODE(archive.stat().st_mode) == 0o755


def test_a_data_dir_that_is_shared_on_purpose_is_left_as_it_is(tmp_path: Path) -> None:
    shared, empty = tmp_path / "shared", tmp_path / "empty"
    for folder in (shared, empty):
        folder.mkdir()
        folder.chmod(0o1777 if folder is shared else 0o755)
    (shared / "secrets").mkdir()
    for folder in (shared, empty):
        data_dir.close_to_others(folder, folder / "ledger.sqlite3")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert stat.S_IMODE(empty.stat().st_mode) == 0o755


def test_every_file_in_data_dir_is_its_owners_alone(installation: Installation) -> None:
    before = os.umask(0o022)
    try:
        assert installation.invoke("receiver", "migrate").status == 0
        assert installation.invoke("receiver", "jobs").status == 0
        installation.invoke("receiver", "doctor")
    finally:
        os.umask(before)
    files = [
        path
        for path in installation.data.rglob("*")
        if path.is_file() and "archive" not in path.parts
    ]
    assert {"doctor.json", "ledger.sqlite3", "ledger.sqlite3.lock"} <= {path.name for path in files}
    assert {
        path.name: oct(stat.S_IMODE(path.stat().st_mode))
        for path in files
        if path.stat().st_mode & 0o077
    } == {}


def test_a_command_that_is_run_for_an_event_makes_files_as_its_caller_would(
    installation: Installation,
) -> None:
    expired(installation)
    made = installation.folder / "made"
    before = os.umask(0o027)
    try:
        done = installation.run(
            "receiver", "listen", "--after", "0", "--no-follow", "--exec", f"touch {made}"
        )
    finally:
        os.umask(before)
    assert (done.status, stat.S_IMODE(made.stat().st_mode)) == (0, 0o640), done


def test_a_command_that_fails_where_no_place_is_kept_is_not_said_to_be_done_again(
    installation: Installation,
) -> None:
    expired(installation)
    done = installation.invoke(
        "receiver", "listen", "--after", "0", "--no-follow", "--exec", "false"
    )
    said = (
        "event 1: the command ended with status 1; without --cursor nothing is remembered:"
        " `--after 0` begins with it again\n"
    )
    assert (done.status, done.err) == (1, said)
