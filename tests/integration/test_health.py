"""The health checks and the metrics, also while the archive or the ledger is missing."""

import re
from pathlib import Path

import pytest
from api_jobs import change_ledger, get, reported
from seaweed import S3Server
from web_client import RUNNING, SUCCEEDED, WebClient, web_client

from receiver.model import JobState

# Health checks and metrics.


def test_a_missing_archive_is_reported_until_it_is_back(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.web.health.PROBE_LIFETIMES", {"archive": 0.0, "ledger": 0.0})
    environ = {"DATABASE_URL": sqlite_url, "ARCHIVE_URL": f"file://{tmp_path}/disk/archive"}
    with web_client(tmp_path / "data", environ) as web:
        answer = web.client.get("/readyz")
        assert (answer.status_code, answer.json["ok"], answer.json["ledger"]) == (503, False, "ok")
        assert f"{tmp_path}/disk" in answer.json["archive"]
        assert web.client.get("/healthz").status_code == 200, "the process itself runs"
        (tmp_path / "disk").mkdir()
        assert web.client.get("/readyz").status_code == 200


def test_a_missing_bucket_and_a_wrong_key_are_reported(
    sqlite_url: str,
    bucket: str,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("receiver.web.health.PROBE_LIFETIMES", {"archive": 0.0, "ledger": 0.0})
    environ = {"DATABASE_URL": sqlite_url, "ARCHIVE_URL": f"s3://{bucket}-missing/prefix"}
    with web_client(tmp_path / "data", environ) as web:
        answer = web.client.get("/readyz")
        assert (answer.status_code, f"{bucket}-missing" in answer.json["archive"]) == (503, True)
        s3_server.client.create_bucket(Bucket=f"{bucket}-missing")
        assert web.client.get("/readyz").status_code == 200
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-0123")
    with web_client(tmp_path / "data", {**environ, "ARCHIVE_URL": f"s3://{bucket}/prefix"}) as web:
        answer = web.client.get("/readyz")
        assert (answer.status_code, bucket in answer.json["archive"]) == (503, True)
        assert "a-wrong-secret" not in answer.text


def test_the_result_of_the_archive_probe_is_cached(web: WebClient) -> None:
    assert web.client.get("/readyz").json["archive"] == "ok"
    web.services.__dict__["store"], store = None, web.services.store  # a probe would fail now
    assert web.client.get("/readyz").json["archive"] == "ok"
    web.services.__dict__["store"] = store


def test_readyz_shows_the_age_of_the_oldest_due_work(web: WebClient) -> None:
    assert web.client.get("/readyz").json["oldest_due_seconds"] == 0
    reported(web, SUCCEEDED)
    change_ledger(web, "UPDATE assets SET due_at = due_at - 60")
    assert 60 <= web.client.get("/readyz").json["oldest_due_seconds"] < 70


def test_a_broken_ledger_is_reported_without_details_and_counters_are_still_shown(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.web.health.PROBE_LIFETIMES", {"archive": 0.0, "ledger": 0.0})
    web.callback(web.ticket(), RUNNING)
    path = web.services.settings.ledger_path
    web.services.database.close()
    path.rename(path.with_name("away"))
    path.mkdir()
    answer = web.client.get("/readyz")
    assert (answer.status_code, answer.json["ledger"], answer.json["archive"]) == (
        503,
        "the ledger cannot be used now; the log says why",
        "ok",
    )
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
