"""Texts of a provider: our keys and tickets are redacted, and a terminal shows them harmlessly."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from ledgers import BASE_URL, LedgerHarness, failed
from submitting import grsai_client
from waiting import LIMIT

from receiver.cli import jobs
from receiver.cli.base import reports_errors
from receiver.errors import ProviderError, ReceiverError, RefusedError
from receiver.ingest.inbox import Inbox
from receiver.ingest.tickets import Tickets
from receiver.model import Api, Delivery, Mode, Provider, Source, Submission
from receiver.providers.dialect import Task
from receiver.providers.grsai import reports as grsai
from receiver.services import Services
from receiver.settings import Settings
from receiver.telemetry.redaction import REPLACEMENT, Redactor
from submitter.batch.progress_bar import say
from submitter.cli import submit as submitter

KEY = "sk-canary-of-this-test"
TICKET = Tickets(["a-secret-of-the-tickets"]).sign("01JZ2Q7V3N0123456789ABCDEF")
HOSTILE = "\x1b]0;pwned\x07\x1b[2J[/red] [link=file:///etc] \u202egnp.exe\x9b31m\rover"
CONTROL = ("\x1b", "\x07", "\u202e", "\x9b", "\r")


@contextmanager
def provider(body: object) -> Iterator[str]:
    """Answer every POST with this body; give the address."""

    class Quoting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name http.server asks for
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Quoting) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join(LIMIT)


ASKED = Submission("a fox", "gpt-image-1.5", {}, Mode.POLL)


def test_a_refusal_that_quotes_our_key_is_redacted() -> None:
    said = {"code": -1, "data": None, "msg": f"invalid apikey {KEY}, go away"}
    with provider(said) as url:
        client = grsai_client(url, KEY)
        request = client.dialect.build_submit(client.account, ASKED, None)
        with pytest.raises(RefusedError) as refused:
            client.submit(request, lambda: None)
    assert str(refused.value) == f"invalid apikey {REPLACEMENT}, go away"


def test_an_answer_about_a_task_that_quotes_our_key_is_redacted() -> None:
    task = {"id": "task-1", "status": "failed", "error": f"no credits on {KEY}"}
    with provider({"code": 0, "msg": "success", "data": task}) as url:
        body = grsai_client(url, KEY).result(Task(Provider.GRSAI, "task-1", url, Api.DRAW))
    assert KEY.encode() not in body
    assert grsai.read_report(body).message == f"no credits on {REPLACEMENT}"
    with (
        provider({"code": -1, "msg": f"{KEY} is unknown"}) as url,
        pytest.raises(ProviderError) as failure,
    ):
        grsai_client(url, KEY).result(Task(Provider.GRSAI, "task-1", url, Api.DRAW))
    assert KEY not in str(failure.value)


def test_a_callback_that_quotes_our_key_or_its_own_url_is_kept_without(
    ledger: LedgerHarness,
) -> None:
    inbox = Inbox(
        ledger.database,
        ledger.timing,
        ledger.clock,
        lambda: None,
        base_url=BASE_URL,
        redact=Redactor([KEY]),
    )
    ref = ledger.waiting()
    inbox.accept(
        Delivery(
            ref, Source.CALLBACK, failed(message=f"{KEY} cannot reach /callback/{TICKET}"), 1.0
        )
    )
    said = ledger.job(ref).message
    assert said == f"{REPLACEMENT} cannot reach /callback/{TICKET.partition('.')[0]}.{REPLACEMENT}"
    assert all(
        KEY not in event["payload"] and TICKET not in event["payload"]
        for event in ledger.events.after()
    )


# On a terminal.


@pytest.fixture
def services(sqlite_url: str, tmp_path: Path) -> Iterator[Services]:
    with closing(
        Services(
            Settings.load({"DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": sqlite_url})
        ).open()
    ) as services:
        yield services


def is_plain(text: str) -> bool:
    return not any(mark in text for mark in CONTROL)


def test_no_word_of_a_provider_or_a_caller_moves_the_cursor(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Submission(HOSTILE, HOSTILE, {"style": HOSTILE})
    ref = services.jobs.submit(asked, "https://provider.test").ref
    urls = [{"url": f"https://files.test/{HOSTILE}"}]
    body = {"id": HOSTILE, "status": "succeeded", "results": urls}
    services.inbox.accept(Delivery(ref, Source.CALLBACK, json.dumps(body).encode(), 1.0))
    (claimed,) = services.assets.claim(1)
    services.assets.retry(claimed, 9e9, HOSTILE)
    other = services.jobs.submit(asked, "https://provider.test").ref
    services.jobs.record_refused(other, HOSTILE)
    for shown in (ref, other):
        job = services.jobs.get(shown)
        jobs._show(services, job)
        submitter._print_job(services.job_objects.of([job])[0], err=False)
    say(HOSTILE)
    said = capsys.readouterr()
    assert "[/red]" in said.out
    assert "[/red]" in said.err
    assert is_plain(said.out)
    assert is_plain(said.err)


def test_an_error_that_quotes_a_provider_is_printed_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @reports_errors
    def command() -> None:
        raise ReceiverError(HOSTILE)

    with pytest.raises(SystemExit):
        command()
    assert is_plain(capsys.readouterr().err)
