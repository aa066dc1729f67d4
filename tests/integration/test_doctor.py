"""The doctor: each fault is found, named, and reported with its remedy."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from outside_network import Script, ScriptedServer, answer, certificate, redirect, send
from seaweed import S3Server
from waiting import LIMIT
from web_client import WebClient, web_client
from werkzeug.serving import make_server

from receiver.archive.stores.archive_url import open_store
from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_probe import Capabilities
from receiver.doctor import checks, last_result, self_call
from receiver.doctor.checks import NothingToCheck, Trouble
from receiver.doctor.examine import Finding, Status, examine
from receiver.errors import StoreError
from receiver.ingest.tickets import CANARY, Tickets
from receiver.ledger import schema
from receiver.services import Services
from receiver.settings import Settings
from receiver.web import create_app
from submitter.sandbox import Sandbox

LOCAL = "http://127.0.0.1:1"  # a provider beside us: inside addresses are fine then
TICKETS = Tickets(["a secret of sixteen"])
ABLE = Capabilities(
    "a server",
    whole=True,
    conditional=True,
    hashes=True,
    metadata=True,
    lists=True,
    links=True,
    deletes=True,
)


# The callback of no job.


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[WebClient]:
    with web_client(
        tmp_path / "data", {"DATABASE_URL": sqlite_url, "CALLBACK_MAX_BYTES": "3000"}
    ) as web:
        yield web


def test_the_canary_is_answered_and_nothing_is_stored(web: WebClient) -> None:
    before = web.counted("canary")
    given = web.callback(web.services.tickets.sign(CANARY), b"x" * 3000)
    assert (given.status_code, given.json) == (200, {"ok": True, "ref": CANARY, "size": 3000})
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


def test_a_url_that_leads_to_us_is_good_and_large_bodies_are_tried(web: WebClient) -> None:
    with served(web) as url:
        found = self_call.call(url, web.services.tickets, 3000, provider=LOCAL)
    assert found.startswith(f"{url} leads to us, answered in ")
    assert found.endswith("bodies of 3000 bytes pass")


def trouble(public_url: str, provider: str = LOCAL) -> Trouble:
    with pytest.raises(Trouble) as caught:
        self_call.call(public_url, TICKETS, 3000, provider=provider)
    assert TICKETS.sign(CANARY).partition(".")[2] not in f"{caught.value} {caught.value.remedy}"
    return caught.value


def test_a_receiver_with_other_secrets_is_recognized_as_such(web: WebClient) -> None:
    with served(web) as url:
        found = trouble(url)
    assert "leads to a receiver that does not know our tickets" in str(found)
    assert "the same CALLBACK_SECRETS" in found.remedy


class Reading(ScriptedServer):
    """Reads a POST to its end before it plays its script."""

    def _play(self, script: Script, connection: socket.socket) -> None:
        connection.settimeout(10)
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection:
            asked = connection.makefile("rb")
            length = 0
            while (line := asked.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            asked.read(length)
            self.requests.append(line)
            script(connection)


@contextmanager
def behind(script: Script, *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run whatever answers at the public URL instead of us; give its port."""
    server = Reading((script,), tls)
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
def test_what_stands_in_the_way_of_callbacks_is_named(
    script: Script, text: str, remedy: str
) -> None:
    with behind(script) as port:
        found = trouble(f"http://127.0.0.1:{port}")
    assert text in str(found)
    assert remedy in found.remedy


def test_no_answer_at_the_public_url_is_reported_and_may_be_only_from_here() -> None:
    with behind(send(b"")) as port:
        pass
    found = trouble(f"http://127.0.0.1:{port}")
    assert f"no answer at 127.0.0.1:{port}" in str(found)
    assert "start `receiver serve`" in found.remedy
    assert "only this machine" in found.remedy


def test_a_name_without_an_address_is_reported() -> None:
    found = trouble("https://no-such-name.invalid")
    assert "the name no-such-name.invalid has no address" in str(found)
    assert "DNS record" in found.remedy


@pytest.mark.parametrize("provider", ["https://grsaiapi.com", "https://93.184.216.34"])
def test_an_inside_address_is_of_no_use_to_a_provider_outside(provider: str) -> None:
    found = trouble("http://10.1.2.3", provider)
    assert "10.1.2.3" in str(found)
    assert "where the provider cannot call" in str(found)


def test_an_untrusted_certificate_is_reported_with_its_fault(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with behind(answer(body=OURS), tls=context) as port:
        found = trouble(f"https://127.0.0.1:{port}")
    assert "self-signed" in str(found)
    assert "trusted everywhere" in found.remedy


def test_plain_http_at_an_https_url_is_reported() -> None:
    server = ScriptedServer((send(b"HTTP/1.1 400 Bad\r\n\r\n"),))
    try:
        found = trouble(f"https://127.0.0.1:{server.port}")
    finally:
        server.close()
    assert "does not use TLS" in str(found)


# What came of it.


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
def test_a_spoilt_file_says_nothing_against_a_url(tmp_path: Path, content: str) -> None:
    (tmp_path / "doctor.json").write_text(content)
    assert last_result.failure(tmp_path, "https://pictures.example") == ""


# The other checks.


@contextmanager
def services(**environ: str) -> Iterator[Services]:
    with closing(Services(Settings.load(environ)).open()) as services:
        yield services


def findings(services: Services) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(services)}


def test_a_fresh_installation_is_examined_in_order_and_everything_missing_is_reported(
    sqlite_url: str, tmp_path: Path
) -> None:
    closed = {
        "GRSAI_BASE_URL": LOCAL,
        "DATABASE_URL": sqlite_url,
        "DATA_DIR": str(tmp_path / "data"),
    }
    with services(**closed) as here:
        found = findings(here)
    assert list(found) == ["ledger", "archive", "provider", "clock", "public URL"]
    assert f"schema {schema.HEAD}, 0 jobs" in found["ledger"].detail
    assert "files are written, linked and synced" in found["archive"].detail
    assert (found["provider"].status, found["provider"].remedy) == (
        Status.FAILED,
        "set GRSAI_API_KEY",
    )
    assert [found[name].status for name in ("ledger", "archive", "clock", "public URL")] == [
        "ok",
        "ok",
        "skipped",
        "skipped",
    ]
    assert not any(place.name == "doctor.json" for place in (tmp_path / "data").iterdir())


def test_the_key_is_tried_at_the_provider(sqlite_url: str, tmp_path: Path) -> None:
    with Sandbox(keys=["sk-right"]) as sandbox:
        common = {
            "GRSAI_BASE_URL": sandbox.url,
            "DATABASE_URL": sqlite_url,
            "DATA_DIR": str(tmp_path / "data"),
        }
        with services(GRSAI_API_KEY="sk-right", **common) as here:
            right = findings(here)
        with services(GRSAI_API_KEY="sk-wrong", **common) as here:
            wrong = findings(here)
    assert right["provider"].detail == f"{sandbox.url} knows our key, 10000 credits left"
    assert right["clock"].status is Status.OK
    assert "invalid apikey" in wrong["provider"].detail
    assert wrong["provider"].remedy.startswith("correct GRSAI_API_KEY")


def test_a_provider_that_cannot_be_reached_is_reported(sqlite_url: str, tmp_path: Path) -> None:
    with services(
        GRSAI_API_KEY="sk-any",
        GRSAI_BASE_URL=LOCAL,
        DATABASE_URL=sqlite_url,
        DATA_DIR=str(tmp_path / "data"),
    ) as here:
        found = findings(here)
    assert found["provider"].status is Status.FAILED
    assert "GRSAI_BASE_URL where the host is wrong" in found["provider"].remedy


@pytest.mark.parametrize(
    ("date", "text"),
    [
        ("Sat, 01 Jan 2000 00:00:00 GMT", "s ahead of"),
        ("Sat, 01 Jan 2095 00:00:00 GMT", "s behind"),
    ],
)
def test_a_clock_that_is_wrong_is_reported(date: str, text: str) -> None:
    server = ScriptedServer((answer(f"Date: {date}", body=b""),))
    try:
        with pytest.raises(Trouble, match=text) as caught:
            checks.clock(f"http://127.0.0.1:{server.port}")
    finally:
        server.close()
    assert "NTP" in caught.value.remedy


@pytest.mark.parametrize("head", [("Date: yesterday",), ()])
def test_a_provider_that_tells_no_time_is_no_reason_to_doubt_ours(head: tuple[str, ...]) -> None:
    server = ScriptedServer((answer(*head, body=b""),))
    try:
        with pytest.raises(NothingToCheck):
            checks.clock(f"http://127.0.0.1:{server.port}")
    finally:
        server.close()


def test_an_archive_that_takes_nothing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file")
    with pytest.raises(Trouble, match="a file stands where a directory should be"):
        checks.archive(open_store((tmp_path / "archive").as_uri()))


def test_the_dialect_of_a_bucket_is_found_and_nothing_is_left_there(
    s3_server: S3Server, bucket: str
) -> None:
    store = open_store(f"s3://{bucket}/home", addressing_style="path")
    assert isinstance(store, S3Store)
    dialect = store.probe()
    assert "SeaweedFS" in dialect.server
    assert dialect == replace(ABLE, server=dialect.server)
    assert checks.archive(store) == (
        f"S3 by {dialect.server}, put, read back, hashed, deleted; "
        "objects are not read back, because it rejects a wrong SHA-256"
    )
    left = s3_server.client.list_objects_v2(Bucket=bucket).get("Contents", [])
    assert [found["Key"] for found in left] == ["home/.receiver"]
    store.close()


def test_the_wish_to_have_every_object_read_back_is_shown(bucket: str) -> None:
    with closing(open_store(f"s3://{bucket}", verify="always")) as store:
        assert "each object is read back after its put" in checks.archive(store)


def test_what_a_server_cannot_do_is_said_with_what_is_done_without() -> None:
    words = replace(
        ABLE,
        conditional=False,
        hashes=False,
        metadata=False,
        lists=False,
        links=False,
        deletes=False,
    ).lacks()
    assert [line.partition(":")[0] for line in words] == [
        "no conditional put",
        "accepts a wrong SHA-256",
        "keeps no metadata",
        "may not be listed",
        "serves no signed links",
        "cannot delete",
    ]


def test_a_bucket_we_may_only_read_is_reported(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        S3Server(s3_server.url, s3_server.client, writer=s3_server.reader).environment().items()
    ):
        monkeypatch.setenv(name, value)
    with closing(open_store(f"s3://{bucket}", addressing_style="path")) as store:
        with pytest.raises(Trouble, match="not permitted"):
            checks.archive(store)
        assert isinstance(store, S3Store)
        with pytest.raises(StoreError, match="not permitted"):
            store.probe()
