"""Hostile requests to the real server: a 4xx, bounded work, and the next callback is taken."""

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import Running, free_port, running
from waiting import until

from receiver.model import new_ref
from receiver.services import Services
from receiver.settings import Settings

GUNICORN = ("gunicorn", "-c", "python:receiver.gunicorn_conf", "receiver.web:create_app()")
LIMIT = 100_000
GOOD = b'{"id":"task-1","status":"running","progress":5}'


@dataclass
class WebServer:
    """The real web processes on a port of their own."""

    service: Running
    services: Services
    port: int

    def ticket(self) -> str:
        return self.services.tickets.sign(new_ref(time.time()))

    def send(self, *pieces: bytes, shut: bool = False) -> bytes:
        """Send these bytes over one connection and return all that is answered."""
        answer = b""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=15)) as connection:
            with suppress(OSError):  # refused before all was sent
                for piece in pieces:
                    connection.sendall(piece)
                if shut:
                    connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    answer += piece
        return answer

    def post(self, path: str, body: bytes, *head: str, shut: bool = False) -> int:
        """Post a body and return the status of the answer."""
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: x",
            "Connection: close",
            *(head or (f"Content-Length: {len(body)}",)),
            "",
            "",
        ]
        return status(self.send("\r\n".join(lines).encode("latin-1") + body, shut=shut))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


@pytest.fixture(scope="module")
def web_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    folder, port = tmp_path_factory.mktemp("hostile"), free_port()
    environ = {
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "GRSAI_API_KEY": "sk-test",
        "CALLBACK_MAX_BYTES": str(LIMIT),
    }
    before = os.umask(0o022)  # as most people have it
    try:
        with (
            running(GUNICORN, environ, folder) as service,
            closing(Services(Settings.load(environ))) as services,
        ):
            found = WebServer(service, services, port)
            until(lambda: is_up(found), what="the web side")
            yield found
            assert found.post(f"/callback/{found.ticket()}", GOOD) == 200, (
                "after all that it goes on"
            )
            assert "Traceback" not in service.output()
    finally:
        os.umask(before)


def is_up(web_server: WebServer) -> bool:
    with suppress(OSError):
        return status(web_server.send(b"GET /healthz HTTP/1.0\r\n\r\n")) == 200
    return False


def head(*lines: str) -> Callable[[str], bytes]:
    return lambda ticket: "\r\n".join(
        [f"POST /callback/{ticket} HTTP/1.1", "Host: x", *lines, "", ""]
    ).encode("latin-1")


CHUNKED = head("Transfer-Encoding: chunked")
MALFORMED: dict[str, Callable[[str], bytes]] = {
    "a length of 10^30": lambda ticket: head(f"Content-Length: {10**30}")(ticket) + GOOD,
    "a length of 10^5000": lambda ticket: head(f"Content-Length: 1{'0' * 5000}")(ticket) + GOOD,
    "a negative length": lambda ticket: head("Content-Length: -1")(ticket) + GOOD,
    "a length in words": lambda ticket: head("Content-Length: many")(ticket) + GOOD,
    "a length in Arabic digits": lambda ticket: head("Content-Length: \xd9\xa4")(ticket) + GOOD,
    "two lengths": lambda ticket: head("Content-Length: 5", "Content-Length: 6")(ticket) + GOOD,
    "length and chunks": lambda ticket: (
        head("Content-Length: 5", "Transfer-Encoding: chunked")(ticket) + b"0\r\n\r\n"
    ),
    "an unknown encoding": lambda ticket: head("Transfer-Encoding: gzip")(ticket) + GOOD,
    "chunks in gzip": lambda ticket: (
        head("Transfer-Encoding: gzip, chunked")(ticket) + b"0\r\n\r\n"
    ),
    "a chunk without a size": lambda ticket: CHUNKED(ticket) + b"never\r\n",
    "a chunk of minus one": lambda ticket: CHUNKED(ticket) + b"-1\r\n",
    "a chunk of 2^80": lambda ticket: (
        CHUNKED(ticket) + b"1" + b"0" * 20 + b"\r\n" + bytes(2 * LIMIT)
    ),
    "a chunk that is longer than it says": lambda ticket: (
        CHUNKED(ticket) + b"2\r\n{}{}\r\n0\r\n\r\n"
    ),
    "a chunk with an endless extension": lambda ticket: CHUNKED(ticket) + b"1;" + b"x" * 100_000,
    "endless trailers": lambda ticket: (
        CHUNKED(ticket) + b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 100_000
    ),
    "too many chunks": lambda ticket: CHUNKED(ticket) + b"1\r\nx\r\n" * (LIMIT + 10),
    "an endless header": head("X: " + "x" * 100_000),
    "ten thousand headers": head(*[f"X-{number}: 1" for number in range(10_000)]),
    "a header without a name": head(": x"),
    "a folded header": head("X: 1", " 2"),
    "an endless path": lambda ticket: (
        f"POST /callback/{ticket}{'x' * 100_000} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    ),
    "no version": lambda ticket: f"POST /callback/{ticket}\r\n\r\n".encode(),
    "another version": lambda ticket: (
        f"POST /callback/{ticket} HTTP/9.9\r\nHost: x\r\n\r\n".encode()
    ),
    "HTTP/2 without asking": lambda _ticket: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown expectation": head("Expect: a miracle", "Content-Length: 2"),
    "TLS": lambda _ticket: (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n"
    ),
    "noise": lambda _ticket: bytes(range(1, 255)) * 40 + b"\r\n\r\n",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_breaks_the_rules_of_http_is_a_4xx_and_never_a_report(
    web_server: WebServer, kind: str
) -> None:
    ticket = web_server.ticket()
    answered = status(web_server.send(MALFORMED[kind](ticket), shut=True))
    # None if the server closed while data was still coming: the kernel drops the answer too.
    assert answered == 0 or 400 <= answered < 500, f"{kind}: {answered}"
    kept = web_server.services.queries.deliveries(ticket.partition(".")[0])
    assert [row.verdict for row in kept] in ([], ["unreadable"])
    assert "/callback/" not in web_server.service.output(), "a path may hold a ticket"


BODIES: dict[str, tuple[bytes, set[int]]] = {
    "brackets": (b"[" * LIMIT, {400}),
    "objects within objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, {400}),
    "deep in a field that is not read": (
        b'{"id":"x","status":"running","extra":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        {400},
    ),
    "NaN": (b'{"id":"x","status":"running","progress":NaN}', {200}),
    "infinity": (b'{"id":"x","status":"running","progress":-Infinity}', {200}),
    "a float out of range": (b'{"id":"x","status":"running","progress":1e999}', {200, 400}),
    "a number of 90,000 digits": (
        b'{"id":"x","status":"running","progress":' + b"9" * 90_000 + b"}",
        {200, 400},
    ),
    "an id of 90,000 digits": (b'{"status":"running","id":' + b"9" * 90_000 + b"}", {200, 400}),
    "an id of 90,000 letters": (b'{"status":"running","id":"' + b"x" * 90_000 + b'"}', {200}),
    "a URL of 90,000 letters": (
        b'{"id":"u","status":"succeeded","results":[{"url":"https://x.example/'
        + b"x" * 90_000
        + b'"}]}',
        {200},
    ),
    "ten thousand results": (
        b'{"id":"r","status":"succeeded","results":[' + b",".join([b"{}"] * 10_000) + b"]}",
        {200},
    ),
    "the same key many times": (
        b'{"id":"d",' + b'"status":"running",' * 5_000 + b'"status":"failed"}',
        {200},
    ),
    "invalid UTF-8": (b'{"id":"\xff\xfe","status":"running"}', {400}),
    "half a surrogate": (b'{"id":"\\ud800","status":"running"}', {400}),
    "NUL in every text": (
        b'{"id":"n\\u0000n","status":"failed","error":"\\u0000","failure_reason":"\\u0000"}',
        {200},
    ),
    "UTF-16": ('{"id":"x","status":"running"}'.encode("utf-16"), {200}),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, {200, 400}),
    "nothing": (b"", {400}),
    "one byte too many": (GOOD.ljust(LIMIT + 1), {413}),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_no_body_makes_the_server_fail(web_server: WebServer, kind: str, *, chunked: bool) -> None:
    body, expected = BODIES[kind]
    path = f"/callback/{web_server.ticket()}"
    if chunked:
        pieces = b"".join(
            b"%x\r\n%s\r\n" % (len(body[at : at + 7000]), body[at : at + 7000])
            for at in range(0, len(body), 7000)
        )
        answered = web_server.post(path, pieces + b"0\r\n\r\n", "Transfer-Encoding: chunked")
    else:
        answered = web_server.post(path, body)
    assert answered in expected


def test_too_large_a_body_is_refused_before_it_is_sent(web_server: WebServer) -> None:
    lines = [
        f"POST /callback/{web_server.ticket()} HTTP/1.1",
        "Host: x",
        f"Content-Length: {LIMIT + 1}",
        "Connection: close",
        "",
        "",
    ]
    assert status(web_server.send("\r\n".join(lines).encode())) == 413


def test_a_forged_ticket_is_refused_before_its_body_is_sent(web_server: WebServer) -> None:
    lines = [
        "POST /callback/forged HTTP/1.1",
        "Host: x",
        f"Content-Length: {LIMIT}",
        "Connection: close",
        "",
        "",
    ]
    assert status(web_server.send("\r\n".join(lines).encode())) == 404


def test_what_came_of_a_body_that_broke_off_is_kept_as_evidence(web_server: WebServer) -> None:
    ticket = web_server.ticket()
    assert (
        web_server.post(f"/callback/{ticket}", GOOD, f"Content-Length: {len(GOOD) + 5}", shut=True)
        == 400
    )
    (kept,) = web_server.services.queries.deliveries(ticket.partition(".")[0])
    assert (kept.body, kept.verdict) == (GOOD, "unreadable")


def test_a_body_that_begins_a_second_request_is_not_taken_for_one(web_server: WebServer) -> None:
    first = f"POST /callback/{web_server.ticket()} HTTP/1.1\r\nHost: x\r\nContent-Length: 2"
    smuggled = f"{first}\r\n\r\n{{}}".encode()
    answer = web_server.send(
        head(f"Content-Length: {len(smuggled)}", "Connection: close")(ticket := web_server.ticket())
        + smuggled
    )
    assert answer.count(b"HTTP/1.1 ") == 1
    (kept,) = web_server.services.queries.deliveries(ticket.partition(".")[0])
    assert kept.body == smuggled


def test_what_the_service_writes_is_its_owners_alone(web_server: WebServer) -> None:
    assert status(web_server.send(b"GET /healthz HTTP/1.0\r\n\r\n")) == 200
    data = web_server.services.settings.data_dir
    readable = [str(path) for path in (data, *data.rglob("*")) if readable_by_others(path)]
    assert readable == []


def readable_by_others(path: Path) -> bool:
    return bool(stat.S_IMODE(path.lstat().st_mode) & 0o077) and "archive" not in path.parts
