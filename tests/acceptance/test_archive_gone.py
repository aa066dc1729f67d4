"""The archive's directory disappears under a running service, as a mount may, and comes back."""

import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import requests
from installation import SERVE, Installation
from processes import running
from waiting import until

DOCTOR = ("receiver", "doctor")
AUDIT = ("receiver", "audit", "--deep")
REMEDY = "mount it, or correct ARCHIVE_URL"


def named_archive(installation: Installation) -> Path:
    """Have the archive beside DATA_DIR."""
    named = installation.folder / "arch3"
    installation.environ["ARCHIVE_URL"] = named.as_uri()
    return named


def let_it_try_again(installation: Installation) -> None:
    """Have assets due as if the pause were over."""
    with closing(
        sqlite3.connect(installation.data / "ledger.sqlite3", isolation_level=None)
    ) as connection:
        connection.execute("UPDATE assets SET due_at = 0 WHERE state = 'pending'").close()


def not_well(installation: Installation) -> bool:
    with suppress(requests.ConnectionError):
        answer = installation.ask_status()
        return answer.status_code == 503 and REMEDY in answer.json()["checks"]["archive"]["detail"]
    return False


def test_while_the_archive_is_away_jobs_wait_and_nothing_is_made_in_its_place(
    installation: Installation,
) -> None:
    archive = installation.data / "archive"
    with installation.started() as service:
        (first,) = installation.wait(installation.submit().ref)
        away = archive.rename(installation.folder / "away")
        archive.mkdir()  # as a mount point stays
        doctor = installation.invoke(*DOCTOR)
        assert (doctor.status, REMEDY in doctor.out) == (1, True), doctor
        second = installation.submit("a hare")
        service.says("archiving attempt failed")
        assert list(archive.rglob("*")) == []
        archive.rmdir()
        away.rename(archive)
        let_it_try_again(installation)
        (second,) = installation.wait(second.ref)
        assert (installation.is_safe(first), installation.is_safe(second)) == (True, True)
        audited = installation.invoke(*AUDIT)
        assert audited.status == 0, audited
        assert "Traceback" not in service.output()


def test_a_service_that_starts_while_its_archive_is_away_waits_for_it(
    installation: Installation,
) -> None:
    archive = named_archive(installation)
    with installation.started():
        installation.wait(installation.submit().ref)
    away = archive.rename(installation.folder / "away")
    with running(SERVE, installation.environ, installation.folder) as service:
        service.says("archive not usable, work waits")
        until(partial(not_well, installation), what="that it says so")
        assert not archive.exists()
        away.rename(archive)
        assert installation.invoke(*AUDIT).status == 0
