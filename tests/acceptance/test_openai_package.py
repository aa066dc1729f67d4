"""POST /v1/images/generations as the ``openai`` package uses it, against ``receiver serve``."""

import base64
import hashlib
import importlib
import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import Any

import pytest
import requests
from installation import Installation
from side_by_side import side_by_side
from waiting import until

from submitter.sandbox import Sandbox

WAITING_CLIENTS = 20  # more than the 16 threads for everything else


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(script={"delay": 0.2, "bytes": 20_000}) as running:
        yield running


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox
) -> Iterator[tuple[Installation, str]]:
    """Run one service for all tests; also return its ADMIN_TOKEN."""
    installation = Installation(tmp_path_factory.mktemp("images"), sandbox)
    with installation.started(WAITING_CLIENTS=str(WAITING_CLIENTS)):
        yield installation, (installation.data / "secrets" / "admin").read_text().strip()


@pytest.fixture(scope="module")
def openai() -> Any:
    """Return the package; it takes a second to import, which only this module's process pays."""
    return importlib.import_module("openai")


@pytest.fixture
def client(openai: Any, served: tuple[Installation, str]) -> Iterator[Any]:
    installation, token = served
    with openai.OpenAI(api_key=token, base_url=f"{installation.url}/v1", max_retries=0) as client:
        yield client


def job_of(served: tuple[Installation, str], ref: str) -> Any:
    installation, token = served
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{installation.url}/api/jobs/{ref}", headers=headers, timeout=20).json()


def refs_of(answer: Any) -> list[str]:
    return list(answer.model_extra["jobs"])


def script(**wanted: Any) -> dict[str, Any]:
    return {"sandbox": wanted}


def test_the_openai_package_gets_pictures_that_are_archived(
    served: tuple[Installation, str], client: Any
) -> None:
    answer = client.images.generate(
        model="nano-banana",
        prompt="a fox",
        n=2,
        size="1024x1024",
        quality="high",
        user="reader-7",
        extra_body={"folder": "shop"},
    )
    assert answer.data is not None
    jobs = [job_of(served, ref) for ref in refs_of(answer)]
    assets = [job["assets"][0] for job in jobs]
    assert [job["state"] for job in jobs] == ["archived"] * 2
    assert jobs[0]["request"]["params"] == {"aspectRatio": "1:1", "quality": "high"}
    assert [job["metadata"] for job in jobs] == [{"user": "reader-7"}] * 2
    assert assets[0]["key"].startswith("shop/")
    for picture, asset in zip(answer.data, assets, strict=True):
        assert picture.url is not None
        assert picture.b64_json is not None
        assert hashlib.sha256(base64.b64decode(picture.b64_json)).hexdigest() == asset["sha256"]
        linked = requests.get(picture.url, timeout=20)
        assert hashlib.sha256(linked.content).hexdigest() == asset["sha256"]
        assert (
            requests.get(picture.url.replace("/files/", "/files/x"), timeout=20).status_code == 404
        )
    assert (answer.output_format, answer.size) == (
        "png",
        f"{assets[0]['width']}x{assets[0]['height']}",
    )


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_response_format_is_obeyed(client: Any, form: Any) -> None:
    answer = client.images.generate(prompt="a fox", response_format=form)
    assert answer.data is not None
    (picture,) = answer.data
    assert [picture.url is not None, picture.b64_json is not None] == [form == "url", form != "url"]


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        ({"size": "333x777"}, "BadRequestError", "invalid_value"),
        ({"stream": True}, "BadRequestError", "invalid_value"),
        ({"model": "openai/gpt-image-2"}, "BadRequestError", "invalid_value"),
        (
            {"extra_body": script(fail="output_moderation")},
            "BadRequestError",
            "moderation_blocked",
        ),
        ({"extra_body": script(refuse="no credits")}, "BadRequestError", "provider_refused"),
        ({"extra_body": script(fail="error")}, "InternalServerError", "provider_error"),
        (
            {
                "timeout": 60,
                "extra_headers": {"Prefer": "wait=1"},
                "extra_body": script(delay=3600),
            },
            "InternalServerError",
            "timeout",
        ),
    ],
)
def test_an_error_has_the_form_that_the_package_reads(
    openai: Any, client: Any, asked: Any, error: str, code: str
) -> None:
    with pytest.raises(getattr(openai, error)) as raised:
        client.images.generate(prompt="a fox", **asked)
    assert raised.value.code == code
    assert isinstance(raised.value.body, dict)
    assert set(raised.value.body) == {"message", "type", "param", "code"}


def test_a_wrong_key_and_an_unknown_path_are_errors_of_the_package(
    openai: Any, served: tuple[Installation, str], client: Any
) -> None:
    wrong = openai.OpenAI(api_key="sk-wrong", base_url=f"{served[0].url}/v1", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="x", input="a fox")
    assert "gpt-image-1.5" in [model.id for model in client.models.list()]


def test_respond_async_is_answered_with_the_job(client: Any) -> None:
    with client.images.with_streaming_response.generate(
        prompt="a fox",
        extra_headers={"Prefer": "respond-async"},
        extra_body=script(delay=3600),
    ) as answer:
        job = json.loads(answer.read())
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    assert answer.headers["location"] == f"/api/jobs/{job['ref']}"
    assert job["state"] == "waiting"


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "order-1"}])
def test_a_repetition_by_the_package_waits_for_the_job_that_was_paid_for(
    openai: Any, served: tuple[Installation, str], headers: dict[str, str]
) -> None:
    """After its timeout the package closes the connection and sends the request again."""
    installation, token = served
    before = installation.sandbox.stats()["accepted"]
    client = openai.OpenAI(api_key=token, base_url=f"{installation.url}/v1", max_retries=4)
    with client:
        answer = client.images.generate(
            prompt=f"a fox {headers}",
            timeout=1.5,
            extra_headers=headers,
            extra_body=script(delay=2.5, progress=0),
        )
    assert installation.sandbox.stats()["accepted"] == before + 1
    assert job_of(served, refs_of(answer)[0])["state"] == "archived"


def test_a_key_of_another_request_is_a_conflict_that_is_not_repeated(
    openai: Any,
    served: tuple[Installation, str],
) -> None:
    installation, token = served
    key = {"Idempotency-Key": "order-2", "Prefer": "respond-async"}
    before = installation.sandbox.stats()["accepted"]
    with openai.OpenAI(api_key=token, base_url=f"{installation.url}/v1", max_retries=2) as client:
        client.images.generate(prompt="a fox", extra_headers=key)
        with pytest.raises(openai.ConflictError):
            client.images.generate(prompt="a hen", extra_headers=key)
    assert installation.sandbox.stats()["accepted"] == before + 1


def test_waiting_clients_beyond_the_limit_are_refused_and_callbacks_stay_quick(
    openai: Any, served: tuple[Installation, str], sandbox: Sandbox
) -> None:
    installation, token = served
    body = json.dumps({"prompt": "a slow fox", **script(delay=3600)}).encode()
    request = (
        b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + token.encode()
        + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    before = sandbox.stats()["accepted"]
    with ExitStack() as flood:

        def send() -> socket.socket:
            address = ("127.0.0.1", installation.port)
            waiting = flood.enter_context(socket.create_connection(address, timeout=60))
            waiting.sendall(request)
            return waiting

        clients = [send() for _ in range(2 * WAITING_CLIENTS)]

        def answered() -> list[socket.socket]:
            return select.select(clients, [], [], 0)[0]

        until(lambda: len(answered()) == WAITING_CLIENTS, what="the refusal of all others")
        refused = answered()
        for one in refused:
            answer = HTTPResponse(one)  # head and body may come in several packets
            answer.begin()
            assert (answer.status, b"rate_limit_exceeded" in answer.read()) == (429, True)
        until(lambda: sandbox.stats()["accepted"] == before + WAITING_CLIENTS, what="every submit")
        began = time.monotonic()
        callback = f"{installation.url}/callback/not-a-ticket"
        side_by_side([lambda: requests.post(callback, json={}, timeout=20)] * 16)
        assert time.monotonic() - began < 5
        for one in clients:
            one.close()
        # Hanging up frees the places at once; the jobs go on.
        with openai.OpenAI(
            api_key=token, base_url=f"{installation.url}/v1", max_retries=0
        ) as client:

            def is_free() -> bool:
                try:
                    return bool(client.images.generate(prompt="a quick fox").data)
                except openai.RateLimitError:
                    return False

            until(is_free, what="a place for another client")
