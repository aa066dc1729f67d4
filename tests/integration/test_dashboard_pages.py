"""What the dashboard's pages show, without a browser; and that nothing shown is ever run."""

import re

import pytest
from dashboard_client import HOSTILE, PAGES, archived, reported, submitted
from sqlalchemy import update
from web_client import FAILED, SUCCEEDED, WebClient

from receiver.ledger.rows import StoredAsset
from receiver.ledger.tables import assets, jobs
from receiver.model import JobState


def test_every_page_is_kept_by_nobody_and_may_do_nothing_but_what_it_needs(
    inside: WebClient,
) -> None:
    ref = reported(inside, SUCCEEDED)
    for path in (*PAGES, f"/jobs/{ref}", f"/jobs/{ref}/deliveries/1", "/login", "/nothing/here"):
        headers = inside.client.get(path).headers
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


def test_what_strangers_say_is_shown_and_never_run(inside: WebClient) -> None:
    body = {**FAILED, "id": HOSTILE, "error": HOSTILE}
    ref = reported(inside, body, HOSTILE)
    inside.callback(inside.services.tickets.sign(ref), HOSTILE.encode())
    shown = [
        inside.client.get(path).text
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
    raw = inside.client.get(f"/jobs/{ref}/deliveries/2/raw")
    assert (raw.data, raw.headers["Content-Type"]) == (HOSTILE.encode(), "application/octet-stream")
    assert raw.headers["Content-Disposition"].startswith("attachment")


def test_no_page_shows_a_secret(inside: WebClient) -> None:
    refs = [reported(inside, SUCCEEDED), archived(inside), reported(inside, b"{")]
    secrets = [
        inside.services.admin_token,
        *(inside.services.tickets.sign(ref).partition(".")[2] for ref in refs),
    ]
    callback_secret = (
        (inside.services.settings.data_dir / "secrets" / "callback").read_text().strip()
    )
    for path in (
        *PAGES,
        *(f"/jobs/{ref}" for ref in refs),
        f"/jobs/{refs[0]}/deliveries/1",
        "/api/jobs",
        "/openapi.json",
    ):
        page = inside.client.get(path).text
        assert [secret for secret in (*secrets, callback_secret) if secret in page] == [], path


def test_the_strip_tells_how_all_jobs_stand_and_links_to_them(inside: WebClient) -> None:
    archived(inside)
    for number in range(2):
        reported(inside, {**FAILED, "id": f"task-{number}"})
    submitted(inside)
    strip = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", inside.client.get("/strip").text))
    assert (
        "4 submitted = 1 archived + 2 failed + 0 expired + 1 in flight (1 submitting, 0 waiting, 0 archiving) ✓ adds up"
        in strip
    )
    assert 'href="/jobs?state=failed"' in inside.client.get("/strip").text


def test_a_law_that_does_not_hold_is_named_with_the_jobs_that_break_it(inside: WebClient) -> None:
    ref = reported(inside, FAILED)
    inside.services.database.write(
        lambda connection: connection.exec_driver_sql("DELETE FROM events")
    )
    assert "does not add up" in inside.client.get("/strip").text
    page = inside.client.get("/law").text
    assert ("every end is announced by its event" in page, f'href="/jobs/{ref}"' in page) == (
        True,
        True,
    )


def test_a_search_tells_how_far_it_has_come(inside: WebClient) -> None:
    inside.services.browse._window = 2
    refs = [submitted(inside, prompt) for prompt in ("a fox", "an owl", "an owl")]
    page = inside.client.get("/jobs?q=fox").text
    assert ("Nothing found so far" in page, "Search further back" in page) == (True, True)
    assert f'href="/jobs?q=fox&amp;after={sorted(refs)[1]}"' in page
    assert refs[0] in inside.client.get(f"/jobs?q=fox&after={sorted(refs)[1]}").text


def test_a_list_is_narrowed_by_days_and_says_what_is_wrong_with_a_question(
    inside: WebClient,
) -> None:
    ref = submitted(inside)
    assert ref in inside.client.get("/jobs?since=2020-01-01&until=2999-01-01").text
    assert ref not in inside.client.get("/jobs?until=2020-01-01").text
    page = inside.client.get("/jobs?state=odd&since=monday")
    assert (page.status_code, "cannot be answered" in page.text, "state:" in page.text) == (
        200,
        True,
        True,
    )


def test_a_part_of_the_list_is_the_list_alone(inside: WebClient) -> None:
    submitted(inside)
    part = inside.client.get(
        "/jobs?q=fox", headers={"HX-Request": "true", "HX-Target": "results"}
    ).text
    assert ("a fox" in part, "<html" in part) == (True, False)


def test_a_job_that_is_as_it_was_seen_is_not_sent_again(inside: WebClient) -> None:
    ref = submitted(inside)
    seen = re.search(r"seen=(\w+)", inside.client.get(f"/jobs/{ref}").text)
    assert seen
    again = inside.client.get(f"/jobs/{ref}?seen={seen[1]}", headers={"HX-Request": "true"})
    assert (again.status_code, again.data) == (204, b"")
    inside.callback(inside.services.tickets.sign(ref), FAILED)
    changed = inside.client.get(f"/jobs/{ref}?seen={seen[1]}", headers={"HX-Request": "true"})
    assert (changed.status_code, "moderation held the picture back" in changed.text) == (200, True)


def test_a_job_shows_all_that_happened_to_it_in_order(inside: WebClient) -> None:
    ref = reported(inside, SUCCEEDED)
    (claimed,) = inside.services.ledger.claim_assets(1)
    inside.services.ledger.retry_asset(
        claimed, inside.services.ledger.now(), "the source answered 500"
    )
    (claimed,) = inside.services.ledger.claim_assets(1)
    inside.services.ledger.finish_asset(
        claimed, StoredAsset(f"2026/10/01/{ref}/0.png", "0" * 64, 2048, "image/png", 8, 8)
    )
    (job,) = inside.services.ledger.claim_jobs(1)
    inside.services.ledger.conclude(job, JobState.ARCHIVED)
    page = inside.client.get(f"/jobs/{ref}").text
    timeline = page.partition("<ol")[2].partition("</ol>")[0]
    order = [
        "Submitted",
        "callback</b>: decided the job",
        "the source answered 500",
        "Picture 0 is safe",
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


def test_a_large_body_is_shown_in_part_and_given_whole(inside: WebClient) -> None:
    body = b'{"id":"task-1","status":"running","filler":"' + b"x" * 200_000 + b'"}'
    ref = reported(inside, body)
    page = inside.client.get(f"/jobs/{ref}/deliveries/1").text
    assert ("Only the first 64.0 KB are shown" in page, len(page) < 80_000) == (True, True)
    assert inside.client.get(f"/jobs/{ref}/deliveries/1/raw").data == body
    assert inside.client.get(f"/jobs/{ref}/deliveries/2").status_code == 404


def test_a_picture_in_danger_is_shown_with_its_end(inside: WebClient) -> None:
    ref = reported(inside, SUCCEEDED)
    assert "Nothing is in danger" in inside.client.get("/danger").text
    inside.services.database.write(
        lambda connection: connection.exec_driver_sql(
            "UPDATE assets SET expires_at = expires_at - 6000"
        )
    )
    page = inside.client.get("/danger").text
    assert (ref in page, 'data-risk="1800.0"' in page, "Try now" in page) == (True, True, True)


def test_what_was_set_aside_is_shown(inside: WebClient) -> None:
    assert "Nothing is set aside" in inside.client.get("/set-aside").text
    ref = reported(inside, b"{")
    lost = reported(inside, FAILED)
    inside.services.database.write(
        lambda connection: connection.execute(
            update(jobs).where(jobs.c.ref == lost).values(crashes=5, message="set aside: x")
        )
    )
    page = inside.client.get("/set-aside").text
    assert [
        words in page
        for words in (ref, lost, "Deliveries that could not be read", "Jobs that broke the worker")
    ] == [True] * 4


def test_models_are_compared_in_figures_and_drawings(inside: WebClient) -> None:
    assert "No jobs in this time" in inside.client.get("/compare?span=last_hour").text
    archived(inside)
    reported(inside, {**FAILED, "id": "task-2"})
    page = inside.client.get("/compare?span=nonsense").text
    assert [
        words in page
        for words in ("From all 2 jobs", "gpt-image-1.5", "50.0 %", '<rect class="k-archived"')
    ] == [True] * 4


def test_the_gallery_is_paged_and_empty_at_first(
    inside: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No pictures yet" in inside.client.get("/").text
    refs = [archived(inside, f"fox {number}") for number in range(1)]
    monkeypatch.setattr("receiver.web.dashboard.gallery.PICTURES", 1)
    first = inside.client.get("/?before=x").text
    assert (f'href="/jobs/{refs[0]}"' in first, "Older" in first) == (True, False)
    assert "No pictures yet" in inside.client.get("/?before=1").text


def test_a_gallery_that_is_as_it_was_seen_is_not_sent_again(inside: WebClient) -> None:
    part = {"HX-Request": "true"}
    assert inside.client.get("/?seen=0", headers=part).status_code == 204
    archived(inside, "a red fox")
    answer = inside.client.get("/?seen=0", headers=part)
    assert (answer.status_code, "a red fox" in answer.text, "<html" in answer.text) == (
        200,
        True,
        False,
    )
    seen = re.search(r"seen=(\d+)", answer.text)
    assert seen
    assert inside.client.get(f"/?seen={seen[1]}", headers=part).status_code == 204


@pytest.mark.parametrize(
    ("content_type", "drawn"), [("video/mp4", b"M30 22v52M66 22v52"), ("image/png", b'width="2"')]
)
def test_in_the_place_of_a_thumbnail_that_cannot_be_had_there_is_a_drawing(
    inside: WebClient, content_type: str, drawn: bytes
) -> None:
    ref = archived(inside)  # the archive does not have it: it is away
    inside.services.database.write(
        lambda connection: connection.execute(update(assets).values(content_type=content_type))
    )
    answer = inside.client.get(f"/thumbnails/{ref}/0")
    assert (answer.status_code, answer.headers["Cache-Control"], answer.content_type) == (
        200,
        "no-store",
        "image/svg+xml; charset=utf-8",
    )
    assert drawn in answer.data
    assert inside.client.get(f"/thumbnails/{ref}/7").status_code == 404
