"""The archive's directory goes away under a running service, as a mount does at night, and comes back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
import requests
from installation import SERVE, Premises
from processes import running
from waiting import until

from submitter.sandbox import Sandbox

DOCTOR = ("receiver", "doctor")
AUDIT = ("receiver", "audit", "--deep")
REMEDY = "mount it, or correct ARCHIVE_URL"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Premises]:
    with Sandbox(looks=1) as sandbox:
        yield Premises(tmp_path, sandbox)


def named_archive(here: Premises) -> Path:
    """Have the archive beside DATA_DIR."""
    named = here.folder / "arch3"
    here.environ["ARCHIVE_URL"] = named.as_uri()
    return named


def let_it_try_again(here: Premises) -> None:
    """Have assets due as if the pause were over."""
    with closing(sqlite3.connect(here.data / "ledger.sqlite3", isolation_level=None)) as connection:
        connection.execute("UPDATE assets SET due_at = 0 WHERE state = 'pending'").close()


def not_ready(here: Premises) -> bool:
    with suppress(requests.ConnectionError):
        answer = requests.get(f"{here.url}/readyz", timeout=5)
        return answer.status_code == 503 and REMEDY in answer.json()["archive"]
    return False


def test_while_the_archive_is_away_jobs_wait_and_nothing_is_made_in_its_place(
    here: Premises,
) -> None:
    archive = here.data / "archive"
    with here.started() as service:
        (first,) = here.wait(here.submit().ref)
        away = archive.rename(here.folder / "away")
        archive.mkdir()  # as a mount point stays
        doctor = here.run(*DOCTOR)
        assert (doctor.status, REMEDY in doctor.out) == (1, True), doctor
        second = here.submit("a hare")
        service.says("archiving attempt failed")
        assert list(archive.rglob("*")) == []
        archive.rmdir()
        away.rename(archive)
        let_it_try_again(here)
        (second,) = here.wait(second.ref)
        assert (here.is_safe(first), here.is_safe(second)) == (True, True)
        audited = here.run(*AUDIT)
        assert audited.status == 0, audited
        assert "Traceback" not in service.output()


def test_a_service_that_starts_while_its_archive_is_away_waits_for_it(here: Premises) -> None:
    archive = named_archive(here)
    with here.started():
        here.wait(here.submit().ref)
    away = archive.rename(here.folder / "away")
    with running(SERVE, here.environ, here.folder) as service:
        service.says("archive not usable, work waits")
        until(partial(not_ready, here), what="that it is not ready")
        assert not archive.exists()
        away.rename(archive)
        assert here.run(*AUDIT).status == 0
