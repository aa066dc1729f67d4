"""The API, the health checks and the metrics on a real ledger: what they return, and to whom."""

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from seaweed import S3Server
from web_client import FAILED, RUNNING, SUCCEEDED, WebClient, web_client

from receiver.events.listen import EventReader
from receiver.ledger.rows import StoredAsset
from receiver.model import JobState, Submission

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(300_000)
DIGEST = hashlib.sha256(PICTURE).hexdigest()
UNKNOWN = "01JZ2Q7V3N0123456789ABCDEF"
JOB_KEYS = [
    "assets",
    "message",
    "missing",
    "model",
    "progress",
    "prompt",
    "provider",
    "provider_id",
    "reason",
    "ref",
    "requested",
    "state",
    "submitted_at",
]
ASSET_KEYS = ["content_type", "height", "index", "key", "sha256", "size", "state", "width"]


def get(web: WebClient, path: str, **options: Any) -> Any:
    return web.client.get(path, headers=web.admin, **options)


def submitted(web: WebClient, prompt: str = "a fox", model: str = "gpt-image-1.5") -> str:
    return web.services.jobs.submit(Submission(prompt, model, {}), "https://provider.test").ref


def reported(web: WebClient, body: dict[str, Any], prompt: str = "a fox") -> str:
    """Make a job with this report; return its ref."""
    ref = submitted(web, prompt)
    assert web.callback(web.services.tickets.sign(ref), body).status_code == 200
    return ref


def archived(web: WebClient, tmp_path: Path) -> str:
    """Make a job whose picture is in the archive, with the steps of a worker; return its ref."""
    ref = reported(web, SUCCEEDED)
    (claimed,) = web.services.assets.claim(1)
    file = tmp_path / "fetched"
    file.write_bytes(PICTURE)
    key = f"2026/10/01/{ref}/0.png"
    web.services.store.put(key, file, sha256=DIGEST, content_type="image/png")
    web.services.assets.finish(claimed, StoredAsset(key, DIGEST, len(PICTURE), "image/png", 8, 8))
    (job,) = web.services.jobs.claim(1)
    web.services.jobs.conclude(job, JobState.ARCHIVED)
    return ref


def spoil(web: WebClient, statement: str) -> None:
    with closing(
        sqlite3.connect(web.services.settings.ledger_path, isolation_level=None)
    ) as connection:
        connection.execute(statement).close()


# Access.

PRIVATE = [
    ("GET", "/api/jobs"),
    ("POST", "/api/jobs"),
    ("GET", f"/api/jobs/{UNKNOWN}"),
    ("POST", f"/api/jobs/{UNKNOWN}/retry"),
    ("GET", f"/api/jobs/{UNKNOWN}/assets/0"),
    ("GET", "/api/events"),
    ("GET", "/api/audit"),
]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_every_private_route_needs_the_token(web: WebClient, method: str, path: str) -> None:
    token = web.services.admin_token
    for given in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
        f"Basic {token}",
        token,
        "Bearer \xe9",
    ):
        headers = {} if given is None else {"Authorization": given}
        answer = web.client.open(path, method=method, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), given
        assert answer.content_type == "application/problem+json"
        assert token not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_checks_and_metrics_need_no_token(web: WebClient, path: str) -> None:
    assert web.client.get(path).status_code == 200


def test_the_word_bearer_is_case_insensitive(web: WebClient) -> None:
    assert (
        web.client.get(
            "/api/jobs", headers={"Authorization": f"bearer  {web.services.admin_token}"}
        ).status_code
        == 200
    )


# Jobs.


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "state=done",
            (
                "state: Input should be 'submitting', 'waiting', 'archiving', 'archived', "
                "'failed' or 'expired'"
            ),
        ),
        *(
            (f"limit={wrong}", "limit: Value error, write a number in digits")
            for wrong in ("-1", "x", "", "1.5", "%D9%A3", "+5", "9" * 5000)
        ),
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=501", "limit: Input should be less than or equal to 500"),
        ("limit=5&limit=6", "limit: given more than once"),
        ("q=%00", "q: String should match pattern '^[^\\x00]*$'"),
        ("after=x", "after: String should match pattern '^([0-7][0-9A-HJKMNP-TV-Z]{25})?$'"),
        ("since=5", "since: Value error, write a moment as in 2026-07-01T12:00:00Z"),
        ("until=2026-07-01T12:00:00", "until: Input should have timezone info"),
    ],
)
def test_an_invalid_query_is_refused_with_the_reason(web: WebClient, query: str, said: str) -> None:
    answer = get(web, f"/api/jobs?{query}")
    assert (answer.status_code, answer.json["detail"]) == (400, said)


def test_all_mistakes_of_a_query_are_reported_at_once(web: WebClient) -> None:
    assert get(web, "/api/jobs?limit=x&state=y&after=z").json["detail"].count(";") == 2


def test_a_job_has_exactly_the_keys_of_the_contract(web: WebClient, tmp_path: Path) -> None:
    refs = {
        submitted(web): "submitting",
        reported(web, {**FAILED, "id": "task-0"}): "failed",
        archived(web, tmp_path): "archived",
    }
    for ref, state in refs.items():
        job = get(web, f"/api/jobs/{ref}").json
        assert sorted(job) == JOB_KEYS
        assert all(sorted(asset) == ASSET_KEYS for asset in job["assets"])
        assert (job["ref"], job["state"], job["provider"], job["model"], job["prompt"]) == (
            ref,
            state,
            "grsai",
            "gpt-image-1.5",
            "a fox",
        )
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", job["submitted_at"])
    assert job["progress"] == 100
    assert job["assets"] == [
        {
            "index": 0,
            "state": "archived",
            "key": f"2026/10/01/{ref}/0.png",
            "sha256": DIGEST,
            "size": len(PICTURE),
            "content_type": "image/png",
            "width": 8,
            "height": 8,
        }
    ]


def test_a_failed_job_says_why(web: WebClient) -> None:
    job = get(web, f"/api/jobs/{reported(web, FAILED)}").json
    assert (job["state"], job["reason"], job["message"], job["provider_id"]) == (
        "failed",
        "output_moderation",
        "no",
        "task-1",
    )


@pytest.mark.parametrize("ref", [UNKNOWN, "x", "%00", "%FF", "..%2F", "x" * 5000])
def test_an_unknown_job_is_404(web: WebClient, ref: str) -> None:
    for method, path in (("GET", ""), ("POST", "/retry"), ("GET", "/assets/0")):
        assert (
            web.client.open(f"/api/jobs/{ref}{path}", method=method, headers=web.admin).status_code
            == 404
        )


def test_the_list_is_newest_first_and_its_pages_have_no_gap_or_overlap(
    web: WebClient,
) -> None:
    refs = sorted((submitted(web) for _ in range(5)), reverse=True)
    found: list[str] = []
    cursor: str | None = ""
    for expected in (2, 2, 1):
        page = get(web, f"/api/jobs?limit=2&after={cursor}").json
        assert len(page["jobs"]) == expected
        found += [job["ref"] for job in page["jobs"]]
        cursor = page["next"]
    assert (found, cursor) == (refs, None)
    assert get(web, f"/api/jobs?after={min(refs)}").json == {"jobs": [], "next": None}
    assert get(web, "/api/jobs?limit=5").json["next"] is None, (
        "a page that just fits is the last one"
    )


def test_the_list_is_filtered_by_state_and_text(web: WebClient) -> None:
    fox, owl = submitted(web, "a FOX, 100% red"), submitted(web, "an owl", "nano-banana")
    failed = reported(web, {**FAILED, "id": "f44bcf50"}, "a fox_trot")
    for query, refs in {
        "state=submitting": {fox, owl},
        "state=failed": {failed},
        "state=expired": set(),
        "q=fox": {fox, failed},
        "q=nano-ban": {owl},
        "q=F44BCF": {failed},
        f"q={owl[10:]}": {owl},
        "q=100%25": {fox},
        "q=fox_trot": {failed},
        "q=_": {failed},
        "q=%25": {fox},
        "q=%5C": set(),
        "state=failed&q=owl": set(),
        "state=&q=": {fox, owl, failed},
    }.items():
        assert {job["ref"] for job in get(web, f"/api/jobs?{query}").json["jobs"]} == refs, query


def test_only_a_failed_job_can_be_retried(web: WebClient, tmp_path: Path) -> None:
    going_on, safe = submitted(web), archived(web, tmp_path)
    lost = reported(web, {**FAILED, "id": "task-2"})
    for ref in (going_on, safe):
        answer = web.client.post(f"/api/jobs/{ref}/retry", headers=web.admin)
        assert (answer.status_code, answer.content_type) == (409, "application/problem+json")
        assert ref in answer.json["detail"]
    answer = web.client.post(f"/api/jobs/{lost}/retry", headers=web.admin)
    assert (answer.status_code, answer.json["state"], answer.json["reason"]) == (
        200,
        "waiting",
        None,
    )
    assert web.client.post(f"/api/jobs/{lost}/retry", headers=web.admin).status_code == 409, (
        "it is in progress now"
    )
    assert web.client.get(f"/api/jobs/{lost}/retry", headers=web.admin).status_code == 405


# Assets.


def test_an_archived_file_is_returned_unchanged_and_never_as_active_content(
    web: WebClient, tmp_path: Path
) -> None:
    ref = archived(web, tmp_path)
    path = f"/api/jobs/{ref}/assets/0"
    with get(web, path) as answer:
        assert (answer.status_code, answer.data) == (200, PICTURE)
        headers = answer.headers
    assert headers["Content-Type"] == "image/png"
    assert headers["Content-Length"] == str(len(PICTURE))
    assert headers["ETag"] == f'"{DIGEST}"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert headers["Content-Disposition"] == f'attachment; filename="{ref}-0.png"'
    with web.client.head(path, headers=web.admin) as answer:
        assert (answer.status_code, answer.headers["Content-Length"], answer.data) == (
            200,
            str(len(PICTURE)),
            b"",
        )
    for wrong in ("1", "-1", "x", "99999999999999999999"):
        assert get(web, f"/api/jobs/{ref}/assets/{wrong}").status_code == 404


def test_the_file_is_closed_whether_it_was_read_or_not(web: WebClient, tmp_path: Path) -> None:
    path = f"/api/jobs/{archived(web, tmp_path)}/assets/0"
    opened = []
    original = web.services.store.open

    class Watching:
        def open(self, key: str, start: int = 0) -> Any:
            opened.append(original(key, start))
            return opened[-1]

    web.services.__dict__["store"], store = Watching(), web.services.store
    try:
        for method in ("HEAD", "GET"):
            answer = web.client.open(path, method=method, headers=web.admin, buffered=False)
            answer.close()  # as when the client hangs up
    finally:
        web.services.__dict__["store"] = store
    assert [file.closed for file in opened] == [True, True]


def test_a_pending_file_is_404_and_a_missing_object_503(web: WebClient, tmp_path: Path) -> None:
    ref = archived(web, tmp_path)
    waiting = reported(web, {**SUCCEEDED, "id": "task-2"})
    assert get(web, f"/api/jobs/{waiting}/assets/0").status_code == 404
    Path(web.services.store.locate(f"2026/10/01/{ref}/0.png")).unlink()
    answer = get(web, f"/api/jobs/{ref}/assets/0")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "no such object" in answer.json["detail"]


# Events and the audit.


@pytest.mark.parametrize("after", ["-1", "x", "", "1.5", "9" * 5000])
def test_after_must_be_a_number(web: WebClient, after: str) -> None:
    assert get(web, f"/api/events?after={after}").status_code == 400


def test_events_are_listed_in_order_and_after_any_of_them(web: WebClient, tmp_path: Path) -> None:
    ref = archived(web, tmp_path)
    lost = reported(web, {**FAILED, "id": "task-2"})
    found = get(web, "/api/events").json
    events = found["events"]
    assert [(event["type"], event["data"]["ref"]) for event in events] == [
        ("asset.archived", ref),
        ("job.archived", ref),
        ("job.failed", lost),
    ]
    assert found["next"] == events[-1]["number"]
    assert [
        event["type"]
        for event in get(web, f"/api/events?after={events[1]['number']}").json["events"]
    ] == ["job.failed"]
    assert get(web, f"/api/events?after={'9' * 18}").json == {"events": [], "next": None}


def test_an_event_looks_as_in_webhooks_and_in_listen(web: WebClient, tmp_path: Path) -> None:
    ref = archived(web, tmp_path)
    reported(web, {**FAILED, "id": "task-2"})
    found = get(web, "/api/events").json["events"]
    heard = EventReader(web.services.events, []).events(0, follow=False)
    assert found == [json.loads(web.services.serializer.body(event)) for event, _ in heard if event]
    assert [(event["id"], event["number"]) for event in found[:2]] == [
        (f"{ref}-0-asset-archived-0", 1),
        (f"{ref}-job-job-archived-0", 2),
    ]
    assert found[0]["data"]["url"] == f"{web.services.settings.archive_url}/2026/10/01/{ref}/0.png"


def test_the_audit_shows_the_counts_and_names_a_broken_invariant(
    web: WebClient, tmp_path: Path
) -> None:
    refs = [archived(web, tmp_path), reported(web, {**FAILED, "id": "task-2"}), submitted(web)]
    counts = {
        "submitted": 3,
        "archived": 1,
        "failed": 1,
        "expired": 0,
        "in_flight": 1,
        "difference": 0,
    }
    assert get(web, "/api/audit").json == {"ok": True, "broken": {}, **counts}
    spoil(web, "DELETE FROM events WHERE type = 'job.failed'")
    found = get(web, "/api/audit").json
    assert (found["ok"], found["difference"], found["failed"]) == (False, 1, 0)
    assert found["broken"] == {"every end is announced by its event": [refs[1]]}
    assert get(web, "/api/audit?whole=1").json == found
    assert get(web, "/api/audit?whole=perhaps").status_code == 400


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
    spoil(web, "UPDATE assets SET due_at = due_at - 60")
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
