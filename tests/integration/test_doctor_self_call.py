"""The doctor calls the public URL: what does not let callbacks through is named with its remedy."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from outside_network import Script, ScriptedServer, answer, certificate, redirect, send
from waiting import LIMIT
from web_client import WebClient, web_client
from werkzeug.serving import make_server

from receiver.doctor import last_result, self_call
from receiver.doctor.checks import Trouble
from receiver.ingest.tickets import CANARY, Tickets
from receiver.web import create_app

LOCAL = "http://127.0.0.1:1"  # a provider beside us: inside addresses are fine then
TICKETS = Tickets(["a secret of sixteen"])

# The canary: a callback of no job.


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[WebClient]:
    with web_client(
        tmp_path / "data", {"DATABASE_URL": sqlite_url, "CALLBACK_MAX_BYTES": "3000"}
    ) as web:
        yield web


def test_the_canary_is_answered_and_nothing_is_stored(web: WebClient) -> None:
    before = web.counted("canary")
    answer_to_canary = web.callback(web.services.tickets.sign(CANARY), b"x" * 3000)
    assert (answer_to_canary.status_code, answer_to_canary.json) == (
        200,
        {"ok": True, "ref": CANARY, "size": 3000, "ledger": web.services.ledger_id},
    )
    assert web.callback(web.services.tickets.sign(CANARY), b"x" * 3001).status_code == 413
    assert web.counted("canary") == before + 1
    assert web.services.queries.jobs() == []
    assert web.services.queries.deliveries(CANARY) == []


def test_a_canary_we_did_not_sign_is_not_ours(web: WebClient) -> None:
    assert web.callback(TICKETS.sign(CANARY), b"{}").status_code == 404


# Calling ourselves.


@contextmanager
def served(web: WebClient) -> Iterator[str]:
    """Serve the application at a port of this machine."""
    server = make_server("127.0.0.1", 0, create_app(web.services), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(LIMIT)
        server.server_close()


def test_a_url_that_leads_to_us_is_ok_and_large_bodies_are_tried(web: WebClient) -> None:
    with served(web) as url:
        found = self_call.call(url, web.services.tickets, 3000, provider=LOCAL)
    assert found.startswith(f"{url} leads to us, answered in ")
    assert found.endswith("bodies of 3000 bytes pass")


def self_call_trouble(public_url: str, provider: str = LOCAL) -> Trouble:
    with pytest.raises(Trouble) as caught:
        self_call.call(public_url, TICKETS, 3000, provider=provider)
    assert TICKETS.sign(CANARY).partition(".")[2] not in f"{caught.value} {caught.value.remedy}"
    return caught.value


def test_a_receiver_with_other_secrets_is_recognized_as_such(web: WebClient) -> None:
    with served(web) as url:
        found = self_call_trouble(url)
    assert "leads to a receiver that does not know our tickets" in str(found)
    assert "the same CALLBACK_SECRETS" in found.remedy


class ReadingServer(ScriptedServer):
    """Reads a POST to its end before it plays its script."""

    def _play(self, script: Script, connection: socket.socket) -> None:
        connection.settimeout(10)
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection:
            request = connection.makefile("rb")
            length = 0
            while (line := request.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            request.read(length)
            self.requests.append(line)
            script(connection)


@contextmanager
def answering(script: Script, *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run a server that answers at the public URL instead of us; yield its port."""
    server = ReadingServer((script,), tls)
    try:
        yield server.port
    finally:
        server.close()


OURS = json.dumps({"ok": True, "ref": CANARY, "size": 200}).encode()


@pytest.mark.parametrize(
    ("script", "text", "remedy"),
    [
        (
            redirect("https://pictures.example/callback/x", 301),
            "redirects to https://pictures.example:",
            "set PUBLIC_URL to that address",
        ),
        (redirect("/elsewhere", 308), "redirects to another path", "turn the redirect off"),
        (
            answer(status="404 No", body=b"<html>"),
            "/callback/ is unknown there",
            "pass /callback/ on unchanged",
        ),
        (answer(status="405 No", body=b""), "POST is not allowed", "pass POST on"),
        (answer(status="401 No", body=b""), "a login is required", "let /callback/ through"),
        (answer(status="403 No", body=b""), "it is forbidden", "bot filters"),
        (answer(status="413 No", body=b""), "too large", "client_max_body_size"),
        (answer(status="502 No", body=b""), "does not reach the service", "start `receiver serve`"),
        (answer(status="504 No", body=b""), "did not answer the proxy in time", "/readyz"),
        (
            answer(body=b"<html>welcome"),
            "answers 200, but not like this service",
            "something else answers",
        ),
        (
            answer(body=b"[" * 100_000),
            "answers 200, but not like this service",
            "something else answers",
        ),
        (
            answer(body=OURS.replace(b"200", b"150")),
            "of 200 bytes 150 arrived",
            "pass bodies on unchanged",
        ),
        (answer(body=OURS), "of 3000 bytes 200 arrived", "pass bodies on unchanged"),
        (send(b"not HTTP\r\n\r\n"), "no answer to a body", "look into the proxy's log"),
        (send(b""), "no answer to a body", "look into the proxy's log"),
    ],
)
def test_what_does_not_let_callbacks_through_is_named(
    script: Script, text: str, remedy: str
) -> None:
    with answering(script) as port:
        found = self_call_trouble(f"http://127.0.0.1:{port}")
    assert text in str(found)
    assert remedy in found.remedy


def test_a_server_that_answers_a_byte_at_a_time_does_not_hold_up_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(self_call, "_CALL", 0.3)
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with suppress(OSError):
            while not ended.wait(0.02):
                connection.sendall(b"H")

    with answering(drip) as port:
        found = self_call_trouble(f"http://127.0.0.1:{port}")
        ended.set()
    assert "no answer to a body" in str(found)


def test_no_answer_at_the_public_url_is_reported_and_may_concern_only_this_machine() -> None:
    with answering(send(b"")) as port:
        pass
    found = self_call_trouble(f"http://127.0.0.1:{port}")
    assert f"no answer at 127.0.0.1:{port}" in str(found)
    assert "start `receiver serve`" in found.remedy
    assert "only this machine" in found.remedy


def test_a_name_without_an_address_is_reported() -> None:
    found = self_call_trouble("https://no-such-name.invalid")
    assert "the name no-such-name.invalid has no address" in str(found)
    assert "DNS record" in found.remedy


@pytest.mark.parametrize("provider", ["https://grsaiapi.com", "https://93.184.216.34"])
def test_an_inside_address_is_of_no_use_to_a_provider_outside(provider: str) -> None:
    found = self_call_trouble("http://10.1.2.3", provider)
    assert "10.1.2.3" in str(found)
    assert "where the provider cannot call" in str(found)


def test_an_untrusted_certificate_is_reported_with_its_fault(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with answering(answer(body=OURS), tls=context) as port:
        found = self_call_trouble(f"https://127.0.0.1:{port}")
    assert "self-signed" in str(found)
    assert "trusted everywhere" in found.remedy


def test_plain_http_at_an_https_url_is_reported() -> None:
    server = ScriptedServer((send(b"HTTP/1.1 400 Bad\r\n\r\n"),))
    try:
        found = self_call_trouble(f"https://127.0.0.1:{server.port}")
    finally:
        server.close()
    assert "does not use TLS" in str(found)


# The stored result.


def test_a_failure_counts_for_a_day_and_for_its_own_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://pictures.example"
    assert last_result.failure(tmp_path, url) == ""
    last_result.keep(tmp_path, url, "it redirects")
    assert last_result.failure(tmp_path, url) == "it redirects"
    assert last_result.failure(tmp_path, "https://elsewhere.example") == ""
    assert last_result.failure(tmp_path, None) == ""
    later = time.time() + last_result.COUNTS_FOR + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert last_result.failure(tmp_path, url) == ""
    last_result.keep(tmp_path, url, "it redirects")
    last_result.keep(tmp_path, url, "")
    assert last_result.failure(tmp_path, url) == ""


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"at": "x", "failure": "y", "public_url": "https://pictures.example"}'],
)
def test_a_damaged_result_file_reports_no_failure(tmp_path: Path, content: str) -> None:
    (tmp_path / "doctor.json").write_text(content)
    assert last_result.failure(tmp_path, "https://pictures.example") == ""
