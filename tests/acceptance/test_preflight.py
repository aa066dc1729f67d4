"""Before money is spent a worker must be there to archive the result; the check creates nothing."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from signal import SIGTERM
from threading import Event, Thread

import pytest
from installation import Installation
from processes import Finished
from waiting import until
from werkzeug.serving import make_server

from receiver.ingest.tickets import CANARY
from receiver.ledger.workers import Worker
from receiver.services import Services
from receiver.settings import Settings
from receiver.web import create_app
from submitter import preflight
from submitter.sandbox import Sandbox

OURS = b'{"ref":"%s"}' % CANARY.encode()
SUBMIT = ("submitter", "submit", "a fox", "--check", "--json")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Run one sandbox for all these tests; their jobs need no picture."""
    with Sandbox(looks=1, script={"delay": 60}) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a service that may be about to start."""
    monkeypatch.setattr(preflight, "WAIT", 0.0)


@contextmanager
def serving(installation: Installation, **other: str) -> Iterator[None]:
    """Serve web without a worker at the installation's address, with these other settings."""
    environ = {**installation.environ, **other}
    with closing(Services(Settings.load(environ)).open()) as services:
        server = make_server("127.0.0.1", installation.port, create_app(services), threaded=True)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def refused(done: Finished, *texts: str) -> bool:
    """Return whether a submit was refused with these texts."""
    assert (done.status, done.out) == (2, ""), done
    return all(text in done.err for text in ("the configuration is wrong", *texts))


def test_in_a_folder_of_its_own_a_submit_posts_nothing_and_creates_nothing(
    installation: Installation,
) -> None:
    lines = installation.folder / "lines.jsonl"
    lines.write_text('{"prompt": "a fox"}\n')
    for command in (SUBMIT, ("submitter", "batch", str(lines), "--check")):
        done = installation.invoke(*command)
        assert refused(done, f"DATA_DIR: no ledger in {installation.data}", "set DATA_DIR")
    assert installation.tasks() == []
    assert not installation.data.exists()


@pytest.mark.parametrize("mode", ["webhook", "poll", "stream"])
def test_a_ledger_without_a_worker_takes_no_paid_job(installation: Installation, mode: str) -> None:
    installation.invoke("receiver", "migrate")
    done = installation.invoke(*SUBMIT, "--mode", mode)
    assert refused(done, "no worker serves the ledger", "does not lead to a service", "--no-check")
    done = installation.invoke(*SUBMIT, "--mode", "poll", PUBLIC_URL="")
    assert refused(done, "no worker serves the ledger", "PUBLIC_URL is not set")
    lines = installation.folder / "lines.jsonl"
    lines.write_text('{"prompt": "a fox"}\n{"prompt": "a hare"}\n')
    done = installation.invoke("submitter", "batch", str(lines), "--mode", mode, "--check")
    assert refused(done, "no worker serves the ledger")
    assert installation.tasks() == []


def test_a_server_with_another_ledger_is_found_out_by_its_answer(
    installation: Installation, tmp_path: Path
) -> None:
    installation.invoke("receiver", "migrate")
    other = str(tmp_path / "other")
    with serving(installation, DATA_DIR=other):
        assert refused(installation.invoke(*SUBMIT), "a service that does not know its tickets")
    secret = {"CALLBACK_SECRETS": "a-shared-secret-0123"}
    assert installation.invoke("receiver", "adopt", "secrets", **secret).status == 0
    with serving(installation, DATA_DIR=f"{other}-2", **secret):
        assert refused(installation.invoke(*SUBMIT, **secret), "a service with another ledger")
    assert installation.tasks() == []


@contextmanager
def answering(installation: Installation, pieces: tuple[bytes, ...]) -> Iterator[None]:
    """Answer one call at the installation's address with these pieces, one every 0.1 s."""
    server = socket.create_server(("127.0.0.1", installation.port))

    def answer() -> None:
        with server.accept()[0] as connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            for number, piece in enumerate(pieces):
                if number:
                    Event().wait(0.1)
                connection.sendall(piece)

    thread = Thread(target=answer)
    thread.start()
    with server:
        yield
        thread.join()


@pytest.mark.parametrize(
    "pieces",
    [(b"[" * 60_000,), (b"null",), (b" " * 100_000, OURS), (*(b" ",) * 15, OURS), (b"\xff{",)],
    ids=["nested deeply", "null", "too large", "a byte now and then", "no text"],
)
def test_whatever_answers_at_the_public_url_the_check_ends_soon_with_one_line(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(preflight, "_CALL", 0.8)
    installation.invoke("receiver", "migrate")
    with answering(installation, pieces):
        assert refused(installation.invoke(*SUBMIT), "does not lead to a service that knows")
    assert installation.tasks() == []


def test_interrupted_before_the_check_is_over_a_submit_says_that_nothing_was_posted(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.invoke("receiver", "migrate")
    monkeypatch.setattr(preflight, "require_service", lambda _: os.kill(os.getpid(), SIGTERM))
    done = installation.invoke(*SUBMIT)
    assert (done.status, done.err.strip()) == (128 + SIGTERM, "nothing was posted")


def test_the_service_at_the_public_url_is_enough(installation: Installation) -> None:
    with serving(installation):
        done = installation.invoke(*SUBMIT)
    assert (done.status, json.loads(done.out)["state"]) == (0, "waiting"), done


def test_a_worker_is_enough_where_the_public_url_cannot_be_reached_from_inside(
    installation: Installation,
) -> None:
    with installation.services() as services:
        services.workers.begin(Worker(), alone=True)
    assert installation.invoke(*SUBMIT).status == 0
    with installation.services() as services:
        services.database.write(
            lambda connection: connection.exec_driver_sql(
                "UPDATE workers SET seen_at = seen_at - 50"
            ).close()
        )
    assert refused(installation.invoke(*SUBMIT), "no worker serves the ledger")
    assert installation.invoke("submitter", "submit", "a fox", "--no-check").status == 0


def test_a_service_that_is_about_to_start_is_waited_for(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "WAIT", 60.0)
    done: list[Finished] = []
    submit = Thread(target=lambda: done.append(installation.run(*SUBMIT)))
    submit.start()
    with serving(installation):
        until(lambda: done, what="the end of the submit")
    submit.join()
    assert done[0].status == 0, done


@pytest.mark.parametrize(
    "command",
    [
        "jobs",
        "show 01K0A3B4C5D6E7F8G9HJKMNPQR",
        "audit",
        "audit --deep",
        "events",
        "listen --no-follow",
        "retry 01K0A3B4C5D6E7F8G9HJKMNPQR",
        "replay 1",
        "resend --all",
        "prune --older-than 30d",
        "accept 01K0A3B4C5D6E7F8G9HJKMNPQR 0",
    ],
)
def test_who_looks_at_a_ledger_that_is_not_there_is_told_so_and_creates_none(
    installation: Installation, command: str
) -> None:
    done = installation.invoke("receiver", *command.split())
    assert (done.status, done.out) == (2, ""), done
    assert f"DATA_DIR: no ledger in {installation.data}; set DATA_DIR" in done.err
    assert not installation.data.exists()


def test_credits_are_shown_without_a_ledger_too(installation: Installation) -> None:
    done = installation.invoke("submitter", "credits", "--json")
    assert (done.status, json.loads(done.out)["models"]) == (0, [])
    assert "no ledger" in done.err
    assert not installation.data.exists()
