"""DATA_DIR: nothing is trusted that another user may have written; each refusal has its remedy."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from receiver import data_dir
from receiver.errors import ConfigurationError
from receiver.ingest.kept_secrets import KeptSecrets
from receiver.telemetry import metric_files
from receiver.variables import read_variables
from receiver.worker.notifier import Notifier
from receiver.worker.process import is_working

SECRET = "a-secret-of-32-characters-012345"
STRANGER = 12345
FILES = ["secrets/callback", "secrets/admin", "ledger.sqlite3", "ledger.sqlite3-wal", "worker.lock"]
FILES += ["metrics.lock", "worker.fifo", "deep-audit.json", "ledger.sqlite3.open", "worker-2.lock"]
FOLDERS = ["secrets", "scratch", "thumbnails", "accepting", "metrics"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a DATA_DIR as the service leaves it."""
    home = tmp_path / "data"
    home.mkdir(mode=0o700)
    for name in FOLDERS:
        (home / name).mkdir(mode=0o700)
    for name in FILES:
        (home / name).touch(0o600)
        (home / name).write_text(SECRET)
    return home


def check(home: Path) -> None:
    data_dir.require_own(home, home / "ledger.sqlite3")


def mistakes(home: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        check(home)
    return "\n".join(error.value.mistakes)


def to_a_link(path: Path) -> None:
    path.rename(path.with_name(f"{path.name} of old"))
    path.symlink_to(path.with_name(f"{path.name} of old"))


WRONGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "link": (to_a_link, "is a symbolic link"),
    "writable by all": (lambda path: path.chmod(0o666), "could be written by other users"),
    "of another": (lambda path: os.chown(path, STRANGER, -1), f"belongs to the user {STRANGER}"),
}


@needs_root
@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_what_another_user_may_have_written_is_refused(home: Path, name: str, wrong: str) -> None:
    check(home)
    make_wrong, text = WRONGS[wrong]
    make_wrong(home / name)
    assert f"DATA_DIR: {home / name} {text}" in mistakes(home)


@needs_root
@pytest.mark.parametrize("wrong", WRONGS)
def test_the_command_in_a_refusal_corrects_it(home: Path, wrong: str) -> None:
    WRONGS[wrong][0](home / "secrets" / "callback")
    command = mistakes(home).rpartition(": ")[2]
    subprocess.run(["/bin/sh", "-c", command], check=True)
    check(home)
    assert (home / "secrets" / "callback").read_text() == SECRET


@needs_root
def test_every_mistake_is_reported_at_once(home: Path) -> None:
    for name in ("secrets/callback", "ledger.sqlite3"):
        os.chown(home / name, STRANGER, -1)
    os.chown(home, STRANGER, -1)
    assert mistakes(home).count("belongs to the user") == 3


@needs_root
def test_volumes_of_containers_are_accepted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Kubernetes volume belongs to root and the group fsGroup, which may write everywhere."""
    group = 10001
    monkeypatch.setattr(os, "getgroups", lambda: [group])
    for path in (home, *(home / name for name in (*FILES, *FOLDERS))):
        os.chown(path, -1, group)
        path.chmod(0o2770 if path.is_dir() else 0o660)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check(home)
    monkeypatch.setattr(os, "getgroups", list)
    assert "could be written by other users" in mistakes(home)


def test_files_of_others_beside_ours_are_ignored(home: Path) -> None:
    (home / "lost+found").mkdir(mode=0o777)
    (home / "archive").symlink_to("/somewhere/big")
    check(home)


def to_a_folder(path: Path) -> None:
    path.rename(path.with_name(f"{path.name} of old"))
    path.mkdir(mode=0o700)


def to_a_pipe(path: Path) -> None:
    path.rename(path.with_name(f"{path.name} of old"))
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_what_is_of_another_kind_is_refused_with_a_command(home: Path, name: str) -> None:
    (to_a_pipe if name in FOLDERS else to_a_folder)(home / name)
    found = mistakes(home)
    assert f"DATA_DIR: {home / name} is no " in found
    subprocess.run(["/bin/sh", "-c", found.rpartition(": ")[2]], check=True)
    check(home)
    if name in FILES and name != "worker.fifo":
        os.mkfifo(home / name, 0o600)
        assert "is no file" in mistakes(home)


def test_no_pipe_in_the_place_of_a_file_makes_a_reader_wait(home: Path) -> None:
    """Also one that appears after the start."""
    for name in ("worker.lock", "metrics.lock", "secrets/callback"):
        to_a_pipe(home / name)
    assert not is_working(home)
    assert not metric_files.are_shared(home)
    with pytest.raises(ConfigurationError, match="is empty"):
        KeptSecrets(home).secrets()


def test_no_file_is_opened_through_a_symbolic_link(home: Path, tmp_path: Path) -> None:
    """Also one that appears after the start."""
    precious = tmp_path / "precious"
    precious.write_text(SECRET)
    for name in ("secrets/callback", "worker.lock", "metrics.lock", "worker.fifo"):
        (home / name).unlink()
        (home / name).symlink_to(precious)
    with pytest.raises(ConfigurationError, match="symbolic links"):
        KeptSecrets(home).secrets()
    with pytest.raises(OSError, match="symbolic links"), data_dir.locked(home / "worker.lock"):
        pass
    with pytest.raises(OSError, match="symbolic links"):
        metric_files.share(home)
    notifier = Notifier(home / "worker.fifo")
    notifier.notify()
    with notifier.listen():
        assert (home / "worker.fifo").is_fifo()
    assert precious.read_text() == SECRET


@pytest.mark.parametrize("text", ["", "short", "fifteen-letters"])
def test_a_secret_that_is_too_short_is_refused(home: Path, text: str) -> None:
    (home / "secrets" / "admin").write_text(text)
    with pytest.raises(ConfigurationError, match=r"empty|fewer than 16 characters"):
        data_dir.keep(home / "secrets" / "admin")
    (home / "secrets" / "callback.old").write_text(f"{SECRET}\nshort\n")
    with pytest.raises(ConfigurationError, match="fewer than 16 characters"):
        KeptSecrets(home).secrets()


def test_root_gets_one_warning_and_others_none(monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.reset_defaults()
    for user, lines in ((0, 1), (1000, 0)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with capture_logs() as logs:
            data_dir.warn_of_root()
        assert len(logs) == lines


def test_a_name_with_blanks_is_quoted_in_the_command(tmp_path: Path) -> None:
    home = tmp_path / "my data"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets").chmod(0o777)
    assert shlex.quote(str(home / "secrets")) in mistakes(home)


def test_a_secret_file_may_be_a_link_that_others_read_but_not_one_that_they_write(
    tmp_path: Path,
) -> None:
    """Kubernetes and Docker mount secrets as symbolic links, readable for everybody."""
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "link").symlink_to("token")
    environ = {"ADMIN_TOKEN_FILE": str(tmp_path / "link")}
    (tmp_path / "token").chmod(0o444)
    assert read_variables(["admin_token"], environ) == ({"admin_token": SECRET}, [])
    (tmp_path / "token").chmod(0o666)
    (mistake,) = read_variables(["admin_token"], environ)[1]
    assert mistake.startswith("ADMIN_TOKEN_FILE: every user may write the file")
    assert str(tmp_path) not in mistake
