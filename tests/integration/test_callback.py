"""The contract of the two callback endpoints, on a real ledger."""

import gc
import io
import json
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from flask.testing import FlaskClient
from gunicorn.http.body import Body, ChunkedReader, LengthReader  # type: ignore[import-untyped]  # the package has no types
from gunicorn.http.errors import (  # type: ignore[import-untyped]  # as above
    ChunkMissingTerminator,
    InvalidChunkSize,
    NoMoreData,
)
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]  # as above
from web_client import FAILED, RUNNING, SUCCEEDED, WebClient, web_client

from receiver.ledger import deliveries, group_commit, sqlite
from receiver.model import AssetState, JobState, new_ref

LIMIT = 2000
# As gunicorn passes on a chunked body: no length, and a stream that ends by itself.
IN_CHUNKS = {
    "CONTENT_LENGTH": "",
    "HTTP_TRANSFER_ENCODING": "chunked",
    "wsgi.input_terminated": True,
}
NOT_OURS = {"ok": False, "error": "no such callback"}


@pytest.fixture
def environ(sqlite_url: str) -> dict[str, str]:
    limit = str(LIMIT)
    return {"DATABASE_URL": sqlite_url, "GRSAI_API_KEY": "sk-test", "CALLBACK_MAX_BYTES": limit}


@pytest.fixture
def web(environ: dict[str, str], tmp_path: Path) -> Iterator[WebClient]:
    with web_client(tmp_path / "data", environ) as web:
        yield web


def rows(web: WebClient, table: str) -> int:
    with closing(sqlite3.connect(web.services.settings.ledger_path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own word


# Paths without a valid ticket.


WRONG_PATHS: dict[str, Callable[[str], str]] = {
    "double slash": lambda ticket: f"/callback//{ticket}",
    "two double slashes": lambda ticket: f"//callback//{ticket}",
    "a double slash in front": lambda ticket: f"//callback/{ticket}",
    "many slashes in front": lambda ticket: f"////callback/{ticket}",
    "an encoded slash in front": lambda ticket: f"/%2Fcallback/{ticket}",
    "another job's signature": lambda ticket: (
        f"/callback/{new_ref(1.0)}.{ticket.partition('.')[2]}"
    ),
    "trailing slash": lambda ticket: f"/callback/{ticket}/",
    "two trailing slashes": lambda ticket: f"/callback/{ticket}//",
    "one character encoded": lambda ticket: f"/callback/%{ord(ticket[0]):02X}{ticket[1:]}",
    "the dot encoded": lambda ticket: f"/callback/{ticket.replace('.', '%2E')}",
    "encoded twice": lambda ticket: f"/callback/{ticket.replace('.', '%252E')}",
    "an encoded slash behind": lambda ticket: f"/callback/{ticket}%2F",
    "an encoded newline behind": lambda ticket: f"/callback/{ticket}%0A",
    "a folder in front": lambda ticket: f"/callback/x/{ticket}",
    "a dot in front": lambda ticket: f"/callback/./{ticket}",
    "lower case": lambda ticket: f"/callback/{ticket.lower()}",
    "truncated": lambda ticket: f"/callback/{ticket[:-1]}",
    "only the ref": lambda ticket: f"/callback/{ticket.partition('.')[0]}",
    "a parameter": lambda ticket: f"/callback/{ticket};x=1",
    "not UTF-8": lambda ticket: f"/callback/{ticket}%FF",
    "an empty ticket": lambda _: "/callback//",
}


@pytest.mark.parametrize("wrong", WRONG_PATHS.values(), ids=WRONG_PATHS)
def test_a_path_without_a_valid_ticket_is_404_stores_nothing_and_is_counted(
    web: WebClient, wrong: Callable[[str], str]
) -> None:
    before, path = web.counted("forged"), wrong(web.ticket())
    # As a server passes it on; the test client would read "//callback" as a host name.
    answer = web.client.post("/", data=json.dumps(SUCCEEDED), environ_overrides=as_requested(path))
    assert (answer.status_code, answer.json, answer.headers.get("Location")) == (
        404,
        NOT_OURS,
        None,
    )
    assert (rows(web, "jobs"), rows(web, "deliveries"), rows(web, "hints")) == (0, 0, 0)
    assert web.counted("forged") == before + 1


def test_a_ticket_that_is_too_old_is_404_with_the_reason_and_stores_nothing(
    web: WebClient,
) -> None:
    lifetime = web.services.settings.ticket_lifetime
    old, young = (web.services.now() - lifetime + more for more in (-60, 60))
    before = web.counted("expired")
    answer = web.callback(web.services.tickets.sign(new_ref(old)), SUCCEEDED)
    assert answer.status_code == 404
    assert answer.json == {"ok": False, "error": "this ticket is older than TICKET_LIFETIME"}
    assert (rows(web, "jobs"), rows(web, "deliveries")) == (0, 0)
    assert web.counted("expired") == before + 1
    assert web.callback(web.services.tickets.sign(new_ref(young)), SUCCEEDED).status_code == 200


@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete"])
def test_only_post_is_allowed(web: WebClient, method: str) -> None:
    for path in ("/callback", "/callback/", f"/callback/{web.ticket()}"):
        answer = getattr(web.client, method)(path)
        assert answer.status_code == 405
        assert "POST" in answer.headers["Allow"]


def as_requested(path: str) -> dict[str, str]:
    """Return a path as WSGI servers pass it on: raw, and decoded to bytes read as Latin-1."""
    return {"RAW_URI": path, "PATH_INFO": unquote_to_bytes(path).decode("latin-1")}


# Bodies that cannot be accepted.


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b"<html>", b"{}", b'{"id":NaN}', b"[" * LIMIT]
)
def test_an_unreadable_body_is_stored(web: WebClient, body: bytes) -> None:
    answer = web.callback(ticket := web.ticket(), body)
    ref = ticket.partition(".")[0]
    assert (answer.status_code, answer.json["ok"], answer.json["ref"]) == (400, False, ref)
    (kept,) = web.services.queries.deliveries(ref)
    assert (kept.body, kept.verdict, kept.source) == (body, "unreadable", "callback")


def send_with_length(client: FlaskClient, path: str, body: bytes) -> Any:
    return client.post(path, data=body)


def send_in_chunks(client: FlaskClient, path: str, body: bytes) -> Any:
    return client.post(path, input_stream=io.BytesIO(body), environ_overrides=IN_CHUNKS)


@pytest.mark.parametrize("send", [send_with_length, send_in_chunks])
@pytest.mark.parametrize("endpoint", ["/callback", "/callback/{ticket}"])
def test_the_size_of_a_body_is_limited(
    web: WebClient, send: Callable[..., Any], endpoint: str
) -> None:
    path = endpoint.format(ticket=web.ticket())
    body = json.dumps(RUNNING).encode()
    before = web.counted("too_large")
    answer = send(web.client, path, body.ljust(LIMIT + 1))
    assert (answer.status_code, answer.json["ok"]) == (413, False)
    assert str(LIMIT) in answer.json["error"]
    assert (rows(web, "deliveries"), rows(web, "hints"), web.counted("too_large")) == (
        0,
        0,
        before + 1,
    )
    assert send(web.client, path, body.ljust(LIMIT)).status_code in {200, 202}


def test_a_body_that_is_cut_short_is_stored_and_not_read_as_a_report(
    web: WebClient,
) -> None:
    body, ticket = json.dumps(SUCCEEDED).encode(), web.ticket()
    for there in (body, b""):
        answer = web.callback(
            ticket, there, environ_overrides={"CONTENT_LENGTH": str(len(body) + 1)}
        )
        assert (answer.status_code, answer.json["ok"]) == (400, False)
    (kept,) = web.services.queries.deliveries(ticket.partition(".")[0])
    assert (kept.body, kept.verdict) == (body, "unreadable")
    assert rows(web, "assets") == 0


@pytest.mark.parametrize(
    "breaks",
    [
        InvalidChunkSize(b"never"),
        ChunkMissingTerminator(b""),
        NoMoreData(),
        ConnectionResetError(),
        BlockingIOError(),
    ],
)
def test_a_body_that_breaks_http_is_400_and_stored(web: WebClient, breaks: Exception) -> None:
    class Breaking(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if count := super().readinto(buffer):
                return count
            raise breaks

    ticket = web.ticket()
    answer = web.client.post(
        f"/callback/{ticket}", input_stream=Breaking(b'{"id":'), environ_overrides=IN_CHUNKS
    )
    assert (answer.status_code, answer.json) == (
        400,
        {"ok": False, "error": "the body was cut short"},
    )
    (kept,) = web.services.queries.deliveries(ticket.partition(".")[0])
    assert (kept.body, kept.verdict) == (b'{"id":', "unreadable")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_bytes_that_gunicorn_holds_back_of_a_silent_sender_are_stored(
    web: WebClient, *, chunked: bool
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000)
        )  # as gunicorn_conf does, but shorter
        theirs.sendall(b'6\r\n{"id":\r\n5\r\n' if chunked else b'{"id":')
        unreader = SocketUnreader(ours)
        reader = ChunkedReader(None, unreader) if chunked else LengthReader(unreader, 100)
        how = IN_CHUNKS if chunked else {"CONTENT_LENGTH": "100"}
        ticket = web.ticket()
        environ = {**how, "wsgi.input": Body(reader), "gunicorn.socket": ours}
        answer = web.client.post(f"/callback/{ticket}", environ_overrides=environ)
    assert (answer.status_code, answer.json["error"]) == (400, "the body was cut short")
    (kept,) = web.services.queries.deliveries(ticket.partition(".")[0])
    assert (kept.body, kept.verdict) == (b'{"id":', "unreadable")


# A ledger that cannot store anything.


def replace_by_a_directory(web: WebClient) -> Callable[[], None]:
    path = web.services.settings.ledger_path
    web.services.database.close()
    path.rename(path.with_name("away"))
    path.mkdir()

    def mend() -> None:
        path.rmdir()
        path.with_name("away").rename(path)

    return mend


def lock(web: WebClient) -> Callable[[], None]:
    connection = sqlite3.connect(web.services.settings.ledger_path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE").close()
    return connection.close


def lose_a_table(web: WebClient) -> Callable[[], None]:
    def rename(before: str, after: str) -> None:
        with closing(sqlite3.connect(web.services.settings.ledger_path)) as connection:
            connection.execute(f"ALTER TABLE {before} RENAME TO {after}").close()

    rename("jobs", "gone")
    return lambda: rename("gone", "jobs")


@pytest.mark.parametrize("break_ledger", [replace_by_a_directory, lock, lose_a_table])
def test_a_callback_that_cannot_be_stored_is_503_with_retry_after(
    break_ledger: Callable[[WebClient], Callable[[], None]],
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (group_commit, sqlite):
        monkeypatch.setattr(module, "WRITE_TIMEOUT", 0.2)
    with web_client(tmp_path / "data", environ) as web:
        ticket = web.ticket()
        mend = break_ledger(web)
        try:
            for path in (f"/callback/{ticket}", "/callback"):
                before = web.counted("unavailable")
                answer = web.client.post(path, data=json.dumps(SUCCEEDED))
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
                assert answer.json == {"ok": False, "error": "this callback cannot be stored now"}
                assert web.counted("unavailable") == before + 1
        finally:
            mend()
        assert web.callback(ticket, SUCCEEDED).status_code == 200
        assert web.verdicts(ticket.partition(".")[0]) == ["ended"]
    # Tracebacks of the failed statements keep SQLite's connection open until they are collected.
    gc.collect()


# What is accepted.


def test_every_callback_is_stored_before_200_and_late_or_duplicate_ones_get_the_same_response(
    web: WebClient,
) -> None:
    ticket = web.ticket()
    ref = ticket.partition(".")[0]
    for number, body in enumerate(
        [RUNNING, SUCCEEDED, SUCCEEDED, RUNNING, FAILED, {**SUCCEEDED, "id": "another"}], start=1
    ):
        answer = web.callback(ticket, body)
        assert (answer.status_code, answer.json, answer.content_type) == (
            200,
            {"ok": True, "ref": ref},
            "application/json",
        )
        assert rows(web, "deliveries") == number
    assert web.verdicts(ref) == [
        "progress",
        "ended",
        "duplicate",
        "late",
        "contradiction",
        "other_id",
    ]
    job = web.services.queries.job(ref)
    assert job is not None
    assert (job.state, job.provider_id) == (JobState.ARCHIVING, "task-1")
    (asset,) = web.services.queries.assets([ref])[ref]
    assert (asset.state, asset.url) == (AssetState.PENDING, "https://pictures.example/0.png")


@pytest.mark.parametrize(
    "options",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": ""},
        {"query_string": "signature=%2Fabc"},
        {"headers": {"Host": "no host/%"}},
        {"headers": {"X-Forwarded-Proto": "http", "Origin": "https://elsewhere"}},
    ],
)
def test_only_the_ticket_and_the_body_count(web: WebClient, options: dict[str, Any]) -> None:
    answer = web.callback(web.ticket(), RUNNING, **options)
    assert (answer.status_code, answer.json["ok"]) == (200, True)


def test_a_body_may_come_in_chunks(web: WebClient) -> None:
    ticket = web.ticket()
    assert (
        send_in_chunks(web.client, f"/callback/{ticket}", json.dumps(RUNNING).encode()).status_code
        == 200
    )
    assert web.verdicts(ticket.partition(".")[0]) == ["progress"]


def test_the_stored_deliveries_of_a_job_are_limited_and_the_job_goes_on(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_KEPT", 3)
    ticket = web.ticket()
    ref = ticket.partition(".")[0]
    answers = [
        web.callback(ticket, body).status_code
        for body in [RUNNING] * 4 + [b"{", SUCCEEDED, SUCCEEDED, RUNNING, FAILED, b"["]
    ]
    assert answers == [200] * 4 + [400] + [200] * 4 + [400]
    assert web.verdicts(ref) == ["progress"] * 3 + ["ended"], (
        "the report that decides the job is always stored"
    )
    job = web.services.queries.job(ref)
    assert job is not None
    assert job.state is JobState.ARCHIVING


def test_the_stored_bytes_of_a_jobs_deliveries_are_limited(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_BYTES", 2 * LIMIT)
    ticket = web.ticket()
    for _ in range(3):
        assert web.callback(ticket, b"{".ljust(LIMIT)).status_code == 400
    assert len(web.verdicts(ticket.partition(".")[0])) == 2


def test_with_confirm_always_a_callback_is_stored_and_only_causes_a_poll(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with web_client(tmp_path / "data", {**environ, "CONFIRM": "always"}) as web:
        ticket = web.ticket()
        ref = ticket.partition(".")[0]
        assert web.callback(ticket, SUCCEEDED).status_code == 200
        job = web.services.queries.job(ref)
        assert job is not None
        assert (web.verdicts(ref), job.state, job.outcome, job.provider_id) == (
            ["unconfirmed"],
            JobState.WAITING,
            None,
            "task-1",
        )
        assert web.services.queries.assets([ref]) == {ref: []}
        due = job.due_at
        assert due is not None
        assert due <= web.services.now(), "the poll is due at once"
