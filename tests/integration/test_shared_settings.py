"""Settings that must be alike wherever a ledger is used: a process that differs does not start."""

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from commands import invoke
from ledgers import opened
from processes import Finished
from sqlalchemy import Connection

from receiver.errors import ConfigurationError, LedgerError
from receiver.ledger.database import Database
from receiver.ledger.shared_settings import Shared, SharedSettings, mark_moved
from receiver.services import Services
from receiver.settings import Settings

A, B, C = ("the-secret-of-a-0123456", "the-secret-of-b-0123456", "the-secret-of-c-0123456")


def environment(ledger_url: str, folder: Path, **more: str) -> dict[str, str]:
    """Return the settings of a machine with a folder of its own."""
    url = ledger_url.replace("postgresql+psycopg://", "postgresql://")
    return {
        "DATA_DIR": str(folder),
        "DATABASE_URL": url,
        "ADMIN_TOKEN": "a-token-of-the-test",
        "CALLBACK_SECRETS": A,
        "ARCHIVE_URL": f"file://{folder.parent}/shared",
        **more,
    }


def start(environ: dict[str, str]) -> str:
    """Open the parts of a process as web, worker, serve and submit do; return what is wrong."""
    try:
        with closing(Services(Settings.load(environ)).open()):
            return ""
    except ConfigurationError as error:
        return "\n".join(error.mistakes)


def run(environ: dict[str, str], *arguments: str) -> Finished:
    return invoke(["receiver", *arguments], environ, folder=Path(environ["DATA_DIR"]).parent)


@pytest.mark.both_databases
def test_two_machines_that_differ_are_told_what_differs_and_one_is_adopted_on_purpose(
    ledger_url: str, tmp_path: Path
) -> None:
    ours = environment(ledger_url, tmp_path / "one")
    theirs = {"DATA_DIR": str(tmp_path / "two"), "CALLBACK_SECRETS": B}
    theirs = {**ours, **theirs, "ARCHIVE_URL": f"file://{tmp_path}/two/archive"}
    assert start(ours) == ""
    found = start(theirs)
    assert found.count("\n") == 1
    assert "ARCHIVE_URL: the archive of this ledger is file:" in found
    assert "shared (by " in found
    assert "if it was moved, with all its objects: `receiver adopt archive`" in found
    assert "CALLBACK_SECRETS: has " in found
    assert "if the others are lost: `receiver adopt secrets`" in found
    assert (A in found, B in found) == (False, False)
    assert start(ours) == "", "what was refused is not remembered"
    for what in ("archive", "secrets"):
        done = run(theirs, "adopt", what)
        assert (done.status, f"{what}: " in done.out, "before: " in done.out) == (0, True, True)
    assert start(theirs) == ""
    assert start(ours).count("\n") == 1


def test_a_command_exits_with_2_and_one_that_only_looks_works(
    sqlite_url: str, tmp_path: Path
) -> None:
    assert start(environment(sqlite_url, tmp_path / "one")) == ""
    other = environment(sqlite_url, tmp_path / "two", CALLBACK_SECRETS=B)
    for command in (["retry", "01JZ2Q7V3N0123456789ABCDEF"], ["serve", "--port", "0"]):
        refused = run(other, *command)
        assert (refused.status, "receiver adopt secrets" in refused.err) == (2, True), command
    doctor = run(other, "doctor")
    assert (doctor.status, "receiver adopt secrets" in doctor.out) == (2, True)
    assert run(other, "jobs").status == 0


@pytest.mark.both_databases
def test_a_rotation_goes_from_machine_to_machine(ledger_url: str, tmp_path: Path) -> None:
    steps = [A, f"{A},{B}", f"{B},{A}", B]
    for before, after in pairwise(steps):
        for machine, secrets in (("one", before), ("two", before), ("one", after), ("two", before)):
            environ = environment(ledger_url, tmp_path / machine, CALLBACK_SECRETS=secrets)
            assert start(environ) == "", (machine, secrets)
        assert start(environment(ledger_url, tmp_path / "two", CALLBACK_SECRETS=after)) == ""
    assert "CALLBACK_SECRETS" in start(
        environment(ledger_url, tmp_path / "two", CALLBACK_SECRETS=A)
    ), "a machine that was forgotten"


def test_a_generated_secret_may_be_rotated_again_and_again_without_a_restart(
    tmp_path: Path,
) -> None:
    environ = {"DATA_DIR": str(tmp_path / "data")}
    with closing(Services(Settings.load(environ)).open()) as running:
        for _ in range(3):
            assert run(environ, "secrets", "rotate", "--drop-old").status == 0
        assert len(running.tickets.fingerprints) == 1
    assert start(environ) == ""


def test_another_data_dir_on_the_same_ledger_is_found_out(sqlite_url: str, tmp_path: Path) -> None:
    common = {"DATABASE_URL": sqlite_url, "ARCHIVE_URL": f"file://{tmp_path}/shared"}
    assert start({**common, "DATA_DIR": str(tmp_path / "one")}) == ""
    found = start({**common, "DATA_DIR": str(tmp_path / "two")})
    assert f"DATA_DIR: {tmp_path}/two/secrets/callback has " in found


def test_a_data_dir_may_be_moved_as_a_whole(tmp_path: Path) -> None:
    assert start({"DATA_DIR": str(tmp_path / "one")}) == ""
    (tmp_path / "one").rename(tmp_path / "two")
    assert start({"DATA_DIR": str(tmp_path / "two")}) == ""


def test_a_ledger_that_was_moved_is_used_again_only_on_purpose(
    sqlite_url: str, tmp_path: Path
) -> None:
    environ = environment(sqlite_url, tmp_path / "data")
    assert start(environ) == ""
    with opened(sqlite_url) as ledger:
        mark_moved(ledger.database, "postgresql://db.test/receiver", 1_800_000_000.0)
    refused = run(environ, "serve", "--port", "0")
    assert refused.status == 2
    assert "was moved to postgresql://db.test/receiver (by " in refused.err
    assert "to use this ledger again: `receiver adopt ledger`" in refused.err
    assert run(environ, "jobs").status == 0, "it may be looked at"
    done = run(environ, "adopt", "ledger")
    assert "ledger: used again; before: postgresql://db.test/receiver" in done.out
    assert start(environ) == ""


class ReadOnly:
    """A ledger whose disk is full."""

    def __init__(self, database: Database) -> None:
        self.read = database.read

    def write(self, _work: object) -> None:
        """Fail."""
        raise LedgerError("the disk is full")


def test_a_full_disk_does_not_keep_a_process_from_starting(sqlite_url: str) -> None:
    with opened(sqlite_url) as ledger:
        shared = SharedSettings(
            ReadOnly(ledger.database),  # type: ignore[arg-type]  # what is used of it
            archive="file:archive",
            fingerprints=lambda: ["abcdef"],
            secrets_are_in="CALLBACK_SECRETS:",
            now=ledger.clock,
        )
        shared.require_alike()


def test_no_secret_is_in_the_ledger(sqlite_url: str, tmp_path: Path) -> None:
    assert start(environment(sqlite_url, tmp_path / "one")) == ""

    def values(connection: Connection) -> str:
        return str(connection.exec_driver_sql("SELECT name, value FROM identity").all())

    with opened(sqlite_url) as ledger:
        found = ledger.database.read(values)
    assert ("callback_secrets" in found, A in found) == (True, False)
    assert {what.value for what in Shared} == {"archive", "secrets", "ledger"}
