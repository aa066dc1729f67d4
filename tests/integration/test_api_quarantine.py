"""Rejected files in the API and on the job page: shown, downloaded as mere bytes, accepted."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from api_jobs import archived, reported
from archives import put
from dashboard_client import post
from rejecting import HALF, WHY
from web_client import SUCCEEDED, WebClient

from receiver.archive.manifest import asset_key, quarantine_key
from receiver.ledger.rows import Rejected
from receiver.model import AssetState, JobState

SHA = hashlib.sha256(HALF).hexdigest()
PAGE = b"<!DOCTYPE html><script>alert(1)</script>"


def rejected(web: WebClient, data: bytes = HALF, claimed: str = "text/html") -> str:
    """Make a failed job whose file is in the quarantine; return its ref."""
    ref, sha256 = reported(web, SUCCEEDED), hashlib.sha256(data).hexdigest()
    (claim,) = web.services.assets.claim(1)
    put(web.services.store, quarantine_key(ref, 0, sha256), data)
    file = Rejected(sha256, len(data), claimed, WHY, web.services.now())
    web.services.assets.give_up(claim, AssetState.FAILED, WHY, rejected=file)
    conclude(web)
    return ref


def conclude(web: WebClient) -> JobState:
    (claimed,) = web.services.jobs.claim(1)
    web.services.reconciler.reconcile_job(claimed)
    return web.services.jobs.get(claimed.row.ref).state


def call(web: WebClient, method: str, path: str) -> Any:
    return web.client.open(f"/api/jobs/{path}", method=method, headers=web.admin)


@pytest.mark.parametrize(
    ("data", "claimed", "extension"),
    [
        (HALF, "image/png", "png"),
        (PAGE, "text/html", "bin"),
        (PAGE, "image/svg+xml", "bin"),
        (PAGE, "IMAGE/JPEG; charset=x", "jpg"),
        (PAGE, "", "bin"),
    ],
)
def test_a_rejected_file_is_shown_and_downloaded_as_mere_bytes(
    web: WebClient, data: bytes, claimed: str, extension: str
) -> None:
    ref = rejected(web, data, claimed)
    (asset,) = call(web, "GET", ref).json["assets"]
    assert asset["rejected"].pop("quarantined_at").endswith("Z")
    assert asset["rejected"] == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "content_type": claimed,
        "reason": WHY,
    }
    with call(web, "GET", f"{ref}/assets/0/rejected") as answer:
        assert (answer.status_code, answer.data) == (200, data)
    name = f"{ref}-0-rejected.{extension}"
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


def test_an_accepted_page_is_served_as_mere_bytes_too(web: WebClient) -> None:
    ref = rejected(web, PAGE)
    assert call(web, "POST", f"{ref}/assets/0/accept").json["state"] == "archiving"
    assert conclude(web) is JobState.ARCHIVED
    (asset,) = call(web, "GET", ref).json["assets"]
    assert asset["key"] == asset_key(ref, 0, "bin")
    with call(web, "GET", f"{ref}/assets/0") as answer:
        assert (answer.data, answer.content_type) == (PAGE, "application/octet-stream")
        assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert call(web, "GET", f"{ref}/assets/0/rejected").status_code == 404


def test_accepting_again_is_the_same_and_a_wrong_request_says_what_is_wrong(
    web: WebClient, tmp_path: Path
) -> None:
    ref, other = rejected(web), archived(web, tmp_path)
    for path, status, said in (
        (f"{ref}/assets/0/accept?sha256={'0' * 64}", 409, "is another one by now"),
        (f"{ref}/assets/0/accept?sha256=x", 400, "sha256"),
        (f"{ref}/assets/0/accept?sha=x", 400, "sha"),
        (f"{ref}/assets/1/accept", 404, "no asset 1"),
        (f"{ref}/assets/{10**30}/accept", 404, "no asset"),
        ("01JZ2Q7V3N0123456789ABCDEF/assets/0/accept", 404, "no asset 0"),
        (f"{other}/assets/0/accept", 409, "archived already"),
    ):
        answer = call(web, "POST", path)
        assert (answer.status_code, said in answer.json["detail"]) == (status, True), path
    for _ in range(2):
        assert call(web, "POST", f"{ref}/assets/0/accept?sha256={SHA}").status_code == 200
    assert conclude(web) is JobState.ARCHIVED
    (asset,) = call(web, "POST", f"{ref}/assets/0/accept").json["assets"]
    assert (asset["state"], asset["sha256"]) == ("archived", SHA)
    assert asset["rejected"]["quarantined_at"] is None
    assert asset["accepted_at"] is not None


def test_a_rejected_file_that_is_gone_is_404_and_cannot_be_accepted(web: WebClient) -> None:
    ref = rejected(web)
    web.services.store.delete(quarantine_key(ref, 0, SHA))
    gone = call(web, "GET", f"{ref}/assets/0/rejected")
    assert (gone.status_code, "is gone" in gone.json["detail"]) == (404, True)
    answer = call(web, "POST", f"{ref}/assets/0/accept")
    assert (answer.status_code, "is gone" in answer.json["detail"]) == (409, True)


def test_the_job_page_shows_the_file_and_its_button_accepts_it(logged_in: WebClient) -> None:
    ref = rejected(logged_in, claimed="<script>")
    for language, words in (("en", "Accept as the picture"), ("zh", "接受为结果")):
        logged_in.client.set_cookie("language", language)
        page = logged_in.client.get(f"/jobs/{ref}").text
        assert words in page
        assert f"/api/jobs/{ref}/assets/0/rejected" in page
        assert "<script>" not in page.replace('<script src="', "")
    logged_in.client.set_cookie("language", "en")
    listed = logged_in.client.get("/set-aside").text
    assert f"/jobs/{ref}#asset-0" in listed
    assert WHY in listed
    path = f"/jobs/{ref}/assets/0/accept"
    assert logged_in.client.post(path, data={"sha256": SHA}).status_code == 403, "without a token"
    other = post(logged_in, path, sha256="0" * 64)
    assert (other.status_code, "is another one by now" in other.text) == (409, True)
    done = post(logged_in, path, sha256=SHA)
    assert (done.status_code, done.headers["Location"]) == (303, f"/jobs/{ref}?notice=accepted")
    assert conclude(logged_in) is JobState.ARCHIVED
    page = logged_in.client.get(f"/jobs/{ref}?notice=accepted").text
    assert "The file was accepted." in page
    assert ref not in logged_in.client.get("/set-aside").text
    assert "Accepted by an operator" in page
    assert WHY in page
    assert "Accept as the picture" not in page
    assert post(logged_in, "/jobs/01JZ2Q7V3N0123456789ABCDEF/assets/0/accept").status_code == 404
    assert post(logged_in, f"/jobs/{ref}/assets/{10**30}/accept").status_code == 409
