"""The gallery, a picture in large, and many pictures as a ZIP; without a browser."""

import io
import json
import re
import zipfile
from threading import BoundedSemaphore
from urllib.parse import quote, urlencode

import pytest
from archives import put
from dashboard_client import archived, reported
from sqlalchemy import update
from web_client import SUCCEEDED, WebClient

from receiver.ledger.tables import assets
from receiver.model import Submission
from receiver.web.dashboard import zip_files

PART = {"HX-Request": "true"}


def tiles(page: str) -> list[str]:
    """Return the refs of the jobs that a gallery shows, in order."""
    return re.findall(r'id="picture-(\w{26})"', page)


def test_the_gallery_is_paged_and_empty_at_first(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No pictures yet" in logged_in.client.get("/").text
    refs = [archived(logged_in, f"fox {number}") for number in range(1)]
    reported(logged_in, {**SUCCEEDED, "id": "task-2"}, "not archived yet")
    monkeypatch.setattr("receiver.web.dashboard.gallery.JOBS", 1)
    first = logged_in.client.get("/").text
    assert (tiles(first), "Older" in first) == (refs, False)
    assert "No picture matches" in logged_in.client.get(f"/?after={refs[0]}").text


def test_an_unchanged_gallery_is_not_sent_again(logged_in: WebClient) -> None:
    assert logged_in.client.get("/?seen=0", headers=PART).status_code == 204
    archived(logged_in, "a red fox")
    answer = logged_in.client.get("/?seen=0", headers=PART)
    assert (answer.status_code, "a red fox" in answer.text, "<html" in answer.text) == (
        200,
        True,
        False,
    )
    seen = re.search(r"seen=(\d+)", answer.text)
    assert seen
    assert logged_in.client.get(f"/?seen={seen[1]}", headers=PART).status_code == 204


def test_the_gallery_is_filtered_and_says_what_is_wrong_with_a_filter(logged_in: WebClient) -> None:
    ref = archived(logged_in, "a red fox")
    for query, found in {
        "q=fox": [ref],
        "q=owl": [],
        "model=gpt-image-1.5": [ref],
        "model=nano-banana": [],
        "folder=shop": [],
        "day=2020-01-01": [],
        "until=2099-01-01": [ref],
    }.items():
        assert tiles(logged_in.client.get(f"/?{query}").text) == found, query
    page = logged_in.client.get("/?day=2026-02-30").text
    assert "2026-02-30 is not a day of the calendar" in page


def test_a_picture_has_its_data_and_its_neighbours_within_the_filter(logged_in: WebClient) -> None:
    ref = archived(logged_in, "a red fox")
    page = logged_in.client.get(f"/pictures/{ref}/0?q=fox").text
    for words in (
        f'src="/previews/{ref}/0"',
        'data-copy="a red fox"',
        f'href="/api/jobs/{ref}/assets/0" download',
        f'href="/?q=fox#picture-{ref}"',
        f'href="/pictures/{ref}/0?q=fox&amp;original=1"',
    ):
        assert words in page
    assert "rel=" not in page.partition("<main")[2], "it has no neighbours"
    assert f'src="/api/jobs/{ref}/assets/0"' in (
        logged_in.client.get(f"/pictures/{ref}/0?original=1").text
    )
    assert logged_in.client.get(f"/pictures/{ref}/1").status_code == 404


def test_a_video_has_a_player(logged_in: WebClient) -> None:
    ref = archived(logged_in)
    logged_in.services.database.write(
        lambda connection: connection.execute(update(assets).values(content_type="video/mp4"))
    )
    page = logged_in.client.get(f"/pictures/{ref}/0").text
    assert re.search(rf'<video controls [^>]*src="/api/jobs/{ref}/assets/0" poster="[^"]+"', page)


# ZIP.


def unpacked(data: bytes) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """Return the files of a ZIP by name, and what its list says about each."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert zipped.testzip() is None
        files = {name: zipped.read(name) for name in zipped.namelist()}
    listed = files.pop("pictures.jsonl").decode().splitlines()
    return files, [json.loads(line) for line in listed]


def stocked(web: WebClient, prompt: str, data: bytes = b"a picture") -> str:
    """Archive a job whose file is in the archive too; return its ref."""
    ref = archived(web, prompt)
    put(web.services.store, f"2026/10/01/{ref}/0.png", data)
    return ref


def test_selected_pictures_come_as_one_zip_with_a_list(logged_in: WebClient) -> None:
    large = b"x" * 1_000_000
    prompt = "狐狸 \u202e\x9b31m\u2028"
    ref = stocked(logged_in, prompt, large)
    answer = logged_in.client.get(f"/zip?ref={ref}", buffered=True)
    assert answer.headers["Content-Type"] == "application/zip"
    assert re.fullmatch(
        r'attachment; filename="pictures-\d{8}-\d{6}.zip"', answer.headers["Content-Disposition"]
    )
    files, listed = unpacked(answer.data)
    assert files == {f"{ref}-0.png": large}
    assert [(line["file"], line["prompt"]) for line in listed] == [(f"{ref}-0.png", prompt)]
    listing = zipfile.ZipFile(io.BytesIO(answer.data)).read("pictures.jsonl").decode()
    assert "狐狸 \\u202e\\u009b31m\\u2028" in listing, "a terminal may show it"


def test_a_zip_has_all_that_a_filter_finds_and_names_what_is_missing(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_files, "_PORTION", 1)
    ref = stocked(logged_in, "a red fox")
    lost = logged_in.services.jobs.get(ref)
    (logged_in.services.settings.data_dir / "archive" / f"2026/10/01/{ref}/0.png").unlink()
    files, listed = unpacked(logged_in.client.get("/zip?q=fox", buffered=True).data)
    assert files == {}
    assert [(line["ref"], "error" in line) for line in listed] == [(lost.ref, True)]
    assert logged_in.client.get("/zip?q=owl").status_code == 404
    assert logged_in.client.get("/zip?since=monday").status_code == 400


def test_few_zips_are_sent_at_a_time_and_a_reader_that_hangs_up_makes_room(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stocked(logged_in, "a fox", b"x" * 1_000_000)
    monkeypatch.setattr(zip_files, "_slots", BoundedSemaphore(1))
    first = logged_in.client.get(f"/zip?ref={ref}", buffered=False)
    busy = logged_in.client.get(f"/zip?ref={ref}", buffered=True)
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "30")
    first.close()
    assert logged_in.client.get(f"/zip?ref={ref}", buffered=True).status_code == 200


def test_a_zip_that_takes_too_long_is_cut_short(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stocked(logged_in, "a fox", b"x" * 1_000_000)
    monkeypatch.setattr(zip_files, "MAX_DURATION", -1.0)
    with pytest.raises(TimeoutError):
        logged_in.client.get(f"/zip?ref={ref}", buffered=True)


# Batches.


def test_a_batch_shows_its_progress_failures_and_downloads(logged_in: WebClient) -> None:
    assert "No batches" in logged_in.client.get("/batches").text
    name = "night run/7 & more"
    refs = [
        logged_in.services.jobs.submit(
            Submission(f"fox {number}", "gpt-image-1.5", {}, batch=name), "https://provider.test"
        ).ref
        for number in range(3)
    ]
    logged_in.services.jobs.record_refused(refs[0], "no")
    query = urlencode({"batch": name}).replace("&", "&amp;")
    listed = logged_in.client.get("/batches").text
    assert f'href="/batches?{query}"' in listed
    assert 'href="/jobs" aria-current="true"' in listed
    assert '<span class="s-failed"><b>1</b> failed</span>' in listed
    assert '<span class="s-submitting"><b>2</b> submitting</span>' in listed
    page = logged_in.client.get(f"/batches?{urlencode({'batch': name})}").text
    for words in (
        "1 of 3 jobs have ended",
        "the provider refused the job",
        f'href="/retry-all?{query}"',
        f'href="/jobs?{query}&amp;reason=refused"',
        refs[0],
    ):
        assert words in page
    assert "/zip?" not in page, "there is no picture yet"
    assert f'href="/batches?{query}"' in logged_in.client.get(f"/jobs/{refs[0]}").text
    listed = logged_in.client.get(f"/jobs?{urlencode({'batch': name, 'reason': 'refused'})}").text
    assert (refs[0] in listed, refs[1] in listed) == (True, False)
    bulk = logged_in.client.get(f"/retry-all?batch={quote(name)}").text
    assert "failed or expired jobs: 1" in bulk
    seen = re.search(r"seen=(\w+)", page)
    assert seen
    again = f"/batches?{urlencode({'batch': name, 'seen': seen[1]})}"
    assert logged_in.client.get(again, headers=PART).status_code == 204
    assert logged_in.client.get("/batches?batch=none").status_code == 404
