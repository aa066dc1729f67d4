"""The Procfile as honcho runs it: release, web and worker, all at once."""

import os
import signal
import socket
import time

import pytest
import requests
from installation import Installation
from processes import ROOT
from waiting import until

from receiver.model import new_ref

HONCHO = ("honcho", "--no-colour", "-f", str(ROOT / "Procfile"), "start")
WEB = ("gunicorn", "-c", "python:receiver.gunicorn_conf", "receiver.web:create_app()")


def test_the_processes_of_the_procfile_do_the_main_job_and_stop_on_sigterm(
    installation: Installation,
) -> None:
    with installation.started(HONCHO, WEB_CONCURRENCY="2") as service:
        service.says("the ledger's schema is")  # release ends on a platform; honcho would end too
        until(
            lambda: (
                sum(
                    "gunicorn" in line and "/bin/sh" not in line
                    for line in service.members().values()
                )
                == 3
            ),
            what="two web workers",
        )
        service.says("worker started")
        jobs = installation.wait(*(installation.submit(f"fox {number}").ref for number in range(6)))
        assert all(map(installation.is_safe, jobs))
        # Each process adds up the metrics of all processes.
        answers = {requests.get(f"{installation.url}/metrics", timeout=5).text for _ in range(6)}
        assert all('receiver_callbacks_total{outcome="ended"} 6.0' in answer for answer in answers)
        assert all('receiver_jobs{state="archived"} 6.0' in answer for answer in answers)
        assert service.stop() == 128 + signal.SIGTERM, (
            "honcho's way of saying that it was asked to stop"
        )
        assert "Traceback" not in service.output()
        assert "Warning" not in service.output()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"PORT": "none", "CONFIRM": "maybe"},
            ["the configuration is wrong:", "CONFIRM: ", "PORT: "],
        ),
        ({"DATA_DIR": "/proc/nowhere"}, ["DATA_DIR: ", "name a directory that can be written"]),
    ],
)
def test_a_web_process_that_cannot_start_says_why_in_a_few_lines(
    installation: Installation, wrong: dict[str, str], said: list[str]
) -> None:
    done = installation.run(*WEB, **wrong)
    assert done.status != 0
    assert all(text in done.err for text in said), done.err
    assert "Traceback" not in done.err


def said(installation: Installation, request: bytes) -> bytes:
    """Send a request as it is and return the whole answer, which the other side must end."""
    with socket.create_connection(("127.0.0.1", installation.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return answer.read()


BODY = b'{"id":"x","status":"running"}'
CHUNKED = b"Host: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
WHOLE = b"Host: x\r\nConnection: close\r\nContent-Length: "


def test_the_doors_hold_over_real_sockets(installation: Installation) -> None:
    with (
        installation.started(WEB, CALLBACK_MAX_BYTES="1000") as service,
        installation.services() as services,
    ):
        ticket = services.tickets.sign(ref := new_ref(time.time())).encode()
        right, encoded = b"/callback/" + ticket, b"/callback/%30" + ticket[1:]
        whole = WHOLE + b"%d\r\n\r\n%b" % (len(BODY), BODY)
        for line, rest, status, text in [
            (b"POST " + encoded, whole, 404, b'"no such callback"'),
            (b"POST http://x" + encoded, whole, 404, b'"no such callback"'),
            (b"POST /callback//" + ticket, whole, 404, b'"no such callback"'),
            (b"POST " + right + b"/", whole, 404, b'"no such callback"'),
            (b"POST " + right + b"%0A", whole, 404, b'"no such callback"'),
            (b"POST " + right + b"\xff", whole, 400, b"Bad Request"),  # by gunicorn: it is not HTTP
            (b"GET " + right, whole, 405, b"Method Not Allowed"),
            (
                b"POST " + right,
                CHUNKED + b"3e9\r\n%b\r\n0\r\n\r\n" % BODY.ljust(1001),
                413,
                b"1000 bytes",
            ),
            (b"POST " + right, WHOLE + b"1001\r\n\r\n" + BODY.ljust(1001), 413, b"1000 bytes"),
            (
                b"POST " + right,
                WHOLE + b"100\r\n\r\n" + BODY,
                400,
                b"",
            ),  # and then silence: cut short
            (b"POST " + right, CHUNKED + b"1d\r\n%b\r\n0\r\n\r\n" % BODY, 200, ref.encode()),
            (b"POST http://x" + right, whole, 200, ref.encode()),
            (b"POST " + right + b"?x=%2F", whole, 200, ref.encode()),
        ]:
            answer = said(installation, line + b" HTTP/1.1\r\n" + rest)
            assert answer.startswith(b"HTTP/1.1 %d " % status), (line, answer)
            assert text in answer
            assert b"location:" not in answer.lower()
        assert [row.verdict for row in services.queries.deliveries(ref)] == [
            "unreadable",
            *["progress"] * 3,
        ]
        assert ticket not in service.log.read_bytes()


def test_a_killed_web_worker_is_replaced_and_its_counts_stay(installation: Installation) -> None:
    with installation.started(WEB) as service:
        for _ in range(2):
            assert (
                requests.post(f"{installation.url}/callback/forged", timeout=5).status_code == 404
            )
            assert installation.status("/readyz") == 200
            (old,) = set(service.members()) - {service.pid}
            os.kill(old, signal.SIGKILL)
            until(lambda old=old: set(service.members()) - {service.pid, old}, what="a new worker")  # type: ignore[misc]
            until(lambda: installation.status("/healthz") == 200, what="that it answers")
        assert (
            'receiver_callbacks_total{outcome="forged"} 2.0'
            in requests.get(f"{installation.url}/metrics", timeout=5).text
        )
        assert service.stop() == 0
