"""An archived file from the API: whole, in parts, with conditions, or as a link."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from api_jobs import archived
from web_client import WebClient, web_client

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3000
SIZE = len(PICTURE)
DIGEST = hashlib.sha256(PICTURE).hexdigest()


@pytest.fixture
def path(web: WebClient, tmp_path: Path) -> str:
    """Archive a picture; return its path in the API."""
    return f"/api/jobs/{archived(web, tmp_path, PICTURE)}/assets/0"


def get(web: WebClient, path: str, **headers: str) -> Any:
    return web.client.get(path, headers={**web.admin, **headers})


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=100-199", 100, 200),
        (f"bytes={SIZE - 10}-", SIZE - 10, SIZE),
        ("bytes=-10", SIZE - 10, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes=5-{SIZE * 2}", 5, SIZE),
        ("bytes=300000-600000", 300_000, 600_001),
    ],
)
def test_a_range_returns_the_requested_bytes(
    web: WebClient, path: str, asked: str, start: int, stop: int
) -> None:
    with get(web, path, Range=asked) as answer:
        assert (answer.status_code, answer.data) == (206, PICTURE[start:stop])
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        assert answer.headers["Content-Length"] == str(stop - start)
        assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'", (
            "a part has the same security headers"
        )


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE * 2}-{SIZE * 3}"])
def test_a_range_outside_the_file_is_416_with_the_size(
    web: WebClient, path: str, asked: str
) -> None:
    answer = get(web, path, Range=asked)
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,5-9",
        "lines=1-2",
        "bytes=9-5",
        "bytes=-0",
        "bytes=x-y",
        "bytes",
        "0-5",
        "bytes=--5",
    ],
)
def test_anything_but_a_single_byte_range_returns_the_whole_file(
    web: WebClient, path: str, asked: str
) -> None:
    with get(web, path, Range=asked) as answer:
        assert (answer.status_code, answer.data, answer.headers["Accept-Ranges"]) == (
            200,
            PICTURE,
            "bytes",
        )


@pytest.mark.parametrize(
    ("condition", "status"),
    [(f'"{DIGEST}"', 206), ('"another"', 200), ("Wed, 21 Oct 2026 07:28:00 GMT", 200)],
)
def test_if_range_must_match_the_file(
    web: WebClient, path: str, condition: str, status: int
) -> None:
    with get(web, path, Range="bytes=0-9", **{"If-Range": condition}) as answer:
        assert answer.status_code == status


def test_if_none_match_is_304_without_opening_the_file(web: WebClient, path: str) -> None:
    answer = get(web, path, **{"If-None-Match": f'"other", "{DIGEST}"'})
    assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", f'"{DIGEST}"')
    with get(web, path, **{"If-None-Match": '"other"'}) as answer:
        assert answer.status_code == 200


def test_an_interrupted_download_is_resumed_to_the_same_bytes(web: WebClient, path: str) -> None:
    with get(web, path) as first:
        held = first.data[:123_456]
    with get(web, path, Range=f"bytes={len(held)}-", **{"If-Range": f'"{DIGEST}"'}) as rest:
        assert hashlib.sha256(held + rest.data).hexdigest() == DIGEST


def test_a_head_request_has_the_size_of_a_range_and_no_body(web: WebClient, path: str) -> None:
    with web.client.head(path, headers={**web.admin, "Range": "bytes=0-9"}) as answer:
        assert (answer.status_code, answer.headers["Content-Length"], answer.data) == (
            206,
            "10",
            b"",
        )


def test_a_directory_has_no_links_and_says_what_to_do(web: WebClient, path: str) -> None:
    answer = get(web, f"{path}?link=1")
    assert (answer.status_code, "fetch the bytes" in answer.json["detail"]) == (409, True)
    assert get(web, f"{path}?link=yes").status_code == 400
    assert get(web, path.replace("/0", "/7") + "?link=1").status_code == 404


def test_a_bucket_has_links_that_expire(sqlite_url: str, bucket: str, tmp_path: Path) -> None:
    with web_client(
        tmp_path / "data", {"DATABASE_URL": sqlite_url, "ARCHIVE_URL": f"s3://{bucket}/prefix"}
    ) as web:
        path = f"/api/jobs/{archived(web, tmp_path, PICTURE)}/assets/0"
        with get(web, path, Range="bytes=300000-600000") as part:
            assert (part.status_code, part.data) == (206, PICTURE[300_000:600_001])
        answer = get(web, f"{path}?link=1")
        assert answer.status_code == 200
        left = datetime.fromisoformat(answer.json["expires_at"]).timestamp() - web.services.now()
        assert 880 < left <= 900
        assert requests.get(answer.json["url"], timeout=10).content == PICTURE
