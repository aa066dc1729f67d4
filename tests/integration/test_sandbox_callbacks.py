"""The sandbox's reports to a webHook on a real socket: in order, repeated, late, forged."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from waiting import until

from submitter.sandbox import Sandbox

QUICK = {"delay": 0.05, "bytes": 30_000}
NO_PROGRESS = {"progress": 0}


class WebHook(ThreadingHTTPServer):
    """Keeps every report and answers with its ``statuses`` in turn, then with the last one."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Incoming)
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.statuses = [200]
        self.meeting: threading.Barrier | None = None
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/callback/ticketA"

    def reports(self) -> list[tuple[str, int]]:
        return [(body["status"], body["progress"]) for _, body in self.received]

    def paths(self) -> list[str]:
        return [path for path, _ in self.received]


class Incoming(BaseHTTPRequestHandler):
    """One connection to the webHook."""

    server: WebHook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.received.append((self.path, body))
            statuses = self.server.statuses
            status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        if self.server.meeting:
            self.server.meeting.wait(10)
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(script=QUICK) as running:
        yield running


@pytest.fixture
def webhook() -> Iterator[WebHook]:
    with WebHook() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def submit(
    sandbox: Sandbox, webhook: WebHook, /, path: str = "/v1/draw/completions", **fields: Any
) -> str:
    """Submit a job and return its id."""
    body = {"model": "m", "prompt": "a fox", "size": "64x64", "webHook": webhook.url} | fields
    answer = requests.post(
        sandbox.url + path, json=body, headers={"Authorization": "Bearer any"}, timeout=10
    ).json()
    assert (answer["code"], answer["msg"]) == (0, "success")
    return str(answer["data"]["id"])


def reported(sandbox: Sandbox, task_id: str) -> dict[str, Any]:
    """Wait until every report of a task was sent; return the task."""

    def is_done() -> bool:
        task = sandbox.task(task_id)
        return task["status"] != "running" and not task["callbacks_due"]

    until(is_done)
    return sandbox.task(task_id)


def test_the_result_is_reported_bare_and_every_attempt_recorded(
    sandbox: Sandbox, webhook: WebHook
) -> None:
    task = reported(sandbox, submit(sandbox, webhook))
    assert webhook.reports() == [("running", 50), ("succeeded", 100)]
    url = task["files"][0]["url"]
    assert webhook.received[-1] == (
        "/callback/ticketA",
        {
            "id": task["id"],
            "url": url,
            "progress": 100,
            "status": "succeeded",
            "width": 64,
            "height": 64,
            "results": [{"url": url, "width": 64, "height": 64}],
            "failure_reason": "",
            "error": "",
        },
    )
    assert [(one["kind"], one["status"]) for one in task["callbacks"]] == [
        ("running", 200),
        ("succeeded", 200),
    ]
    assert all(one["at"] >= task["submitted_at"] for one in task["callbacks"])
    assert all(0 < one["latency"] < 5 for one in task["callbacks"])


def test_shut_progress_leaves_only_the_final_report(sandbox: Sandbox, webhook: WebHook) -> None:
    path = "/v1/video/veo"
    reported(sandbox, submit(sandbox, webhook, path, shutProgress=True, sandbox={"progress": 5}))
    assert webhook.reports() == [("succeeded", 100)]


@pytest.mark.parametrize(
    ("script", "reports"),
    [
        ({"progress": 2, "delay": 0}, [("running", 33), ("running", 66), ("succeeded", 100)]),
        (
            NO_PROGRESS | {"callback": {"mode": "duplicate", "times": 3, "together": False}},
            [("succeeded", 100)] * 3,
        ),
        (NO_PROGRESS | {"callback": "reorder"}, [("succeeded", 100), ("running", 50)]),
        ({"callback": "lost"}, []),
    ],
)
def test_the_reports_are_those_of_the_script(
    sandbox: Sandbox, webhook: WebHook, script: dict[str, Any], reports: list[tuple[str, int]]
) -> None:
    task = reported(sandbox, submit(sandbox, webhook, sandbox=script))
    assert webhook.reports() == reports
    assert task["status"] == "succeeded"


def test_a_failure_is_reported_with_its_reason(sandbox: Sandbox, webhook: WebHook) -> None:
    script = NO_PROGRESS | {"fail": "output_moderation"}
    reported(sandbox, submit(sandbox, webhook, sandbox=script))
    (_, body) = webhook.received[0]
    found = (body["status"], body["failure_reason"], body["url"], body["results"])
    assert found == ("failed", "output_moderation", "", None)


def test_duplicates_together_are_sent_in_parallel(sandbox: Sandbox, webhook: WebHook) -> None:
    webhook.meeting = threading.Barrier(8)  # none is answered before all eight have arrived
    script = NO_PROGRESS | {"callback": {"mode": "duplicate", "times": 8}}
    task = reported(sandbox, submit(sandbox, webhook, sandbox=script))
    assert [one["status"] for one in task["callbacks"]] == [200] * 8


def test_a_late_report_comes_after_the_result_can_be_read(
    sandbox: Sandbox, webhook: WebHook
) -> None:
    script = NO_PROGRESS | {"callback": {"mode": "late", "seconds": 0.3}}
    task_id = submit(sandbox, webhook, sandbox=script)
    until(lambda: sandbox.task(task_id)["status"] == "succeeded")
    task = reported(sandbox, task_id)
    assert task["callbacks"][0]["at"] - task["finished_at"] >= 0.3


def test_an_early_report_is_sent_before_the_submit_is_answered(
    sandbox: Sandbox, webhook: WebHook
) -> None:
    task_id = submit(sandbox, webhook, sandbox={"delay": 60, "callback": "early"})
    assert webhook.reports() == [("succeeded", 100)]
    assert webhook.received[0][1]["id"] == task_id


def test_a_forged_report_comes_first_and_with_a_wrong_ticket(
    sandbox: Sandbox, webhook: WebHook
) -> None:
    script = NO_PROGRESS | {"callback": "forged"}
    reported(sandbox, submit(sandbox, webhook, sandbox=script))
    assert webhook.paths() == ["/callback/ticketz", "/callback/ticketA"]
    assert webhook.received[0][1] == webhook.received[1][1]


def test_a_contradiction_follows_the_result_and_the_result_stays(
    sandbox: Sandbox, webhook: WebHook
) -> None:
    script = NO_PROGRESS | {"callback": "contradiction"}
    task = reported(sandbox, submit(sandbox, webhook, sandbox=script))
    assert task["status"] == "succeeded"
    assert [status for status, _ in webhook.reports()] == ["succeeded", "failed"]


@pytest.mark.parametrize("status", [307, 503])
def test_a_report_is_neither_repeated_nor_redirected(
    sandbox: Sandbox, webhook: WebHook, status: int
) -> None:
    webhook.statuses = [status]
    task = reported(sandbox, submit(sandbox, webhook, sandbox=NO_PROGRESS))
    assert [(one["status"], one["error"]) for one in task["callbacks"]] == [(status, "")]
    assert webhook.paths() == ["/callback/ticketA"]


@pytest.mark.parametrize("mode", ["once", "duplicate"])
def test_a_report_is_repeated_as_often_as_the_script_wants(
    sandbox: Sandbox, webhook: WebHook, mode: str
) -> None:
    webhook.statuses = [500]
    callback = {"mode": mode, "times": 1, "retries": 2, "pause": 0.01}
    script = NO_PROGRESS | {"callback": callback}
    task = reported(sandbox, submit(sandbox, webhook, sandbox=script))
    assert [one["status"] for one in task["callbacks"]] == [500, 500, 500]


def test_a_report_without_an_answer_is_recorded_with_its_error(
    sandbox: Sandbox, webhook: WebHook
) -> None:
    closed = "http://127.0.0.1:1/callback/x"
    task = reported(sandbox, submit(sandbox, webhook, webHook=closed, sandbox=NO_PROGRESS))
    (attempt,) = task["callbacks"]
    assert attempt["status"] is None
    assert attempt["error"].startswith("ConnectionError: ")


def test_a_job_posted_twice_is_counted(sandbox: Sandbox, webhook: WebHook) -> None:
    first, second = (submit(sandbox, webhook, sandbox={"callback": "lost"}) for _ in range(2))
    assert sandbox.task(first)["submits"] == sandbox.task(second)["submits"] == 2
    listed = requests.get(
        f"{sandbox.url}/sandbox/tasks", params={"webhook": webhook.url}, timeout=10
    ).json()
    assert [task["id"] for task in listed["tasks"]] == [first, second]


def test_after_stop_nothing_is_sent_and_no_thread_is_left(webhook: WebHook) -> None:
    before = set(threading.enumerate())
    with Sandbox() as running:
        submit(running, webhook, sandbox={"delay": 60, "progress": 0})
    assert not set(threading.enumerate()) - before
    assert webhook.received == []
