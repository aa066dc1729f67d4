"""What our worker adds to gunicorn's: no client holds a thread without having sent a request."""

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # the package has no types
from waiting import until
from web_worker import received, web_worker

from receiver.server import arrivals, gunicorn_worker
from receiver.server.arrivals import MAX_FIRST_LINE
from receiver.server.gunicorn_worker import DrainingWorker

THREADS, CONNECTIONS = 4, 40
HEAD = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
EARLY = HEAD.replace(b"read", b"early")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass
class Site:
    """A worker that runs in a thread of this process, with an application of its own."""

    worker: DrainingWorker = field(init=False)
    address: tuple[str, int] = field(init=False)
    clients: ExitStack = field(default_factory=ExitStack)
    bodies: list[bytes] = field(default_factory=list)

    def app(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Read the body at /read, and only there."""
        body = b"ok"
        if environ["PATH_INFO"] == "/read":
            with suppress(OSError):
                body = environ["wsgi.input"].read()
            self.bodies.append(body)
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = self.clients.enter_context(socket.create_connection(self.address, 30))
        connection.sendall(data)
        return connection

    def answer(self, data: bytes) -> bytes:
        """Send these bytes over a new connection, and return its answer."""
        return received(self.connect(data))


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Start a worker with a few threads; the parameter changes gunicorn's settings."""
    site = Site()
    options = {"threads": THREADS, "worker_connections": CONNECTIONS, "keepalive": 15}
    options["limit_request_line"] = MAX_FIRST_LINE - 2
    with web_worker(site.app, **{**options, **getattr(request, "param", {})}) as started:
        site.worker, site.address = started
        with site.clients:
            yield site


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", HEAD[:-2], HEAD, HEAD + b"{}", EARLY, EARLY + b"{}", LAST],
    ids=["nothing", "a byte", "half a head", "a head", "half a body", "an answered head",
         "an answered half body", "no close"],
)  # fmt: skip
def test_clients_that_do_not_go_on_delay_no_other(site: Site, sent: bytes) -> None:
    held = [site.connect(sent) for _ in range(5 * THREADS)]
    for _ in range(3):
        assert site.answer(HEAD + b"0123456789").endswith(b"\r\n\r\n0123456789")
        assert site.answer(GET).endswith(b"ok")
    assert len(held) == 5 * THREADS


def test_a_head_is_answered_without_its_body_if_that_is_not_needed(site: Site) -> None:
    assert site.answer(EARLY).endswith(b"ok")


def test_a_request_may_come_in_pieces_and_the_next_one_with_it(site: Site) -> None:
    connection = site.connect(HEAD[:20])
    connection.sendall(HEAD[20:] + b"01234")
    connection.sendall(b"56789" + GET[:10])
    assert received(connection).endswith(b"0123456789")
    connection.sendall(GET[10:])
    assert received(connection).endswith(b"ok")
    connection.sendall(GET + HEAD + b"abcdefghij" + LAST)
    until(lambda: len(site.bodies) == 2, what="all requests")
    answers = b""
    while piece := received(connection):
        answers += piece
    assert (answers.count(b"200 OK"), b"abcdefghij" in answers) == (3, True)


def test_of_a_late_request_the_application_gets_what_has_come(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "READ_TIMEOUT", 0.2)
    waiting = [site.connect(HEAD + b"half") for _ in range(2 * THREADS)]
    half_heads = [site.connect(HEAD[:-2]) for _ in range(THREADS)]
    assert [received(one) for one in half_heads] == [b""] * THREADS
    for one in waiting[1:]:
        one.shutdown(socket.SHUT_WR)
    waiting[0].sendall(b"+ rest")
    until(lambda: len(site.bodies) == len(waiting), what="all of them")
    assert site.bodies.count(b"half") >= len(waiting) - 1


def test_who_does_not_hang_up_is_closed_soon(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = site.connect(LAST)
    assert received(connection).endswith(b"ok")
    assert received(connection) == b"", "our side ends at once"
    until(lambda: site.worker.nr_conns == 0, what="the end")
    monkeypatch.setattr(gunicorn_worker, "CLOSE_TIMEOUT", 600.0)
    monkeypatch.setattr(gunicorn_worker, "MAX_READ_AT_CLOSE", 1000)
    connection = site.connect(LAST)
    assert received(connection).endswith(b"ok")
    connection.sendall(bytes(5000))
    until(lambda: site.worker.nr_conns == 0, what="the end, after so many bytes")


def test_at_the_limit_those_without_a_request_are_closed_for_new_ones(site: Site) -> None:
    first = site.connect(GET)
    assert received(first).endswith(b"ok"), "an idle connection, which is kept"
    silent = [site.connect() for _ in range(2 * CONNECTIONS)]
    assert site.answer(GET).endswith(b"ok")
    assert received(silent[0]) == b"", "the oldest is closed"
    assert site.worker.nr_conns < CONNECTIONS
    first.sendall(GET)
    assert received(first).endswith(b"ok")


def test_without_descriptors_a_silent_connection_makes_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = site.connect()
    until(lambda: site.worker.nr_conns == 1, what="the silent one")
    accept, failures = ThreadWorker.accept, [errno.EMFILE, errno.ENFILE]

    def fail_first(worker: DrainingWorker, listener: Any) -> None:
        if failures:
            raise OSError(failures.pop(), "too many open files")
        accept(worker, listener)

    monkeypatch.setattr(ThreadWorker, "accept", fail_first)
    assert site.answer(GET).endswith(b"ok")
    assert received(silent) == b""


def test_an_event_of_a_connection_that_another_event_of_the_same_moment_ended_is_ignored(
    site: Site,
) -> None:
    """The events are taken from the kernel together; the first ones may close the others'."""
    ended = object()
    site.worker._readable(ended, None)
    site.worker._closing_read(ended, None)
    assert site.answer(GET).endswith(b"ok")


@pytest.mark.parametrize(
    ("target", "status", "form", "said"),
    [
        ("/callback/01ABC", 404, "application/json", '{"ok":false,"error":"no such callback"}'),
        ("/api/jobs?q=", 414, "application/problem+json", '"title":"URI Too Long","status":414'),
        ("/v1/models?x=", 414, "application/json", '{"error":{"message":"the URL is longer'),
        ("/jobs?q=", 414, "text/html; charset=utf-8", "Shorten the texts of the filters"),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_url_that_is_too_long_is_answered_in_the_form_of_its_path(
    site: Site, target: str, status: int, form: str, said: str, *, is_whole: bool
) -> None:
    line = f"GET {target}{'x' * MAX_FIRST_LINE}"
    end = " HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = site.answer(f"{line}{end if is_whole else ''}".encode())
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert f"Content-Type: {form}\r\n" in head
    assert said in body
    longest = f"GET /{'x' * (MAX_FIRST_LINE - len('GET / HTTP/1.1') - 2)}{end}"
    assert site.answer(longest.encode()).endswith(b"ok")


@pytest.mark.parametrize("site", [{"proxy_protocol": "auto"}], indirect=True)
def test_with_the_proxy_protocol_gunicorn_reads_the_first_bytes_itself(site: Site) -> None:
    assert site.answer(GET).endswith(b"ok")


def test_an_error_of_a_request_in_the_main_loop_ends_its_connection_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    site.worker.handle_in_main_loop(lambda _: True)
    with monkeypatch.context() as patch:
        patch.setattr(ThreadWorker, "handle", fail)
        assert site.answer(GET) == b""
    assert site.answer(GET).endswith(b"ok")


def test_a_stop_answers_what_arrives_and_does_not_wait_for_the_silent(site: Site) -> None:
    silent, begun = site.connect(), site.connect(HEAD)
    until(lambda: site.worker.nr_conns == 2, what="both")
    site.worker.handle_exit(15, None)
    begun.sendall(b"0123456789")
    assert received(begun).endswith(b"0123456789")
    assert received(silent) == b""
