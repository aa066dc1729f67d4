"""Request ids: every log line can be matched with the request that caused it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs
from web_client import RUNNING, WebClient, web_client


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[WebClient]:
    with web_client(tmp_path / "data", {"DATABASE_URL": sqlite_url}) as web:
        yield web


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/callback/forged", "/api/jobs", "/nowhere"]
)
def test_every_response_has_its_own_request_id(web: WebClient, path: str) -> None:
    ids = {web.client.get(path).headers["X-Request-Id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in ids)


def test_a_proxys_request_id_is_kept(web: WebClient) -> None:
    assert (
        web.client.get("/healthz", headers={"X-Request-Id": "proxy-4711.a"}).headers["X-Request-Id"]
        == "proxy-4711.a"
    )


@pytest.mark.parametrize("odd_id", ["short", "x" * 65, "two words", "fox\x1b[31m-red", "фокс-фокс"])
def test_an_odd_request_id_is_replaced(web: WebClient, odd_id: str) -> None:
    given = web.client.get("/healthz", headers={"X-Request-Id": odd_id.encode().decode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{16}", given.headers["X-Request-Id"])


def test_only_the_log_lines_of_a_request_have_its_id(web: WebClient) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        answer = web.callback(web.ticket(), RUNNING, headers={"X-Request-Id": "proxy-4711"})
    (line,) = [line for line in lines if line["event"] == "callback accepted"]
    assert line["request"] == "proxy-4711"
    assert line["ref"] == answer.json["ref"]
    assert "request" not in get_contextvars()
