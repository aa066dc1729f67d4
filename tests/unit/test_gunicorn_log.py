"""gunicorn's lines in our log: one line for a client's fault, and never one for each."""

import json
import logging

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]  # the package has no types

from receiver.server import gunicorn_log
from receiver.server.gunicorn_log import ClientFaults, GunicornLog
from receiver.telemetry import logs


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> GunicornLog:
    """Return gunicorn's log; it writes to ``capsys``."""
    capsys.readouterr()
    monkeypatch.setattr(gunicorn_log, "client_faults", ClientFaults())
    logs.configure("INFO", "json", ["planted-secret"])
    return GunicornLog(Config())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BlockingIOError(11, "Resource temporarily unavailable"), "speaks TLS to this port"),
        (TimeoutError(110, "Connection timed out"), "Connection timed out"),
    ],
)
def test_a_request_that_does_not_arrive_is_one_line_of_json(
    log: GunicornLog, capsys: pytest.CaptureFixture[str], error: OSError, said: str
) -> None:
    try:
        raise error
    except OSError:
        log.exception("Socket error processing request.")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "request unreadable"
    assert said in line


def test_an_error_of_gunicorn_is_written_by_the_handlers_of_our_log(
    log: GunicornLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (log.error_log.handlers, log.error_log.propagate) == ([], True)
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(log.error_log, "handle", records.append)
    log.error("Worker (pid:%s) was sent SIGKILL", 7)
    try:
        int("a bug")
    except ValueError:
        log.exception("Error handling request %s %s", "POST", "/callback/x")
    assert [(record.levelname, record.exc_info is None) for record in records] == [
        ("ERROR", True),
        ("ERROR", False),
    ]


def test_the_same_fault_is_logged_now_and_then_with_how_many_were_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO", "json", [])
    now = [0.0]
    faults = ClientFaults(clock=lambda: now[0])
    for _ in range(100):
        faults.log("one")
    faults.log("other")
    now[0] += 10
    faults.log("one")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["reason"], line["not_logged"]) for line in lines] == [
        ("one", 0),
        ("other", 0),
        ("one", 99),
    ]
