"""An unavailable archive: its directory disappears like a mount, or there is no bucket yet."""

import socket
import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import requests
from installation import SERVE, Installation
from processes import running
from seaweed import S3Server
from waiting import until

from receiver.model import Mode

WORKER = ("receiver", "worker")
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


def on_s3(installation: Installation, server: S3Server, bucket: str) -> None:
    installation.environ |= {
        **server.environment(),
        "ARCHIVE_URL": f"s3://{bucket}/pictures",
        "POLL_INTERVAL": "0.1",
    }


def test_a_missing_bucket_is_named_and_the_work_waits_until_it_exists(
    installation: Installation, s3_server: S3Server
) -> None:
    bucket = f"{s3_server.make_bucket()}-later"
    on_s3(installation, s3_server, bucket)
    with running(SERVE, installation.environ, installation.folder) as service:
        service.says("archive not usable, work waits")
        until(lambda: installation.status("/status") == 503, what="an answer of the web server")
        found = installation.ask_status().json()
        assert (found["ok"], found["checks"]["ledger"]["ok"]) == (False, True)
        assert bucket in found["checks"]["archive"]["detail"]
        assert bucket in next(
            line for line in service.output().splitlines() if "archive not usable" in line
        )
        job = installation.submit(mode=Mode.POLL)
        service.says("archiving attempt failed")
        s3_server.client.create_bucket(Bucket=bucket)
        let_it_try_again(installation)
        (safe,) = installation.wait(job.ref)
        assert installation.is_safe(safe)
        assert (
            s3_server.client.head_object(Bucket=bucket, Key=f"pictures/{safe.assets[0].key}")[
                "ContentLength"
            ]
            == safe.assets[0].size
        )


def test_a_wrong_key_of_the_archive_is_reported_without_the_secret(
    installation: Installation, s3_server: S3Server
) -> None:
    on_s3(installation, s3_server, s3_server.make_bucket())
    environ = {**installation.environ, "AWS_SECRET_ACCESS_KEY": "a-wrong-secret-0123"}
    with running(WORKER, environ, installation.folder) as worker:
        worker.says("archive not usable, work waits")
        line = next(line for line in worker.output().splitlines() if "archive not usable" in line)
        assert installation.environ["ARCHIVE_URL"].split("/")[2] in line
        assert "a-wrong-secret" not in worker.output()
        assert worker.stop() == 0


def test_a_worker_whose_bucket_hangs_at_the_start_gives_signs_of_life_and_stops(
    installation: Installation,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        installation.environ |= {
            "ARCHIVE_URL": "s3://hangs/pictures",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "planted",
            "AWS_SECRET_ACCESS_KEY": "planted",
        }
        with running(WORKER, installation.environ, installation.folder) as worker:
            worker.says("worker started")
            with installation.services() as services:
                until(services.workers.are_alive, what="a heartbeat")
            assert worker.stop() == 0
