"""An archived file from the API: unchanged, never as active content, or a clear error."""

from pathlib import Path
from typing import Any

from api_jobs import DIGEST, PICTURE, archived, get, reported
from web_client import SUCCEEDED, WebClient

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

    class RecordingStore:
        def open(self, key: str, start: int = 0) -> Any:
            opened.append(original(key, start))
            return opened[-1]

    web.services.__dict__["store"], store = RecordingStore(), web.services.store
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
