"""Usual callbacks in the main loop of a worker: the same decisions and answers as through Flask."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from waiting import until
from web_client import FAILED, RUNNING, SUCCEEDED, WebClient, web_client
from web_worker import received, web_worker

from receiver.ingest.tickets import CANARY
from receiver.ledger import group_commit
from receiver.model import Provider, new_ref
from receiver.server.gunicorn_worker import DrainingWorker
from receiver.web import callback

SETTINGS = {"CALLBACK_MAX_BYTES": "2000", "CALLBACK_SECRETS": "s" * 32}


@dataclass
class Served:
    """An application that a real worker serves, beside Flask's test client for the same one."""

    web: WebClient
    worker: DrainingWorker
    address: tuple[str, int]
    clients: ExitStack

    def connect(self, data: bytes) -> socket.socket:
        connection = self.clients.enter_context(socket.create_connection(self.address, 30))
        connection.sendall(data)
        return connection

    def send(self, path: str, body: bytes, *headers: str) -> tuple[int, dict[str, str], Any]:
        """Post a body; return the status, the headers in lower case, and the JSON."""
        answer = received(self.connect(post(path, body, *headers)))
        head, _, content = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        names = (line.partition(": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in names}, \
            json.loads(content)  # fmt: skip


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def served(tmp_path: Path, ledger_url: str) -> Iterator[Served]:
    settings = {**SETTINGS, "ADMIN_TOKEN": "t" * 20, "ARCHIVE_URL": (tmp_path / "a").as_uri()}
    settings["DATABASE_URL"] = ledger_url.replace("+psycopg", "")
    with web_client(tmp_path / "data", settings) as web:
        app = web.client.application
        with web_worker(app, threads=2, keepalive=15) as (worker, address), ExitStack() as clients:
            worker.handle_in_main_loop(callback.is_usual)
            yield Served(web, worker, address, clients)


def as_json(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


OTHER_ID = {**SUCCEEDED, "id": "task-2"}
SEQUENCES: dict[str, list[object]] = {
    "success, again, and a failure": [SUCCEEDED, SUCCEEDED, FAILED],
    "progress, then a failure": [RUNNING, FAILED, RUNNING],
    "another id": [RUNNING, OTHER_ID, SUCCEEDED],
    "nothing in it": [b"", b"{}", b"null"],
    "not JSON": [b"\xff\x00", b"<html>", b"[" * 500],
    "success without pictures": [{**SUCCEEDED, "results": []}],
    "too large": [b"x" * 2001, b"x" * 2000],
}


@pytest.mark.parametrize("bodies", SEQUENCES.values(), ids=list(SEQUENCES))
def test_the_main_loop_answers_and_stores_what_flask_would(
    served: Served, bodies: list[object]
) -> None:
    tickets = [served.web.ticket() for _ in range(2)]
    refs = [one.partition(".")[0] for one in tickets]
    # An id belongs to one job.
    for body in map(as_json, bodies):
        other = body.replace(b"task-", b"other-")
        status, headers, content = served.send(f"/callback/{tickets[0]}", body)
        expected = served.web.callback(tickets[1], other)
        assert status == expected.status_code
        assert content == {**expected.json, **({"ref": refs[0]} if "ref" in content else {})}
        for name in ("Content-Type", "Content-Length"):
            assert headers[name.lower()] == expected.headers[name]
        assert len(headers["x-request-id"]) == 16
    found = [served.web.services.queries.job(one) for one in refs]
    assert served.web.verdicts(refs[0]) == served.web.verdicts(refs[1])
    assert len({(one.state, one.outcome, one.reason) if one else None for one in found}) == 1


def fresh_ref() -> str:
    return new_ref(time.time())


OTHERS: dict[str, Callable[[WebClient], str]] = {
    "forged": lambda web: f"{new_ref(1.0)}.{web.ticket().partition('.')[2]}",
    "the canary": lambda web: web.services.tickets.sign(CANARY),
    "another provider": lambda web: web.services.tickets.issue(fresh_ref(), Provider.FAL)[0],
    "with a query": lambda web: f"{web.ticket()}?x=1",
    "encoded": lambda web: web.ticket().replace(".", "%2E"),
}


@pytest.mark.parametrize("path_of", OTHERS.values(), ids=list(OTHERS))
def test_what_is_unusual_is_left_to_flask(
    served: Served, path_of: Callable[[WebClient], str]
) -> None:
    path = f"/callback/{path_of(served.web)}"
    status, _, content = served.send(path, as_json(RUNNING))
    expected = served.web.client.post(path, data=as_json(RUNNING))
    assert (status, content.keys()) == (expected.status_code, expected.json.keys())


def test_a_bug_of_ours_is_answered_as_by_flask(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    path = f"/callback/{served.web.ticket()}"
    with monkeypatch.context() as patch:
        patch.setattr(type(served.web.services.tickets), "read", fail)
        status, headers, content = served.send(path, as_json(RUNNING))
    assert (status, headers["retry-after"], content["ok"]) == (503, "5", False)
    assert served.send(path, as_json(RUNNING))[0] == 200


@pytest.mark.parametrize("is_usual", [True, False])
def test_a_report_that_asks_for_a_websocket_is_stored_all_the_same(
    served: Served, monkeypatch: pytest.MonkeyPatch, *, is_usual: bool
) -> None:
    if not is_usual:
        monkeypatch.setattr(served.worker, "_is_for_main_loop", lambda _: False)
    headers = ("Connection: Upgrade", "Upgrade: websocket")
    ticket = served.web.ticket()
    status, _, content = served.send(f"/callback/{ticket}", as_json(SUCCEEDED), *headers)
    assert (status, content["ok"]) == (200, True)


def cannot_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_new_threads_a_callback_is_answered_503_and_the_worker_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/callback/{served.web.ticket()}"
    unusual = f"/callback/{served.web.services.tickets.sign(CANARY)}"
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        patched.setattr(group_commit, "WRITE_TIMEOUT", 0.2)
        for refused in (path, unusual, unusual):
            status, headers, content = served.send(refused, as_json(SUCCEEDED))
            assert (status, headers["retry-after"], content["ok"]) == (503, "5", False)
    for accepted in (unusual, path):
        status, _, content = served.send(accepted, as_json(SUCCEEDED))
        assert (status, content["ok"]) == (200, True)
    assert served.web.verdicts(path.rpartition("/")[2].partition(".")[0]) == ["ended"]


def test_a_given_request_id_is_repeated(served: Served) -> None:
    path = f"/callback/{served.web.ticket()}"
    _, headers, _ = served.send(path, as_json(RUNNING), "X-Request-Id: abc-123.def")
    assert headers["x-request-id"] == "abc-123.def"


def test_a_chunked_body_and_many_requests_at_once_on_one_connection(served: Served) -> None:
    path = f"/callback/{served.web.ticket()}"
    body = as_json(RUNNING)
    chunked = post(path, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunked += f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    many = 300
    connection = served.connect(chunked + post(path, body) * many)
    answers = [received(connection) for _ in range(1 + many)]
    assert {one.split(b"\r\n")[0] for one in answers} == {b"HTTP/1.1 200 OK"}


def test_while_the_ledger_is_locked_others_are_served_and_the_callback_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        web = stack.enter_context(web_client(tmp_path / "data", SETTINGS))
        worker, address = stack.enter_context(web_worker(web.client.application, threads=2))
        worker.handle_in_main_loop(callback.is_usual)
        served = Served(web, worker, address, stack)
        ticket = web.ticket()
        assert served.send(f"/callback/{ticket}", as_json(RUNNING))[0] == 200
        ledger = stack.enter_context(
            closing(sqlite3.connect(web.services.settings.ledger_path, isolation_level=None))
        )
        ledger.execute("BEGIN IMMEDIATE").close()
        waiting = served.connect(post(f"/callback/{ticket}", as_json(SUCCEEDED)))
        until(lambda: worker._greenlets.are_waiting, what="the callback to be suspended")
        assert b'"ok":true' in received(served.connect(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
        ledger.execute("ROLLBACK").close()
        assert received(waiting).startswith(b"HTTP/1.1 200 OK")
        monkeypatch.setattr(group_commit, "WRITE_TIMEOUT", 0.1)
        ledger.execute("BEGIN IMMEDIATE").close()
        status, headers, _ = served.send(f"/callback/{ticket}", as_json(RUNNING))
        assert (status, headers["retry-after"]) == (503, "5")
        ledger.execute("ROLLBACK").close()


def test_a_client_that_reads_no_answers_does_not_stop_the_main_loop(served: Served) -> None:
    forged = f"/callback/{new_ref(1.0)}.{'A' * 43}"
    served.worker.sockets[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    connection = served.clients.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.connect(served.address)
    connection.sendall(post(forged, b"") * 300)
    busy = served.worker._timeouts._deadlines
    until(lambda: busy, what="a thread to wait for the client, who reads no answer")
    assert served.send(f"/callback/{served.web.ticket()}", as_json(RUNNING))[0] == 200


def test_transactions_that_wait_for_a_lock_leave_the_threads_of_requests_free(
    tmp_path: Path, postgres_url: str
) -> None:
    settings = {**SETTINGS, "DATABASE_URL": postgres_url.replace("+psycopg", "")}
    settings |= {"ADMIN_TOKEN": "t" * 20, "ARCHIVE_URL": (tmp_path / "a").as_uri()}
    with ExitStack() as stack:
        web = stack.enter_context(web_client(tmp_path / "data", settings))
        worker, address = stack.enter_context(web_worker(web.client.application, threads=2))
        worker.handle_in_main_loop(callback.is_usual)
        served = Served(web, worker, address, stack)
        engine = create_engine(postgres_url)
        stack.callback(engine.dispose)
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE deliveries IN SHARE MODE"))
            # Their jobs are unknown, so each gets a transaction of its own.
            waiting = [
                served.connect(post(f"/callback/{web.ticket()}", as_json(RUNNING)))
                for _ in range(3)
            ]
            until(lambda: _locked_out(connection) >= 2, what="transactions to wait for the lock")
            healthz = served.connect(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            healthz.settimeout(5)
            assert b'"ok":true' in received(healthz)
        for connection_ in waiting:
            assert received(connection_).startswith(b"HTTP/1.1 200 OK")


def _locked_out(connection: Connection) -> int:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    return int(connection.execute(text(query)).scalar_one())
