"""The health checks and the metrics, also while the archive or the ledger is missing."""

import re
from pathlib import Path
from typing import Any

import pytest
from api_jobs import change_ledger, get, reported
from dashboard_client import log_in
from ledgers import opened
from seaweed import S3Server
from web_client import FAILED, RUNNING, SUCCEEDED, WebClient, web_client

from receiver.installation import version
from receiver.ledger.workers import Worker, Workers
from receiver.model import EventType, JobState
from receiver.telemetry.disk_space import DiskSpace, measure
from receiver.web.fault_log import log_changes
from receiver.web.health import health_checks
from receiver.web.health_checks import LIFETIMES
from receiver.web.state import attach

# Health checks and metrics.


@pytest.fixture(autouse=True)
def worker(request: pytest.FixtureRequest) -> None:
    """Have a worker of the ledger that has just sent a heartbeat."""
    with opened(request.getfixturevalue("sqlite_url")) as ledger:
        Workers(ledger.database).begin(Worker(), alone=True)


def keep_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again for every request."""
    monkeypatch.setattr("receiver.web.health_checks.LIFETIMES", dict.fromkeys(LIFETIMES, 0.0))


def archive_status(web: WebClient) -> tuple[int, str]:
    """Return the HTTP status of /status, and what it says about the archive to an operator."""
    answer = web.client.get("/status", headers=web.admin)
    return answer.status_code, answer.json["checks"]["archive"]["detail"]


def test_a_missing_archive_is_reported_until_it_is_back_and_callbacks_are_taken_all_the_same(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_no_answer(monkeypatch)
    environ = {"DATABASE_URL": sqlite_url, "ARCHIVE_URL": f"file://{tmp_path}/disk/archive"}
    with web_client(tmp_path / "data", environ) as web:
        status, detail = archive_status(web)
        assert (status, f"{tmp_path}/disk" in detail) == (503, True)
        assert web.client.get("/healthz").status_code == 200, "the process itself runs"
        assert web.client.get("/readyz").status_code == 200, "web stays in the balancer"
        (tmp_path / "disk").mkdir()
        assert archive_status(web) == (200, "ok")


def test_a_missing_bucket_and_a_wrong_key_are_reported(
    sqlite_url: str,
    bucket: str,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_no_answer(monkeypatch)
    environ = {"DATABASE_URL": sqlite_url, "ARCHIVE_URL": f"s3://{bucket}-missing/prefix"}
    with web_client(tmp_path / "data", environ) as web:
        status, detail = archive_status(web)
        assert (status, f"{bucket}-missing" in detail) == (503, True)
        s3_server.client.create_bucket(Bucket=f"{bucket}-missing")
        assert archive_status(web) == (200, "ok")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-0123")
    with web_client(tmp_path / "other", {"ARCHIVE_URL": f"s3://{bucket}/prefix"}) as web:
        status, detail = archive_status(web)
        assert (status, bucket in detail) == (503, True)
        assert "a-wrong-secret" not in detail


def test_an_answer_about_the_archive_is_kept_and_its_age_is_shown(web: WebClient) -> None:
    assert archive_status(web) == (200, "ok")
    web.services.__dict__["store"], store = None, web.services.store  # a check would fail now
    answer = web.client.get("/status").json["checks"]["archive"]
    assert (answer["ok"], answer["age_seconds"] > 0) == (True, True)
    web.services.__dict__["store"] = store


def test_strangers_see_which_part_is_well_and_no_more(sqlite_url: str, tmp_path: Path) -> None:
    environ = {
        "DATABASE_URL": sqlite_url,
        "ARCHIVE_URL": f"file://{tmp_path}/planted/archive",
        "EVENT_URLS": "https://hooks.example/planted-path",
        "EVENT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }
    with web_client(tmp_path / "data", environ) as web:
        public = web.client.get("/status")
        private = web.client.get("/status", headers=web.admin)
        log_in(web)
        assert (public.status_code, private.status_code) == (503, 503)
        assert public.json["checks"].keys() == private.json["checks"].keys()
        for check in public.json["checks"].values():
            assert check.keys() == {"ok", "age_seconds"}
        assert "planted" not in public.text
        assert str(tmp_path) in private.text
        assert "planted-path" not in private.text, "a path may be a secret"
        assert "hooks.example" in web.client.get("/status").text, "a session sees it too"


def test_status_shows_the_age_of_the_oldest_due_work(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> tuple[bool, float]:
        found = web.client.get("/status", headers=web.admin).json["checks"]["work"]
        return found["ok"], found["oldest_due_seconds"]

    keep_no_answer(monkeypatch)
    assert work() == (True, 0)
    reported(web, SUCCEEDED)
    change_ledger(web, "UPDATE assets SET due_at = due_at - 60")
    ok, seconds = work()
    assert (ok, 60 <= seconds < 70) == (True, True)
    found = web.client.get("/status", headers=web.admin).json["checks"]["work"]
    assert found["starving"] == 1
    assert "1 files have waited for a thread for more than 30 s" in found["detail"]
    change_ledger(web, "UPDATE assets SET due_at = due_at - 60")
    assert (work()[0], web.client.get("/status").status_code) == (False, 503)


def test_a_destination_that_accepts_no_event_for_long_is_reported(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_no_answer(monkeypatch)
    environ = {"DATABASE_URL": sqlite_url, "EVENT_URLS": "log:"}
    with web_client(tmp_path / "data", environ) as web:
        reported(web, FAILED)
        for claimed in web.services.jobs.claim(1):
            web.services.reconciler.reconcile_job(claimed)
        (delivery,) = web.services.outbox.claim("log:", list(EventType), 1)
        web.services.outbox.retry(delivery, web.services.now(), "planted")

        def events() -> tuple[bool, int]:
            found = web.client.get("/status", headers=web.admin).json["checks"]["events"]
            return found["ok"], found["destinations"][0]["waiting"]

        assert events() == (True, 1)
        change_ledger(web, "UPDATE sendings SET due_at = due_at - 1900")
        assert events() == (False, 1)


def test_a_broken_ledger_is_reported_without_details_and_counters_are_still_shown(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_no_answer(monkeypatch)
    web.callback(web.ticket(), RUNNING)
    path = web.services.settings.ledger_path
    web.services.database.close()
    path.rename(path.with_name("away"))
    path.mkdir()
    answer = web.client.get("/readyz")
    assert (answer.status_code, answer.json["ledger"]) == (
        503,
        "the ledger cannot be used now; the log says why",
    )
    checks = web.client.get("/status").json["checks"]
    assert {name: check["ok"] for name, check in checks.items()} == {
        "ledger": False,
        "archive": True,
        "workers": False,
        "work": False,
        "secrets": False,
        "accounts": False,
        "events": False,
        "disk": True,
    }
    metrics = web.client.get("/metrics")
    assert metrics.status_code == 200
    assert "receiver_callbacks_total" in metrics.text
    assert "receiver_jobs{" not in metrics.text
    answer = get(web, "/api/jobs")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    path.rmdir()
    path.with_name("away").rename(path)
    assert web.client.get("/readyz").status_code == 200


def test_the_metrics_follow_the_conventions_of_prometheus(web: WebClient) -> None:
    ref = reported(web, RUNNING)
    answer = web.client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    for line in answer.text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{[^}]*\})? [-+0-9.einfINF]+", line), line
    for state in JobState:
        assert (
            f'receiver_jobs{{state="{state}"}} {1.0 if state == "waiting" else 0.0}' in answer.text
        )
    assert re.search(r'receiver_callbacks_total\{outcome="progress"\} [1-9]', answer.text)
    assert re.search(r'receiver_callback_seconds_count\{outcome="\w+"\} [1-9]', answer.text)
    assert ref not in answer.text


# Workers, disk space, and what is logged about them.


def test_a_worker_that_sends_no_heartbeat_is_missed(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_no_answer(monkeypatch)

    def workers() -> tuple[bool, list[float]]:
        found = web.client.get("/status", headers=web.admin).json["checks"]["workers"]
        return found["ok"], [round(one["age_seconds"], -1) for one in found["workers"]]

    assert workers() == (True, [0])
    change_ledger(web, "UPDATE workers SET seen_at = seen_at - 50")
    assert workers() == (False, [50])
    assert web.client.get("/readyz").status_code == 200, "callbacks are stored all the same"
    assert "receiver_workers 0.0" in web.client.get("/metrics").text
    log_in(web)
    assert "No worker" in web.client.get("/status-bar").text


def test_a_disk_that_is_nearly_full_is_reported_here_and_at_a_worker_elsewhere(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_no_answer(monkeypatch)

    def disk() -> dict[str, Any]:
        found: dict[str, Any] = web.client.get("/status", headers=web.admin).json["checks"]["disk"]
        return found

    full = DiskSpace("data", 500_000_000, 100_000_000_000)
    assert (disk()["ok"], [one["place"] for one in disk()["disks"]]) == (True, ["data"])
    elsewhere = Worker(host="elsewhere")
    web.services.workers.begin(elsewhere, alone=True)
    web.services.workers.renew(elsewhere, {"disks": [full.figures()]})
    assert (disk()["ok"], "elsewhere data: 0.5 GB of 100.0 GB" in disk()["detail"]) == (False, True)
    web.services.workers.renew(elsewhere, {})
    assert disk()["ok"]
    monkeypatch.setattr(web.services, "disk_space", lambda: [full])
    web.client.application.extensions.clear()
    attach(web.client.application, web.services)
    assert (disk()["ok"], web.client.get("/status").status_code) == (False, 503)
    assert 'receiver_disk_free_bytes{place="data"} 5e+08' in web.client.get("/metrics").text


@pytest.mark.parametrize(
    ("size", "enough"), [(2**40, 2**30), (100 * 2**30, 2**30), (50 * 2**20, 5 * 2**20)]
)
def test_space_is_low_below_a_gigabyte_or_a_tenth_of_a_small_disk(size: int, enough: int) -> None:
    assert not DiskSpace("data", enough, size).is_low
    assert DiskSpace("data", enough - 1, size).is_low


def test_places_on_one_disk_are_measured_once_and_missing_ones_at_the_folder_above(
    tmp_path: Path,
) -> None:
    places = {"data": tmp_path / "not" / "yet", "archive": tmp_path, "other": Path("/proc")}
    assert [disk.place for disk in measure(places)] == ["data", "other"]


def test_a_fault_is_logged_when_it_begins_and_when_it_is_over(
    web: WebClient, capsys: pytest.CaptureFixture[str]
) -> None:
    change_ledger(web, "DELETE FROM workers")
    with web.client.application.app_context():
        checks = health_checks()
        checks.status()
    known = log_changes(set(), checks.read_faults(), leave_out={"workers"})
    assert (known, capsys.readouterr().out) == (set(), "")
    known = log_changes(known, checks.read_faults(), leave_out=set())
    known = log_changes(known, checks.read_faults(), leave_out=set())
    out = capsys.readouterr().out
    assert (known, out.count("fault found"), "receiver worker" in out) == ({"workers"}, 1, True)
    assert log_changes(known, {}, leave_out=set()) == set()
    assert "fault is over" in capsys.readouterr().out


def test_the_version_is_shown(web: WebClient) -> None:
    for path in ("/healthz", "/status"):
        assert web.client.get(path).json["version"] == version()
