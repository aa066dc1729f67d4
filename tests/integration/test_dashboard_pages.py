"""What the dashboard's pages show, without a browser; and that no shown text is ever run."""

import re
from datetime import datetime, timedelta
from urllib.parse import urlencode

import pytest
from dashboard_client import HOSTILE, PAGES, archived, reported, submitted
from sqlalchemy import update
from web_client import FAILED, SUCCEEDED, WebClient

from receiver.ledger.rows import StoredAsset
from receiver.ledger.tables import assets, jobs
from receiver.model import JobState
from receiver.web.dashboard.job_filter import zone_of


def test_every_page_has_strict_security_headers(
    logged_in: WebClient,
) -> None:
    ref = reported(logged_in, SUCCEEDED)
    for path in (*PAGES, f"/jobs/{ref}", f"/jobs/{ref}/deliveries/1", "/login", "/nothing/here"):
        headers = logged_in.client.get(path).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
        )
        assert (
            policy.pop("default-src")
            == policy.pop("frame-ancestors")
            == policy.pop("base-uri")
            == "'none'"
        )
        assert set(policy.values()) == {"'self'"}
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == (
            "no-store",
            "nosniff",
        )
        assert headers["Referrer-Policy"] == "same-origin"


def test_hostile_texts_are_shown_and_never_run(logged_in: WebClient) -> None:
    body = {**FAILED, "id": HOSTILE, "error": HOSTILE}
    ref = reported(logged_in, body, HOSTILE)
    logged_in.callback(logged_in.services.tickets.sign(ref), HOSTILE.encode())
    shown = [
        logged_in.client.get(path).text
        for path in (
            "/jobs",
            f"/jobs/{ref}",
            f"/jobs/{ref}/deliveries/2",
            "/set-aside",
            f"/submit?like={ref}",
        )
    ]
    for page in shown:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "49" not in re.sub(
            r"[0-9a-fA-F]{8,}|\d+ ?[:.,-]?\d*", "", page.replace("{{7*7}}", "")
        )
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown[1]
    raw = logged_in.client.get(f"/jobs/{ref}/deliveries/2/raw")
    assert (raw.data, raw.headers["Content-Type"]) == (HOSTILE.encode(), "application/octet-stream")
    assert raw.headers["Content-Disposition"].startswith("attachment")


def test_no_page_shows_a_secret(logged_in: WebClient) -> None:
    refs = [reported(logged_in, SUCCEEDED), archived(logged_in), reported(logged_in, b"{")]
    secrets = [
        logged_in.services.admin_token,
        *(logged_in.services.tickets.sign(ref).partition(".")[2] for ref in refs),
    ]
    callback_secret = (
        (logged_in.services.settings.data_dir / "secrets" / "callback").read_text().strip()
    )
    for path in (
        *PAGES,
        *(f"/jobs/{ref}" for ref in refs),
        f"/jobs/{refs[0]}/deliveries/1",
        "/api/jobs",
        "/openapi.json",
    ):
        page = logged_in.client.get(path).text
        assert [secret for secret in (*secrets, callback_secret) if secret in page] == [], path


def test_the_status_bar_counts_the_jobs_by_state_and_links_to_them(logged_in: WebClient) -> None:
    archived(logged_in)
    for number in range(2):
        reported(logged_in, {**FAILED, "id": f"task-{number}"})
    submitted(logged_in)
    status_bar = re.sub(
        r"\s+", " ", re.sub(r"<[^>]+>", "", logged_in.client.get("/status-bar").text)
    )
    assert (
        "4 submitted = 1 archived + 2 failed + 0 expired + 1 in flight "
        "(1 submitting, 0 waiting, 0 archiving) adds up" in status_bar
    )
    assert 'href="/jobs?state=failed"' in logged_in.client.get("/status-bar").text


def test_a_broken_invariant_is_named_with_its_jobs(logged_in: WebClient) -> None:
    ref = reported(logged_in, FAILED)
    logged_in.services.database.write(
        lambda connection: connection.exec_driver_sql("DELETE FROM events")
    )
    assert "does not add up" in logged_in.client.get("/status-bar").text
    page = logged_in.client.get("/audit").text
    assert ("every end is announced by its event" in page, f'href="/jobs/{ref}"' in page) == (
        True,
        True,
    )


def test_a_search_shows_how_far_back_it_looked(logged_in: WebClient) -> None:
    logged_in.services.job_list._window = 2
    refs = [submitted(logged_in, prompt) for prompt in ("a fox", "an owl", "an owl")]
    page = logged_in.client.get("/jobs?q=ox").text
    assert ("Nothing found yet" in page, "Search further back" in page) == (True, True)
    assert f'href="/jobs?q=ox&amp;after={sorted(refs)[1]}"' in page
    assert refs[0] in logged_in.client.get(f"/jobs?q=ox&after={sorted(refs)[1]}").text


def test_the_list_is_filtered_by_date_and_explains_an_invalid_search(
    logged_in: WebClient,
) -> None:
    ref = submitted(logged_in)
    assert ref in logged_in.client.get("/jobs?since=2020-01-01&until=2999-01-01").text
    assert ref not in logged_in.client.get("/jobs?until=2020-01-01").text
    page = logged_in.client.get("/jobs?state=odd&since=monday")
    assert (page.status_code, "Invalid search" in page.text, "state:" in page.text) == (
        200,
        True,
        True,
    )


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/New_York", "", "../etc", "America"])
def test_days_are_whole_days_of_the_readers_zone_and_include_the_last(
    logged_in: WebClient, zone: str
) -> None:
    ref = submitted(logged_in)
    now = datetime.fromtimestamp(logged_in.services.now(), zone_of(zone))
    today, before, after = (str((now + timedelta(days)).date()) for days in (0, -1, 1))
    for since, until, is_found in (
        (today, today, True),
        (before, before, False),
        (after, after, False),
        (before, after, True),
        ("0001-01-01", "9999-12-31", True),
    ):
        query = urlencode({"since": since, "until": until, "zone": zone})
        page = logged_in.client.get(f"/jobs?{query}").text
        assert ("Invalid search" in page, ref in page) == (False, is_found), query
        bulk = logged_in.client.get(f"/retry-all?{query}").text
        assert f"until={until}" in bulk


def test_a_lists_days_must_be_days(logged_in: WebClient) -> None:
    for day in ("2026-02-30", "0000-00-00"):
        page = logged_in.client.get(f"/jobs?since={day}").text
        assert f"{day} is not a day of the calendar" in page
    assert logged_in.client.get("/retry-all?since=2026-02-30").status_code == 400


def test_an_unchanged_list_is_not_sent_again(logged_in: WebClient) -> None:
    ref = submitted(logged_in)
    seen = re.search(r"seen=(\w+)", logged_in.client.get("/jobs").text)
    assert seen
    part = {"HX-Request": "true", "HX-Target": "results"}
    assert logged_in.client.get(f"/jobs?seen={seen[1]}", headers=part).status_code == 204
    logged_in.callback(logged_in.services.tickets.sign(ref), FAILED)
    changed = logged_in.client.get(f"/jobs?seen={seen[1]}", headers=part)
    assert (changed.status_code, "moderation withheld" in changed.text) == (200, True)


def test_a_fragment_of_the_list_has_the_list_alone(logged_in: WebClient) -> None:
    submitted(logged_in)
    part = logged_in.client.get(
        "/jobs?q=fox", headers={"HX-Request": "true", "HX-Target": "results"}
    ).text
    assert ("a fox" in part, "<html" in part) == (True, False)


def test_an_unchanged_job_is_not_sent_again(logged_in: WebClient) -> None:
    ref = submitted(logged_in)
    seen = re.search(r"seen=(\w+)", logged_in.client.get(f"/jobs/{ref}").text)
    assert seen
    again = logged_in.client.get(f"/jobs/{ref}?seen={seen[1]}", headers={"HX-Request": "true"})
    assert (again.status_code, again.data) == (204, b"")
    logged_in.callback(logged_in.services.tickets.sign(ref), FAILED)
    changed = logged_in.client.get(f"/jobs/{ref}?seen={seen[1]}", headers={"HX-Request": "true"})
    assert (changed.status_code, "moderation withheld the picture" in changed.text) == (200, True)


def test_a_jobs_timeline_is_complete_and_in_order(logged_in: WebClient) -> None:
    ref = reported(logged_in, SUCCEEDED)
    (claimed,) = logged_in.services.assets.claim(1)
    logged_in.services.assets.retry(claimed, logged_in.services.now(), "the source answered 500")
    (claimed,) = logged_in.services.assets.claim(1)
    logged_in.services.assets.finish(
        claimed, StoredAsset(f"2026/10/01/{ref}/0.png", "0" * 64, 2048, "image/png", 8, 8)
    )
    (job,) = logged_in.services.jobs.claim(1)
    logged_in.services.jobs.conclude(job, JobState.ARCHIVED)
    page = logged_in.client.get(f"/jobs/{ref}").text
    timeline = page.partition("<ol")[2].partition("</ol>")[0]
    order = [
        "Submitted",
        "callback</b>: decided the job",
        "the source answered 500",
        "Picture 0 archived",
        "Job archived",
    ]
    assert [timeline.index(words) for words in order] == sorted(
        timeline.index(words) for words in order
    )
    for words in (
        f'data-copy="2026/10/01/{ref}/0.png"',
        f'data-copy="{"0" * 64}"',
        "2.0 KB",
        "8 × 8",
        f"/api/jobs/{ref}/assets/0",
    ):
        assert words in page


def test_a_large_body_is_shown_in_part_and_downloaded_whole(logged_in: WebClient) -> None:
    body = b'{"id":"task-1","status":"running","filler":"' + b"x" * 200_000 + b'"}'
    ref = reported(logged_in, body)
    page = logged_in.client.get(f"/jobs/{ref}/deliveries/1").text
    assert ("Only the first 64.0 KB are shown" in page, len(page) < 80_000) == (True, True)
    assert logged_in.client.get(f"/jobs/{ref}/deliveries/1/raw").data == body
    assert logged_in.client.get(f"/jobs/{ref}/deliveries/2").status_code == 404


def test_a_picture_at_risk_is_shown_with_its_expiry(logged_in: WebClient) -> None:
    ref = reported(logged_in, SUCCEEDED)
    assert "Nothing is at risk" in logged_in.client.get("/at-risk").text
    logged_in.services.database.write(
        lambda connection: connection.exec_driver_sql(
            "UPDATE assets SET announced_at = announced_at - 6000, expires_at = expires_at - 6000"
        )
    )
    page = logged_in.client.get("/at-risk").text
    assert (ref in page, 'data-risk="1800.0"' in page, "Try now" in page) == (True, True, True)


def test_jobs_and_deliveries_that_were_set_aside_are_shown(logged_in: WebClient) -> None:
    assert "Nothing is set aside" in logged_in.client.get("/set-aside").text
    ref = reported(logged_in, b"{")
    lost = reported(logged_in, FAILED)
    logged_in.services.database.write(
        lambda connection: connection.execute(
            update(jobs).where(jobs.c.ref == lost).values(crashes=5, message="set aside: x")
        )
    )
    page = logged_in.client.get("/set-aside").text
    assert [
        words in page
        for words in (ref, lost, "Unreadable deliveries", "Jobs that crashed a worker")
    ] == [True] * 4


def test_models_are_compared_in_a_table_and_charts(logged_in: WebClient) -> None:
    assert "No jobs in this time span" in logged_in.client.get("/compare?span=last_hour").text
    archived(logged_in)
    reported(logged_in, {**FAILED, "id": "task-2"})
    page = logged_in.client.get("/compare?span=nonsense").text
    assert [
        words in page
        for words in (
            "All 2 jobs",
            "gpt-image-1.5",
            "50.0 %",
            '<rect class="k-archived"',
            "c2pa 100.0 %",
        )
    ] == [True] * 5


def test_a_job_shows_defect_doubt_and_marks_of_its_files(logged_in: WebClient) -> None:
    ref = archived(logged_in)
    asset = logged_in.services.queries.assets([ref])[ref][0]
    logged_in.services.assets.record_doubt(asset, "it cannot be decoded")
    page = logged_in.client.get(f"/jobs/{ref}").text
    assert [
        words in page for words in ("3 bytes after the end", "it cannot be decoded", "c2pa (caBX,")
    ] == [True] * 3


@pytest.mark.parametrize(
    ("content_type", "drawn"), [("video/mp4", b"M30 22v52M66 22v52"), ("image/png", b'width="2"')]
)
def test_a_drawing_replaces_a_thumbnail_that_does_not_exist(
    logged_in: WebClient, content_type: str, drawn: bytes
) -> None:
    ref = archived(logged_in)  # only in the ledger; the archive does not have it
    logged_in.services.database.write(
        lambda connection: connection.execute(update(assets).values(content_type=content_type))
    )
    answer = logged_in.client.get(f"/thumbnails/{ref}/0")
    assert (answer.status_code, answer.headers["Cache-Control"], answer.content_type) == (
        200,
        "no-store",
        "image/svg+xml; charset=utf-8",
    )
    assert drawn in answer.data
    assert logged_in.client.get(f"/thumbnails/{ref}/7").status_code == 404
