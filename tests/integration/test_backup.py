"""A backup has everything that was committed."""

import shutil
import threading
from pathlib import Path

import pytest
from commands import invoke
from ledgers import LedgerHarness, is_sound, opened
from processes import Finished

from receiver.errors import LedgerError
from receiver.maintenance.backup import back_up
from receiver.model import Submission


@pytest.fixture
def data(sqlite_url: str) -> Path:
    """Have a DATA_DIR with a ledger of this release."""
    return Path(sqlite_url.removeprefix("sqlite:///")).parent


def backup(data: Path, file: Path, **more: str) -> Finished:
    environ = {"DATA_DIR": str(data), **more}
    return invoke(("receiver", "backup", str(file)), environ, folder=data)


def refs(path: Path) -> set[str]:
    with opened(f"sqlite:///{path}") as ledger:
        assert ledger.totals.audit().ok
        return {job.ref for job in ledger.queries.jobs(limit=1000)}


def submit(ledger: LedgerHarness, number: int) -> str:
    return ledger.jobs.submit(Submission(f"a fox {number}", "m", {}), "https://provider.test").ref


def test_what_is_only_in_the_wal_is_in_the_backup(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    with opened(f"sqlite:///{data / 'ledger.sqlite3'}") as ledger:
        kept = {submit(ledger, number) for number in range(20)}
        assert (data / "ledger.sqlite3-wal").stat().st_size
        shutil.copy(data / "ledger.sqlite3", tmp_path / "plain")
        done = backup(data, copy)
    assert refs(tmp_path / "plain") < kept, "or there was nothing to show"
    assert done.status == 0, done.err
    assert done.out == f"{copy}: 20 jobs, {copy.stat().st_size} bytes\n"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob(".copy*")) == []
    assert is_sound(str(copy))
    assert refs(copy) == kept


def test_a_backup_during_writes_has_all_that_was_committed_before(
    data: Path, tmp_path: Path
) -> None:
    before: list[str] = []
    enough, stop = threading.Event(), threading.Event()
    with opened(f"sqlite:///{data / 'ledger.sqlite3'}") as ledger:

        def write() -> None:
            while not stop.is_set():
                before.append(submit(ledger, len(before)))
                if len(before) == 20:
                    enough.set()

        writer = threading.Thread(target=write)
        writer.start()
        assert enough.wait(60)
        known = set(before)
        jobs = back_up(data / "ledger.sqlite3", tmp_path / "copy.sqlite3")
        stop.set()
        writer.join()
    assert known <= (found := refs(tmp_path / "copy.sqlite3")) <= set(before)
    assert jobs == len(found)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("ledger.sqlite3", "exists; a backup replaces nothing, choose another name"),
        ("missing/copy", "there is no folder"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(data: Path, file: str, said: str) -> None:
    done = backup(data, data / file)
    assert done.status == 2
    assert said in " ".join(done.err.split())


def test_without_a_ledger_nothing_is_created(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = backup(tmp_path / "empty", tmp_path / "copy")
    assert done.status == 2
    assert "no ledger in" in done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_an_empty_file_is_no_ledger_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").touch()
    done = backup(tmp_path, tmp_path / "copy")
    assert (done.status, "no ledger in" in done.err) == (2, True)
    assert (tmp_path / "ledger.sqlite3").stat().st_size == 0


def test_postgresql_has_its_own_tool(tmp_path: Path) -> None:
    secret = "0123456789abcdef"
    done = backup(
        tmp_path,
        tmp_path / "copy",
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
        ARCHIVE_URL="s3://bucket",
        CALLBACK_SECRETS=secret,
        ADMIN_TOKEN=secret,
    )
    assert done.status == 2
    assert f"pg_dump --format=custom --file={tmp_path / 'copy'}" in done.err


def test_a_damaged_ledger_is_named_and_leaves_no_backup(data: Path, tmp_path: Path) -> None:
    (data / "ledger.sqlite3").write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    with pytest.raises(LedgerError, match="no backup: "):
        back_up(data / "ledger.sqlite3", tmp_path / "copy")
    assert not list(tmp_path.glob("*copy*"))
