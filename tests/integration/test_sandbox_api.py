"""The sandbox's API: submits, results and refusals of both generations, and its own pages."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from typing import IO, Any

import pytest
import requests
from click.testing import CliRunner
from processes import python
from waiting import until

from submitter.sandbox import Sandbox
from submitter.sandbox.command import sandbox as command

LEGACY, NEWER = "/v1/draw/completions", "/v1/api/generate"
QUICK = {"delay": 0.05, "bytes": 30_000}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(keys={"sk-1", "sk-2"}, script=QUICK) as running:
        yield running


def post(
    sandbox: Sandbox, path: str = LEGACY, /, key: str = "sk-1", **fields: Any
) -> requests.Response:
    body = {"model": "a-model", "prompt": "a fox", "size": "64x64"} | fields
    headers = {"Authorization": f"Bearer {key}"}
    return requests.post(sandbox.url + path, json=body, headers=headers, timeout=10)


def submit(sandbox: Sandbox, /, **script: Any) -> str:
    """Submit a job without a webHook; return its id."""
    task_id: str = post(sandbox, webHook="-1", sandbox=script).json()["data"]["id"]
    return task_id


def read(sandbox: Sandbox, task_id: object) -> Any:
    answer = post(sandbox, "/v1/draw/result", id=task_id)
    return answer.json() if answer.headers["Content-Type"] == "application/json" else answer


def ended(sandbox: Sandbox, task_id: str) -> Any:
    """Wait until the task has ended; return its result."""
    until(lambda: sandbox.task(task_id)["status"] != "running")
    return read(sandbox, task_id)["data"]


def events(answer: requests.Response) -> list[Any]:
    lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith(b"data: ") for line in lines)
    return [
        line[6:].decode() if line == b"data: [DONE]" else json.loads(line[6:]) for line in lines
    ]


# Submits and results.


def test_the_legacy_id_reply_is_wrapped_and_the_result_is_read_back(sandbox: Sandbox) -> None:
    answer = post(sandbox, webHook="-1").json()
    assert (answer["code"], answer["msg"], answer["data"].keys()) == (0, "success", {"id"})
    result = ended(sandbox, answer["data"]["id"])
    assert (result["status"], result["progress"]) == ("succeeded", 100)
    assert requests.get(result["url"], timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("path", "items", "top"),
    [
        (LEGACY, {"url", "width", "height"}, {"width": 64, "height": 64}),
        ("/v1/draw/nano-banana", {"url", "content"}, {}),
        ("/v1/video/sora-video", {"url", "removeWatermark", "pid"}, {}),
        ("/v1/video/veo", None, {}),
    ],
)
def test_each_legacy_endpoint_streams_its_own_result_items(
    sandbox: Sandbox, path: str, items: set[str] | None, top: dict[str, int]
) -> None:
    answer = post(sandbox, path, sandbox={"progress": 2, "delay": 0.3})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *running, task, done = events(answer)
    assert [one["progress"] for one in running] == [0, 33, 66]
    assert {one["status"] for one in running} == {"running"}
    assert {one["id"] for one in running} == {task["id"]}
    assert task.items() >= {"status": "succeeded", "failure_reason": "", "error": "", **top}.items()
    assert done == "[DONE]"
    if items is None:
        assert "results" not in task
    else:
        assert [item.keys() for item in task["results"]] == [items]
        assert task["url"] == task["results"][0]["url"]


def test_the_newer_api_replies_with_the_result_a_stream_or_an_id(sandbox: Sandbox) -> None:
    task = post(sandbox, NEWER).json()
    assert task.keys() == {"id", "status", "progress", "results", "error"}
    assert (task["status"], len(task["results"])) == ("succeeded", 1)
    *_, last, done = events(post(sandbox, NEWER, replyType="stream"))
    assert (last["status"], done) == ("succeeded", "[DONE]")
    task = post(sandbox, NEWER, replyType="async").json()
    assert task["status"] == "running"
    ended(sandbox, task["id"])
    url, headers = f"{sandbox.url}/v1/api/result", {"Authorization": "Bearer sk-2"}
    task = requests.get(url, params={"id": task["id"]}, headers=headers, timeout=10).json()
    assert (task["status"], task["progress"]) == ("succeeded", 100)


def test_variants_are_as_many_results(sandbox: Sandbox) -> None:
    task = events(post(sandbox, variants=2))[-2]
    assert len({requests.get(item["url"], timeout=10).content for item in task["results"]}) == 2


@pytest.mark.parametrize(
    ("fail", "reason", "newer"),
    [("violation", "output_moderation", "violation"), ("error", "error", "failed")],
)
def test_a_failure_has_the_words_of_its_generation(
    sandbox: Sandbox, fail: str, reason: str, newer: str
) -> None:
    old = ended(sandbox, submit(sandbox, fail=fail))
    assert (old["status"], old["failure_reason"], old["url"]) == ("failed", reason, "")
    new = post(sandbox, NEWER, sandbox={"fail": fail}).json()
    assert (new["status"], new["results"]) == (newer, None)
    assert old["error"] == new["error"] != ""


def test_an_unknown_id_is_minus_22_and_a_refusal_in_the_newer_api(sandbox: Sandbox) -> None:
    for task_id in ("unknown", "", None, 7, ["x"]):
        assert read(sandbox, task_id) == {"code": -22, "msg": "task not found", "data": None}
    url, headers = f"{sandbox.url}/v1/api/result?id=unknown", {"Authorization": "Bearer sk-2"}
    answer = requests.get(url, headers=headers, timeout=10)
    refusal = {"status": "failed", "error": "task not found"}
    assert (answer.status_code, answer.json()) == (400, refusal)


def test_a_running_task_has_progress_and_no_url(sandbox: Sandbox) -> None:
    data = read(sandbox, submit(sandbox, delay=600))["data"]
    running = {"status": "running", "url": "", "results": None, "progress": 0}
    assert data.items() >= running.items()


# Refusals.


def test_a_wrong_key_is_refused_with_401_in_each_dialect(sandbox: Sandbox) -> None:
    before = sandbox.stats()["accepted"]
    for key in ("", "sk-3"):
        old, new = post(sandbox, key=key), post(sandbox, NEWER, key=key)
        legacy = {"code": -1, "msg": "invalid apikey", "data": None}
        assert (old.status_code, old.json()) == (401, legacy)
        newer = {"status": "failed", "error": "invalid apikey"}
        assert (new.status_code, new.json()) == (401, newer)
    assert sandbox.stats()["accepted"] == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sandbox": {"refuse": "insufficient credits"}}, "insufficient credits"),
        ({"model": "no-such-model"}, "不存在该模型: no-such-model"),
    ],
)
def test_a_refusal_is_200_in_the_legacy_api_and_400_in_the_newer(
    sandbox: Sandbox, fields: dict[str, Any], message: str
) -> None:
    before = sandbox.stats()
    old, new = post(sandbox, **fields), post(sandbox, NEWER, **fields)
    assert (old.status_code, old.json()) == (200, {"code": -1, "msg": message, "data": None})
    assert (new.status_code, new.json()) == (400, {"status": "failed", "error": message})
    after = sandbox.stats()
    assert (after["refused"] - before["refused"], after["accepted"]) == (2, before["accepted"])


@pytest.mark.parametrize(("status", "kind"), [(429, "application/json"), (503, "text/html")])
def test_a_refusal_may_have_another_status_and_from_500_on_no_json(
    sandbox: Sandbox, status: int, kind: str
) -> None:
    answer = post(sandbox, sandbox={"refuse": status})
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (status, kind)


# Faults of results, streams and answers.


def test_a_result_may_be_gone_or_not_known_yet(sandbox: Sandbox) -> None:
    gone = submit(sandbox, result="gone")
    assert [read(sandbox, gone)["code"] for _ in range(3)] == [-22, -22, -22]
    late = submit(sandbox, result={"mode": "gone", "times": 2})
    assert [read(sandbox, late)["code"] for _ in range(3)] == [-22, -22, 0]


def test_a_gateway_answers_in_html_before_the_result_comes(sandbox: Sandbox) -> None:
    task_id = submit(sandbox, result="gateway")
    assert read(sandbox, task_id).status_code == 502
    assert read(sandbox, task_id)["code"] == 0
    assert sandbox.task(task_id)["results_asked"] == 2


def test_a_success_may_come_without_any_url(sandbox: Sandbox) -> None:
    task_id = submit(sandbox, delay=0, result={"mode": "no_url", "times": 1})
    until(lambda: sandbox.task(task_id)["status"] == "succeeded")
    without, found = (read(sandbox, task_id)["data"] for _ in range(2))
    assert (without["status"], without["url"], without["results"]) == ("succeeded", "", [])
    assert found["url"] == found["results"][0]["url"] != ""
    assert "/file/" not in post(sandbox, sandbox={"result": "no_url"}).text


@pytest.mark.parametrize(
    ("mode", "statuses"), [("no_done", ["running", "succeeded"]), ("cut", ["running"])]
)
def test_a_stream_may_end_early_and_the_job_succeeds(
    sandbox: Sandbox, mode: str, statuses: list[str]
) -> None:
    seen = events(post(sandbox, sandbox={"stream": mode, "progress": 0}))
    assert [one["status"] for one in seen] == statuses
    assert ended(sandbox, seen[0]["id"])["status"] == "succeeded"


def test_a_stream_may_hang_after_its_first_event(sandbox: Sandbox) -> None:
    script = {"stream": {"mode": "hang", "seconds": 5}, "delay": 0}
    body = {"model": "m", "prompt": "p", "sandbox": script}
    headers = {"Authorization": "Bearer sk-1"}
    url = f"{sandbox.url}{LEGACY}"
    with requests.post(url, json=body, headers=headers, stream=True, timeout=0.3) as answer:
        pieces = answer.iter_content(None)
        assert b'"running"' in next(pieces)
        with pytest.raises(requests.ConnectionError, match="Read timed out"):
            next(pieces)


def test_a_stream_may_be_answered_by_an_error_in_json(sandbox: Sandbox) -> None:
    for path, status in ((LEGACY, 200), (NEWER, 400)):
        answer = post(sandbox, path, replyType="stream", sandbox={"stream": "json_error"})
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
        assert "the stream could not be opened" in answer.text


def test_an_answer_may_be_lost_or_late_and_the_job_is_accepted(sandbox: Sandbox) -> None:
    before = sandbox.stats()["accepted"]
    with pytest.raises(requests.ConnectionError):
        submit(sandbox, answer="lost")
    assert sandbox.stats()["accepted"] == before + 1
    assert ended(sandbox, sandbox.tasks()[-1]["id"])["status"] == "succeeded"
    answer = post(sandbox, webHook="-1", sandbox={"answer": {"mode": "slow", "seconds": 0.25}})
    assert answer.elapsed.total_seconds() >= 0.25
    assert answer.json()["code"] == 0


# The pages of /sandbox, and the server.


def test_a_task_is_shown_with_unknown_fields_and_without_the_key(sandbox: Sandbox) -> None:
    image = "data:image/png;base64," + "A" * 9000
    task_id = post(sandbox, webHook="-1", colour="red", urls=[image]).json()["data"]["id"]
    ended(sandbox, task_id)
    shown = requests.get(f"{sandbox.url}/sandbox/tasks/{task_id}", timeout=10).json()
    assert shown == sandbox.task(task_id)
    assert (shown["model"], shown["prompt"], shown["webhook"]) == ("a-model", "a fox", None)
    assert (shown["request"]["colour"], len(shown["files"][0]["sha256"])) == ("red", 64)
    assert shown["request"]["urls"][0].endswith("… (9022 characters)")
    assert "sk-1" not in json.dumps(shown)
    assert requests.get(f"{sandbox.url}/sandbox/tasks/unknown", timeout=10).status_code == 404


def test_tasks_are_listed_oldest_first_in_pages(sandbox: Sandbox) -> None:
    made = [submit(sandbox) for _ in range(3)]
    listing = f"{sandbox.url}/sandbox/tasks"
    every = requests.get(listing, timeout=10).json()
    assert [task["id"] for task in every["tasks"]][-3:] == made
    page = requests.get(f"{listing}?limit=1&skip={every['total'] - 2}", timeout=10).json()
    assert [task["id"] for task in page["tasks"]] == [made[1]]


def test_the_statistics_count_requests_and_tasks() -> None:
    with Sandbox(script=QUICK, public_url="http://files.example:8788/") as fresh:
        url = ended(fresh, submit(fresh))["url"]
        assert url.startswith("http://files.example:8788/file/")
        requests.get(url.replace("http://files.example:8788", fresh.url), timeout=10)
        post(fresh, prompt="")
        post(fresh, key="")
        shown = requests.get(f"{fresh.url}/sandbox/stats", timeout=10).json()
        assert shown == fresh.stats()
        assert shown == {
            "accepted": 1,
            "refused": 1,
            "unauthorized": 1,
            "results_asked": 1,
            "file_gets": 1,
            "tasks": 1,
            "running": 0,
            "callbacks": 0,
            "callbacks_due": 0,
        }


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/draw/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", b"404"),
    ],
)
def test_odd_requests_are_answered_in_http(sandbox: Sandbox, head: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(64).split()[1] == status


def test_stopping_ends_waiting_requests_and_idle_connections() -> None:
    before = set(threading.enumerate())
    running = Sandbox()
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as idle:
        idle.sendall(b"GET /sandbox/stats HTTP/1.1\r\n\r\n")
        assert idle.recv(10_000).startswith(b"HTTP/1.1 200")
        body = {"model": "m", "prompt": "p", "sandbox": {"delay": 600}}
        headers = {"Authorization": "Bearer x"}
        answer = requests.post(
            f"{running.url}{LEGACY}", json=body, headers=headers, stream=True, timeout=10
        )
        running.stop()
        running.stop()
        assert idle.recv(10) == b""
    with answer, pytest.raises(requests.exceptions.ChunkedEncodingError):
        b"".join(answer.iter_content(None))
    assert not set(threading.enumerate()) - before


# The command.


def line(output: IO[bytes]) -> str:
    return output.readline().decode().strip()


def test_the_command_serves_until_a_signal() -> None:
    start = "from submitter.sandbox.command import sandbox; sandbox()"
    options = ["--key", "sk-1", "--script", '{"delay": 0}', "--url-lifetime", "60", "--looks", "3"]
    with python("-c", start, "--port", "0", *options) as process:
        url = line(process.stdout)
        assert line(process.stdout).startswith("# Paste these lines")
        assert [line(process.stdout) for _ in range(4)] == [
            f"export GRSAI_BASE_URL={url}",
            "export GRSAI_API_KEY=sk-1",
            f"export FETCH_ALLOW={url.removeprefix('http://')}",
            "export PUBLIC_URL=http://127.0.0.1:8787",
        ]
        assert requests.get(f"{url}/sandbox/stats", timeout=10).status_code == 200
        process.process.send_signal(signal.SIGTERM)
        end = process.ended()
    assert (end.status, end.err) == (0, "")


def test_the_command_explains_wrong_options_and_a_taken_port(sandbox: Sandbox) -> None:
    wrong = {
        ("--script", "{"): "not JSON",
        ("--script", "[]"): "not a JSON object",
        ("--script", '{"dealy": 1}'): "sandbox.dealy: Extra inputs",
        ("--looks", "0"): "--looks",
        ("--port", str(sandbox.port)): "in use",
    }
    for options, text in wrong.items():
        result = CliRunner().invoke(command, ["--port", "0", *options])
        assert (result.exit_code, text in result.output) == (2, True), result.output
