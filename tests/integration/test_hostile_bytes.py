"""Files that are also programs: archived unchanged, and never returned as active content."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_pictures import IEND, WHOLE, chunk, png
from outside_network import ScriptedServer, answer
from web_client import SUCCEEDED, WebClient, web_client

from receiver.model import AssetState

POLYGLOTS = {
    "a gif that is also javascript": b"GIF89a"
    + struct.pack("<HHBBB", 0x2A2F, 1, 0, 0, 0)
    + b"!\xfe\x0a*/=1;x=1//\0"
    + b"\x2c"
    + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    + b"\2\2\x44\1\0;",
    "a png with html in a comment": png(
        chunk(b"tEXt", b"x\0<script>alert(1)</script>"), chunk(b"IDAT", b"x"), IEND
    ),
    "a png with a page behind it": WHOLE["png"][0] + b"<!DOCTYPE html><script>alert(1)</script>",
    "a jpeg with a zip behind it": WHOLE["jpeg"][0] + b"PK\x03\x04",
}
RUNNING_BYTES = {
    "html": b"<!DOCTYPE html><script>alert(1)</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "html before a picture": b"<script>alert(1)</script>" + WHOLE["png"][0],
    "a page in a web archive": b"MIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n<script>",
    "javascript": b"alert(1)",
}


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[WebClient]:
    with web_client(
        tmp_path / "data", {"DATABASE_URL": sqlite_url, "FETCH_ALLOW": "127.0.0.0/8"}
    ) as web:
        yield web


def reported_and_archived(
    web: WebClient, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """Report a result that its server calls text/html, and try to archive it; return the ref."""
    server = ScriptedServer((answer("Content-Type: text/html", body=content),))
    try:
        ticket = web.ticket()
        place = f"127.0.0.1:{server.port}"
        monkeypatch.setitem(web.services.settings.__dict__, "fetch_allow", (place,))
        web.callback(ticket, {**SUCCEEDED, "results": [{"url": f"http://{place}/x.html"}]})
        (claimed,) = web.services.assets.claim(1)
        web.services.archiver(tmp_path).archive(claimed)
    finally:
        server.close()
    return ticket.partition(".")[0]


@pytest.mark.parametrize("kind", POLYGLOTS)
def test_a_picture_that_is_also_a_program_is_archived_unchanged_and_returned_as_a_download(
    web: WebClient, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ref = reported_and_archived(web, POLYGLOTS[kind], monkeypatch, tmp_path)
    with web.client.get(f"/api/jobs/{ref}/assets/0", headers=web.admin) as answer:
        assert (answer.status_code, answer.data) == (200, POLYGLOTS[kind])
    assert answer.content_type in {"image/gif", "image/png", "image/jpeg"}, (
        "by its bytes, not by its server's Content-Type"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize("kind", RUNNING_BYTES)
def test_bytes_that_are_no_picture_are_not_archived(
    web: WebClient, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ref = reported_and_archived(web, RUNNING_BYTES[kind], monkeypatch, tmp_path)
    (asset,) = web.services.queries.assets([ref])[ref]
    assert (asset.state, asset.key) == (AssetState.PENDING, None)
    assert "not a picture" in asset.error
    assert web.client.get(f"/api/jobs/{ref}/assets/0", headers=web.admin).status_code == 404
    assert not list((web.services.settings.data_dir / "archive").rglob("0.*"))
