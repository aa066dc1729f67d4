"""Reading results back from the sandbox, its own pages, and its manners as an HTTP server."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from waiting import until

from submitter.sandbox import Sandbox
from submitter.sandbox.script import ScriptError

QUICK = {"delay": 0, "bytes": 30_000}
KEY = {"Authorization": "Bearer any"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(script=QUICK) as running:
        yield running


def submit(sandbox: Sandbox, /, **script: Any) -> str:
    """Have one picture made and give the task's id."""
    body = {"model": "m", "prompt": "a fox", "size": "64x64", "webHook": "-1", "sandbox": script}
    task_id: str = requests.post(
        f"{sandbox.url}/v1/draw/completions", json=body, headers=KEY, timeout=10
    ).json()["data"]["id"]
    until(lambda: sandbox.task(task_id)["status"] != "running" or script.get("delay", 0) > 1)
    return task_id


def legacy(sandbox: Sandbox, task_id: object) -> requests.Response:
    return requests.post(
        f"{sandbox.url}/v1/draw/result", json={"id": task_id}, headers=KEY, timeout=10
    )


def newer(sandbox: Sandbox, task_id: str) -> requests.Response:
    return requests.get(
        f"{sandbox.url}/v1/api/result", params={"id": task_id}, headers=KEY, timeout=10
    )


@pytest.mark.parametrize("task_id", ["unknown", "", None, 7, ["x"]])
def test_an_unknown_id_is_minus_22(sandbox: Sandbox, task_id: object) -> None:
    answer = legacy(sandbox, task_id)
    assert (answer.status_code, answer.json()) == (
        200,
        {"code": -22, "msg": "task not found", "data": None},
    )


def test_an_unknown_id_is_refused_by_the_newer_api(sandbox: Sandbox) -> None:
    answer = newer(sandbox, "unknown")
    assert (answer.status_code, answer.json()) == (
        400,
        {"status": "failed", "error": "task not found"},
    )


def test_while_it_runs_a_task_shows_its_progress_and_no_url(sandbox: Sandbox) -> None:
    body = legacy(sandbox, submit(sandbox, delay=600)).json()
    assert body["code"] == 0
    assert (
        body["data"].items()
        >= {
            "status": "running",
            "url": "",
            "results": None,
            "progress": 0,
            "failure_reason": "",
        }.items()
    )


def test_a_failed_task_can_be_read(sandbox: Sandbox) -> None:
    data = legacy(sandbox, submit(sandbox, fail="input_moderation")).json()["data"]
    assert (data["status"], data["failure_reason"]) == ("failed", "input_moderation")


def test_a_task_gone_from_the_result_is_minus_22_for_good(sandbox: Sandbox) -> None:
    task_id = submit(sandbox, result="gone")
    assert [legacy(sandbox, task_id).json()["code"] for _ in range(3)] == [-22, -22, -22]


def test_a_task_may_not_be_known_yet(sandbox: Sandbox) -> None:
    task_id = submit(sandbox, result={"mode": "gone", "times": 2})
    assert [legacy(sandbox, task_id).json()["code"] for _ in range(3)] == [-22, -22, 0]


def test_a_gateway_answers_in_html_before_the_result_comes(sandbox: Sandbox) -> None:
    task_id = submit(sandbox, result={"mode": "gateway", "times": 2})
    answers = [legacy(sandbox, task_id) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [502, 502, 200]
    assert answers[0].headers["Content-Type"].startswith("text/html")
    assert sandbox.task(task_id)["results_asked"] == 3


def test_a_success_may_come_without_any_url(sandbox: Sandbox) -> None:
    task_id = submit(sandbox, result={"mode": "no_url", "times": 1})
    without, found = (legacy(sandbox, task_id).json()["data"] for _ in range(2))
    assert (without["status"], without["url"], without["results"]) == ("succeeded", "", [])
    assert found["url"] == found["results"][0]["url"] != ""


def test_a_stream_may_end_in_a_success_without_url(sandbox: Sandbox) -> None:
    body = {"model": "m", "prompt": "a fox", "sandbox": {"result": "no_url"}}
    answer = requests.post(f"{sandbox.url}/v1/draw/completions", json=body, headers=KEY, timeout=10)
    assert '"succeeded"' in answer.text
    assert "/file/" not in answer.text


def test_one_task_is_shown_with_all_that_is_known_of_it(sandbox: Sandbox) -> None:
    task_id = submit(sandbox)
    shown = requests.get(f"{sandbox.url}/sandbox/tasks/{task_id}", timeout=10).json()
    assert shown == sandbox.task(task_id)
    assert shown.keys() == {
        *(
            "id",
            "model",
            "prompt",
            "status",
            "progress",
            "reply",
            "webhook",
            "request",
            "submits",
            "submitted_at",
            "finished_at",
        ),
        *("results_asked", "files", "callbacks", "callbacks_due"),
    }
    assert shown["request"]["webHook"] == "-1"
    assert len(shown["files"][0]["sha256"]) == 64


def test_an_unknown_task_has_no_page(sandbox: Sandbox) -> None:
    assert requests.get(f"{sandbox.url}/sandbox/tasks/unknown", timeout=10).status_code == 404
    with pytest.raises(KeyError):
        sandbox.task("unknown")


def test_tasks_are_listed_oldest_first_in_pages(sandbox: Sandbox) -> None:
    made = [submit(sandbox) for _ in range(3)]
    every = requests.get(f"{sandbox.url}/sandbox/tasks", timeout=10).json()
    assert [task["id"] for task in every["tasks"]][-3:] == made
    html_page = requests.get(
        f"{sandbox.url}/sandbox/tasks", params={"skip": every["total"] - 2, "limit": 1}, timeout=10
    ).json()
    assert [task["id"] for task in html_page["tasks"]] == [made[1]]


def test_the_statistics_count_what_was_asked_of_the_sandbox() -> None:
    with Sandbox(script=QUICK) as fresh:
        task_id = submit(fresh)
        submit(fresh)
        requests.get(legacy(fresh, task_id).json()["data"]["url"], timeout=10)
        requests.post(f"{fresh.url}/v1/draw/completions", json={}, headers=KEY, timeout=10)
        requests.post(f"{fresh.url}/v1/draw/completions", json={}, timeout=10)
        shown = requests.get(f"{fresh.url}/sandbox/stats", timeout=10).json()
        assert shown == fresh.stats()
        assert shown == {
            "accepted": 2,
            "refused": 1,
            "unauthorized": 1,
            "results_asked": 1,
            "file_gets": 1,
            "tasks": 2,
            "running": 0,
            "callbacks": 0,
            "callbacks_due": 0,
        }


def test_file_urls_may_begin_with_another_name() -> None:
    with Sandbox(script=QUICK, public_url="http://files.example:8788/") as named:
        url = legacy(named, submit(named)).json()["data"]["url"]
        assert url.startswith("http://files.example:8788/file/")


def test_few_looks_still_make_files_that_differ() -> None:
    with Sandbox(script=QUICK, looks=1) as plain:
        digests = {plain.task(submit(plain))["files"][0]["sha256"] for _ in range(4)}
        assert len(digests) == 4


def test_a_wrong_script_for_all_jobs_is_told_at_once() -> None:
    with pytest.raises(ScriptError, match=r"sandbox\.dealy"):
        Sandbox(script={"dealy": 1})


def test_a_port_that_is_taken_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="in use"):
        Sandbox(port=sandbox.port)


def test_one_connection_carries_many_requests(sandbox: Sandbox) -> None:
    with requests.Session() as session:
        for _ in range(3):
            assert (
                session.get(f"{sandbox.url}/sandbox/stats", timeout=10).headers.get("Connection")
                != "close"
            )


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/draw/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /v1/draw/completions HTTP/1.1\r\nContent-Length: many\r\n\r\n", b"413"),
        (b"GET /v1/draw/completions HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n", b"405"),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", b"404"),
        (b"HEAD /sandbox/stats HTTP/1.1\r\n\r\n", b"200"),
        (b"BREW /pot HTTP/1.1\r\n\r\n", b"501"),
    ],
)
def test_odd_requests_are_answered_in_http(sandbox: Sandbox, head: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(64).split()[1] == status


def test_stopping_cuts_idle_connections_and_may_be_repeated() -> None:
    before = set(threading.enumerate())
    running = Sandbox()
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as idle:
        idle.sendall(b"GET /sandbox/stats HTTP/1.1\r\n\r\n")
        assert idle.recv(10_000).startswith(b"HTTP/1.1 200")
        running.stop()
        running.stop()
        assert idle.recv(10) == b""
    assert not set(threading.enumerate()) - before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), timeout=10)
