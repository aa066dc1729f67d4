"""POST /api/jobs: what is refused, what reaches the provider, and idempotency keys."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from side_by_side import side_by_side
from web_client import WebClient, web_client

from receiver.errors import KeyConflictError
from receiver.jobs.request import GrsaiRequest, JobRequest
from receiver.jobs.same_request import canonical_request
from receiver.model import Mode
from receiver.services import Services
from submitter import Submitter
from submitter.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(looks=1) as sandbox:
        yield sandbox


@pytest.fixture
def web(services: Services) -> Iterator[WebClient]:
    environ = {
        "GRSAI_API_KEY": "sk-test",
        "GRSAI_BASE_URL": services.settings.grsai_base_url,
        "PUBLIC_URL": "http://127.0.0.1:9",
    }
    with web_client(services.settings.data_dir, environ) as web:
        yield web


A_PICTURE, OTHER = "https://a.test/a.png", "https://a.test/b.png"


def posted(web: WebClient, body: Any, **headers: str) -> Any:
    return web.client.post("/api/jobs", json=body, headers={**web.admin, **headers})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "prompt: Field required"),
        ({"prompt": ""}, "prompt: "),
        ({"prompt": "a fox", "variants": 0}, "variants: "),
        ({"prompt": "a fox", "colour": "red"}, "colour: "),
        ({"prompt": "a fox", "mode": "pigeon"}, "mode: "),
        ({"prompt": "a fox", "provider": "openai"}, "for OpenAI use the submitter"),
        ({"prompt": "a fox", "mode": "sync"}, "for OpenAI use the submitter"),
        (["a fox"], "job: "),
    ],
)
def test_an_invalid_request_is_refused_with_every_mistake_and_nothing_is_posted(
    web: WebClient, sandbox: Sandbox, body: Any, named: str
) -> None:
    answer = posted(web, body)
    assert answer.status_code == 400
    assert named in answer.json["detail"]
    assert sandbox.stats()["accepted"] == 0


@pytest.mark.parametrize(
    "body", [b'{"prompt": "a\\u0000fox"}', b'{"prompt": "a fox", "params": {"x": "\\u0000"}}']
)
def test_a_text_with_nul_is_refused(web: WebClient, body: bytes) -> None:
    answer = web.client.post("/api/jobs", data=body, headers=web.admin)
    assert answer.status_code == 400
    assert "NUL" in answer.json["detail"]


def test_a_body_that_is_not_json_and_a_key_that_is_too_long_are_refused(web: WebClient) -> None:
    assert web.client.post("/api/jobs", data=b"{", headers=web.admin).status_code == 400
    assert posted(web, {"prompt": "a fox"}, **{"Idempotency-Key": "k" * 501}).status_code == 400


def test_a_job_posted_through_the_api_reaches_the_provider_with_its_ticket(
    web: WebClient, sandbox: Sandbox
) -> None:
    script = {"delay": 0, "callback": "lost"}
    answer = posted(
        web,
        {
            "prompt": "a fox",
            "model": "nano-banana",
            "size": "4K",
            "params": {"sandbox": script, "quality": "high"},
        },
    )
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/jobs/{answer.json['ref']}"
    assert (answer.json["state"], answer.json["model"]) == ("waiting", "nano-banana")
    (task,) = sandbox.tasks()
    assert task["id"] == answer.json["provider_id"]
    assert (task["request"]["imageSize"], task["request"]["quality"]) == ("4K", "high")
    assert web.services.tickets.ref(task["webhook"].rpartition("/")[2]) == answer.json["ref"]


def test_the_same_idempotency_key_gives_the_same_job(web: WebClient, sandbox: Sandbox) -> None:
    body = {"prompt": "a fox", "mode": "poll"}
    first = posted(web, body, **{"Idempotency-Key": "order-7"})
    again = posted(web, body, **{"Idempotency-Key": "order-7"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json["ref"] == again.json["ref"]
    assert sandbox.stats()["accepted"] == 1


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ({}, {"prompt": "a wolf"}, "other"),
        ({}, {"model": "nano-banana"}, "other"),
        ({}, {"model": "gpt-image-1.5", "variants": 1, "images": [], "params": {}}, "same"),
        ({}, {"size": "1:1"}, "other"),
        ({}, {"folder": "shop"}, "other"),
        ({}, {"mode": "stream", "batch": "b", "metadata": {"try": 2}}, "same"),
        ({"params": {"a": 1, "b": 2}}, {"params": {"b": 2.0, "a": 1}}, "same"),
        ({"params": {"a": 1}}, {"params": {"a": "1"}}, "other"),
        ({"params": {"a": 1}}, {"params": {"a": True}}, "other"),
        ({"images": [A_PICTURE, OTHER]}, {"images": [A_PICTURE, OTHER]}, "same"),
        ({"images": [A_PICTURE, OTHER]}, {"images": [OTHER, A_PICTURE]}, "other"),
        ({"images": [A_PICTURE]}, {"api": "api", "images": [A_PICTURE]}, "same"),
    ],
)
def test_a_key_is_for_one_request(
    first: dict[str, Any], second: dict[str, Any], verdict: str
) -> None:
    was, now = (
        GrsaiRequest.model_validate({"prompt": "a fox", "mode": "poll", **asked}).submission()
        for asked in (first, second)
    )
    assert (canonical_request(was) == canonical_request(now)) == (verdict == "same")


def test_the_same_key_with_another_request_is_a_conflict_in_api_and_library(
    web: WebClient, sandbox: Sandbox
) -> None:
    header = {"Idempotency-Key": "order-7"}
    first = posted(web, {"prompt": "a fox", "mode": "poll"}, **header).json["ref"]
    for body in ({"prompt": "a wolf"}, {"prompt": "a wolf", "key": "order-7"}):
        answer = posted(web, {**body, "mode": "poll"}, **({} if "key" in body else header))
        assert (answer.status_code, answer.json["title"]) == (409, "Conflict")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert f"belongs to job {first}, which was asked for something" in answer.json["detail"]
    differs = posted(web, {"prompt": "a fox", "key": "order-8"}, **header)
    assert (differs.status_code, "differs from" in differs.json["detail"]) == (409, True)
    with Submitter(web.services.settings, check=False) as submitter:
        assert submitter.submit("a fox", mode=Mode.POLL, key="order-7").ref == first
        with pytest.raises(KeyConflictError, match=first):
            submitter.submit("a wolf", mode=Mode.POLL, key="order-7")
    assert sandbox.stats()["accepted"] == 1


def test_of_concurrent_submits_with_one_idempotency_key_one_makes_the_job_and_all_return_it(
    web: WebClient, sandbox: Sandbox
) -> None:
    body, key = (
        {"prompt": "a fox", "mode": "poll", "params": {"sandbox": {"delay": 60}}},
        {"Idempotency-Key": "order-8"},
    )
    answers = side_by_side([lambda: posted(web, body, **key)] * 6)
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len({answer.json["ref"] for answer in answers}) == 1
    assert sandbox.stats()["accepted"] == 1


def test_a_missing_setting_is_409_and_named(services: Services) -> None:
    with web_client(services.settings.data_dir) as bare:
        answer = posted(bare, {"prompt": "a fox"})
    assert answer.status_code == 409
    assert "GRSAI_API_KEY: not set" in answer.json["detail"]
    assert "PUBLIC_URL: not set" in answer.json["detail"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused_before_anything_is_posted(
    services: Services, number: float
) -> None:
    with pytest.raises(ValidationError, match="not numbers in JSON"):
        JobRequest(prompt="a fox", params={"x": [number]})
    assert services.queries.jobs() == []


@pytest.mark.parametrize(
    "image",
    [
        "/etc/passwd",
        "a.png",
        "",
        "ftp://x.test/a.png",
        "data:text/html;base64,AAAA",
        "https://",
        "AAAABBBB",
    ],
)
def test_a_reference_image_that_is_neither_url_nor_picture_is_refused_before_it_is_paid_for(
    web: WebClient, sandbox: Sandbox, image: str
) -> None:
    answer = posted(
        web, {"prompt": "a fox", "mode": "poll", "images": ["https://x.test/a.png", image]}
    )
    assert answer.status_code == 400
    assert "images.1: " in answer.json["detail"]
    assert "give an http(s) URL or a data:image/… URL" in answer.json["detail"]
    assert sandbox.stats()["accepted"] == 0


def test_reference_images_reach_the_provider_unchanged(web: WebClient, sandbox: Sandbox) -> None:
    images = [
        "https://x.test/a.png?b=c",
        "data:image/png;base64,iVBORw0KGgo=",
        "iVBORw0KGgoAAAANSUhEUg==",
        "/9j/4AAQSkZJRg",
    ]
    assert posted(web, {"prompt": "a fox", "mode": "poll", "images": images}).status_code == 201
    (task,) = sandbox.tasks()
    assert task["request"]["urls"] == images
