"""The sandbox's answers to a submit: every endpoint, every reply of both generations, every refusal."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from submitter.sandbox import Sandbox

LEGACY = ["/v1/draw/completions", "/v1/draw/nano-banana", "/v1/video/sora-video", "/v1/video/veo"]
QUICK = {"delay": 0.05, "bytes": 30_000}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(keys={"sk-1", "sk-2"}, unknown_models={"veo3.1-fast"}, script=QUICK) as running:
        yield running


def post(sandbox: Sandbox, path: str, /, key: str = "sk-1", **fields: Any) -> requests.Response:
    body = {"model": "a-model", "prompt": "a fox", "size": "64x64"} | fields
    return requests.post(
        sandbox.url + path, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=10
    )


def events(answer: requests.Response) -> list[Any]:
    lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith(b"data: ") for line in lines)
    return [
        line[6:].decode() if line == b"data: [DONE]" else json.loads(line[6:]) for line in lines
    ]


def has_expired(sandbox: Sandbox, task_id: str) -> Any:
    """Read a legacy result until it is no longer running."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        body = post(sandbox, "/v1/draw/result", id=task_id).json()
        if body["data"] is None or body["data"]["status"] != "running":
            return body
    raise AssertionError(f"{task_id} is still running")


@pytest.mark.parametrize("path", LEGACY)
def test_the_legacy_id_reply_is_wrapped_and_the_result_is_read_back(
    sandbox: Sandbox, path: str
) -> None:
    answer = post(sandbox, path, webHook="-1")
    assert answer.status_code == 200
    assert answer.json().keys() == {"code", "msg", "data"}
    assert (answer.json()["code"], answer.json()["msg"], answer.json()["data"].keys()) == (
        0,
        "success",
        {"id"},
    )
    result = has_expired(sandbox, answer.json()["data"]["id"])
    assert (
        result["code"],
        result["msg"],
        result["data"]["status"],
        result["data"]["progress"],
    ) == (0, "success", "succeeded", 100)
    assert requests.get(result["data"]["url"], timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("path", "items", "top"),
    [
        ("/v1/draw/completions", {"url", "width", "height"}, {"width": 64, "height": 64}),
        ("/v1/draw/nano-banana", {"url", "content"}, {}),
        ("/v1/video/sora-video", {"url", "removeWatermark", "pid"}, {}),
        ("/v1/video/veo", None, {}),
    ],
)
def test_each_endpoint_has_its_own_result_items(
    sandbox: Sandbox, path: str, items: set[str] | None, top: dict[str, int]
) -> None:
    task = events(post(sandbox, path))[-2]
    assert task.items() >= {"status": "succeeded", "failure_reason": "", "error": "", **top}.items()
    if items is None:
        assert "results" not in task
        assert task["url"].endswith(".mp4")
    else:
        assert [item.keys() for item in task["results"]] == [items]
        assert task["url"] == task["results"][0]["url"]


@pytest.mark.parametrize("path", LEGACY)
def test_without_a_webhook_the_reply_is_a_stream_of_bare_tasks(sandbox: Sandbox, path: str) -> None:
    answer = post(sandbox, path, sandbox={"progress": 2, "delay": 0.3})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *running, last, done = events(answer)
    assert [(one["status"], one["progress"]) for one in running] == [
        ("running", 0),
        ("running", 33),
        ("running", 66),
    ]
    assert (last["status"], last["progress"], done) == ("succeeded", 100, "[DONE]")
    assert len({one["id"] for one in [*running, last]}) == 1


def test_the_newer_json_reply_waits_for_the_result(sandbox: Sandbox) -> None:
    started = time.monotonic()
    task = post(sandbox, "/v1/api/generate", replyType="json", sandbox={"delay": 0.2}).json()
    assert time.monotonic() - started >= 0.2
    assert task.keys() == {"id", "status", "progress", "results", "error"}
    assert (task["status"], len(task["results"])) == ("succeeded", 1)


def test_the_newer_stream_reply_ends_with_the_result(sandbox: Sandbox) -> None:
    *_, last, done = events(post(sandbox, "/v1/api/generate", replyType="stream"))
    assert (last["status"], done) == ("succeeded", "[DONE]")


def test_the_newer_async_reply_is_read_back_bare(sandbox: Sandbox) -> None:
    task = post(sandbox, "/v1/api/generate", replyType="async").json()
    assert task["status"] == "running"
    deadline = time.monotonic() + 10
    while task["status"] == "running" and time.monotonic() < deadline:
        url = f"{sandbox.url}/v1/api/result"
        task = requests.get(
            url, params={"id": task["id"]}, headers={"Authorization": "Bearer sk-2"}, timeout=10
        ).json()
    assert (task["status"], task["progress"]) == ("succeeded", 100)


@pytest.mark.parametrize(("asked", "number"), [({}, 1), ({"variants": 1}, 1), ({"variants": 2}, 2)])
def test_variants_are_as_many_results(sandbox: Sandbox, asked: dict[str, Any], number: int) -> None:
    task = events(post(sandbox, "/v1/draw/completions", **asked))[-2]
    digests = {requests.get(item["url"], timeout=10).content for item in task["results"]}
    assert len(task["results"]) == len(digests) == number


@pytest.mark.parametrize(
    ("fail", "reason", "newer"),
    [
        ("input_moderation", "input_moderation", "violation"),
        ("output_moderation", "output_moderation", "violation"),
        ("violation", "output_moderation", "violation"),
        ("error", "error", "failed"),
    ],
)
def test_a_failure_is_told_in_each_generations_own_words(
    sandbox: Sandbox, fail: str, reason: str, newer: str
) -> None:
    old = events(post(sandbox, "/v1/draw/completions", sandbox={"fail": fail}))[-2]
    assert (old["status"], old["failure_reason"], old["url"]) == ("failed", reason, "")
    assert old["error"]
    new = post(sandbox, "/v1/api/generate", sandbox={"fail": fail}).json()
    assert (new["status"], new["results"]) == (newer, None)
    assert new["error"]


@pytest.mark.parametrize("key", ["", "sk-3", " "])
def test_a_wrong_key_is_refused_with_401_in_each_dialect(sandbox: Sandbox, key: str) -> None:
    before = sandbox.stats()["accepted"]
    old, new = (
        post(sandbox, "/v1/draw/completions", key=key),
        post(sandbox, "/v1/api/generate", key=key),
    )
    assert (old.status_code, old.json()) == (
        401,
        {"code": -1, "msg": "invalid apikey", "data": None},
    )
    assert (new.status_code, new.json()) == (401, {"status": "failed", "error": "invalid apikey"})
    assert post(sandbox, "/v1/draw/result", key=key, id="x").status_code == 401
    assert sandbox.stats()["accepted"] == before


def test_any_key_will_do_unless_some_are_named() -> None:
    with Sandbox() as open_to_all:
        assert (
            post(open_to_all, "/v1/draw/completions", key="anything", webHook="-1").json()["code"]
            == 0
        )
        assert post(open_to_all, "/v1/draw/completions", key="", webHook="-1").status_code == 401


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sandbox": {"refuse": "insufficient credits"}}, "insufficient credits"),
        (
            {"sandbox": {"refuse": {"message": "apikey credits not enough"}}},
            "apikey credits not enough",
        ),
        ({"model": "no-such-model"}, "不存在该模型: no-such-model"),
        ({"model": "veo3.1-fast"}, "不存在该模型: veo3.1-fast"),
        ({"variants": 9}, "variants must be 1 or 2, not 9"),
        ({"sandbox": {"callbacks": "lost"}}, "sandbox.callbacks: Extra inputs are not permitted"),
    ],
)
def test_a_refusal_is_200_in_the_legacy_api_and_400_in_the_newer(
    sandbox: Sandbox, fields: dict[str, Any], message: str
) -> None:
    before = sandbox.stats()
    old, new = (
        post(sandbox, "/v1/draw/completions", **fields),
        post(sandbox, "/v1/api/generate", **fields),
    )
    assert (old.status_code, old.json()) == (200, {"code": -1, "msg": message, "data": None})
    assert (new.status_code, new.json()) == (400, {"status": "failed", "error": message})
    after = sandbox.stats()
    assert (after["refused"] - before["refused"], after["accepted"]) == (2, before["accepted"])


@pytest.mark.parametrize(
    ("status", "json_body"), [(401, True), (429, True), (500, False), (503, False)]
)
def test_a_refusal_may_have_another_status_and_from_500_on_no_json(
    sandbox: Sandbox,
    status: int,
    json_body: bool,  # noqa: FBT001 - a column of the table
) -> None:
    answer = post(sandbox, "/v1/draw/completions", sandbox={"refuse": status})
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith(
        "application/json" if json_body else "text/html"
    )


def test_a_body_that_is_not_json_is_refused(sandbox: Sandbox) -> None:
    headers = {"Authorization": "Bearer sk-1"}
    answer = requests.post(
        f"{sandbox.url}/v1/draw/completions", data=b"{", headers=headers, timeout=10
    )
    assert answer.json() == {"code": -1, "msg": "the body is not a JSON object", "data": None}


@pytest.mark.parametrize(
    ("mode", "statuses"),
    [
        ("ok", ["running", "succeeded", "[DONE]"]),
        ("no_done", ["running", "succeeded"]),
        ("cut", ["running"]),
    ],
)
def test_a_stream_ends_as_scripted_and_the_job_well(
    sandbox: Sandbox, mode: str, statuses: list[str]
) -> None:
    seen = events(post(sandbox, "/v1/draw/completions", sandbox={"stream": mode, "progress": 0}))
    assert [one if isinstance(one, str) else one["status"] for one in seen] == statuses
    assert has_expired(sandbox, seen[0]["id"])["data"]["status"] == "succeeded"


def test_a_hanging_stream_is_silent_after_its_first_event(sandbox: Sandbox) -> None:
    body = {
        "model": "m",
        "prompt": "p",
        "sandbox": {"stream": {"mode": "hang", "seconds": 5}, "delay": 0},
    }
    headers = {"Authorization": "Bearer sk-1"}
    url = f"{sandbox.url}/v1/draw/completions"
    with requests.post(url, json=body, headers=headers, stream=True, timeout=0.3) as answer:
        pieces = answer.iter_content(None)
        assert b'"running"' in next(pieces)
        with pytest.raises(requests.ConnectionError, match="Read timed out"):
            next(pieces)


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/draw/completions", 200), ("/v1/api/generate", 400)]
)
def test_a_stream_may_be_answered_by_an_error_in_json(
    sandbox: Sandbox, path: str, status: int
) -> None:
    answer = post(sandbox, path, replyType="stream", sandbox={"stream": "json_error"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert "the stream could not be opened" in answer.text


def test_a_lost_answer_leaves_an_accepted_job(sandbox: Sandbox) -> None:
    before = sandbox.stats()["accepted"]
    with pytest.raises(requests.ConnectionError):
        post(sandbox, "/v1/draw/completions", webHook="-1", sandbox={"answer": "lost"})
    assert sandbox.stats()["accepted"] == before + 1
    assert has_expired(sandbox, sandbox.tasks()[-1]["id"])["data"]["status"] == "succeeded"


def test_a_slow_answer_comes_late(sandbox: Sandbox) -> None:
    started = time.monotonic()
    assert (
        post(
            sandbox,
            "/v1/draw/completions",
            webHook="-1",
            sandbox={"answer": {"mode": "slow", "seconds": 0.25}},
        ).json()["code"]
        == 0
    )
    assert time.monotonic() - started >= 0.25


def test_unknown_fields_and_models_pass_and_are_shown(sandbox: Sandbox) -> None:
    post(
        sandbox,
        "/v1/draw/completions",
        model="of-next-month",
        webHook="-1",
        colour="red",
        urls=["data:image/png;base64," + "A" * 9000],
    )
    task = sandbox.tasks()[-1]
    assert (task["model"], task["prompt"], task["request"]["colour"], task["webhook"]) == (
        "of-next-month",
        "a fox",
        "red",
        None,
    )
    assert task["request"]["urls"][0].endswith("… (9022 characters)")
    assert "sk-1" not in json.dumps(task)


def test_stopping_lets_go_whoever_waits_for_a_result() -> None:
    with Sandbox() as running:
        body = {"model": "m", "prompt": "p", "sandbox": {"delay": 600}}
        headers = {"Authorization": "Bearer x"}
        answer = requests.post(
            f"{running.url}/v1/draw/completions",
            json=body,
            headers=headers,
            stream=True,
            timeout=10,
        )
        started = time.monotonic()
    assert time.monotonic() - started < 5
    with answer, pytest.raises(requests.exceptions.ChunkedEncodingError):
        b"".join(answer.iter_content(None))
