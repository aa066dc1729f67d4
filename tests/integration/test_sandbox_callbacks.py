"""The sandbox's reports to a webHook, received on a real socket: in order, twice, late, never, forged and contradicted."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from waiting import until

from submitter.sandbox import Sandbox

QUICK = {"delay": 0.05, "bytes": 30_000}


@dataclass
class Received:
    """One callback as it arrived."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)


class Receiver(ThreadingHTTPServer):
    """Keeps every callback and answers with the statuses it was given, the last one for ever."""

    daemon_threads = False
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Incoming)
        self.received: list[Received] = []
        self.statuses = [200]
        self.busy = self.most_busy = 0
        self.meet: threading.Barrier | None = None
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/callback/ticketA"

    def reports(self) -> list[tuple[str, int]]:
        return [(one.body["status"], one.body["progress"]) for one in self.received]


class Incoming(BaseHTTPRequestHandler):
    """One connection to the receiver."""

    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.received.append(Received(self.path, body, dict(self.headers)))
            status = (
                self.server.statuses.pop(0)
                if len(self.server.statuses) > 1
                else self.server.statuses[0]
            )
        if self.server.meet:
            self.server.meet.wait(10)
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
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def submit(
    sandbox: Sandbox, receiver: Receiver, /, path: str = "/v1/draw/completions", **fields: Any
) -> str:
    """Submit a job and give its id."""
    body = {"model": "m", "prompt": "a fox", "size": "64x64", "webHook": receiver.url} | fields
    answer = requests.post(
        sandbox.url + path, json=body, headers={"Authorization": "Bearer any"}, timeout=10
    ).json()
    assert (answer["code"], answer["msg"]) == (0, "success")
    return str(answer["data"]["id"])


def reported(sandbox: Sandbox, task_id: str) -> dict[str, Any]:
    """Wait until everything about a task was sent, and give it."""
    until(
        lambda: (
            sandbox.task(task_id)["status"] != "running"
            and not sandbox.task(task_id)["callbacks_due"]
        )
    )
    return sandbox.task(task_id)


def test_the_result_is_reported_bare_and_matches_the_submit(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    task_id = submit(sandbox, receiver)
    task = reported(sandbox, task_id)
    assert receiver.reports() == [("running", 50), ("succeeded", 100)]
    last = receiver.received[-1]
    assert (last.path, last.headers["Content-Type"]) == ("/callback/ticketA", "application/json")
    assert last.body == {
        "id": task_id,
        "url": task["files"][0]["url"],
        "progress": 100,
        "status": "succeeded",
        "width": 64,
        "height": 64,
        "results": [{"url": task["files"][0]["url"], "width": 64, "height": 64}],
        "failure_reason": "",
        "error": "",
    }


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            "/v1/draw/completions",
            {
                "id",
                "url",
                "progress",
                "status",
                "width",
                "height",
                "results",
                "failure_reason",
                "error",
            },
        ),
        (
            "/v1/draw/nano-banana",
            {"id", "url", "progress", "status", "results", "failure_reason", "error"},
        ),
        (
            "/v1/video/sora-video",
            {"id", "url", "progress", "status", "results", "failure_reason", "error"},
        ),
        ("/v1/video/veo", {"id", "url", "progress", "status", "failure_reason", "error"}),
    ],
)
def test_every_legacy_endpoint_reports(
    sandbox: Sandbox, receiver: Receiver, path: str, fields: set[str]
) -> None:
    reported(sandbox, submit(sandbox, receiver, path, shutProgress=True))
    assert [one.body.keys() for one in receiver.received] == [fields]


def test_shut_progress_leaves_only_the_final_report(sandbox: Sandbox, receiver: Receiver) -> None:
    reported(sandbox, submit(sandbox, receiver, shutProgress=True, sandbox={"progress": 5}))
    assert receiver.reports() == [("succeeded", 100)]


@pytest.mark.parametrize(
    ("script", "reports"),
    [
        ({"progress": 3}, [("running", 25), ("running", 50), ("running", 75), ("succeeded", 100)]),
        ({"progress": 0}, [("succeeded", 100)]),
        ({"progress": 2, "delay": 0}, [("running", 33), ("running", 66), ("succeeded", 100)]),
        ({"progress": 0, "callback": {"mode": "duplicate", "times": 3}}, [("succeeded", 100)] * 3),
        (
            {"progress": 0, "callback": {"mode": "duplicate", "times": 3, "together": False}},
            [("succeeded", 100)] * 3,
        ),
        ({"progress": 0, "callback": "reorder"}, [("succeeded", 100), ("running", 50)]),
        ({"progress": 0, "callback": "early"}, [("succeeded", 100)]),
        ({"callback": "lost"}, []),
    ],
)
def test_the_reports_are_those_of_the_script(
    sandbox: Sandbox, receiver: Receiver, script: dict[str, Any], reports: list[tuple[str, int]]
) -> None:
    task = reported(sandbox, submit(sandbox, receiver, sandbox=script))
    assert receiver.reports() == reports
    assert task["status"] == "succeeded"


@pytest.mark.parametrize("reason", ["input_moderation", "output_moderation", "error"])
def test_a_failure_is_reported_with_its_reason(
    sandbox: Sandbox, receiver: Receiver, reason: str
) -> None:
    reported(sandbox, submit(sandbox, receiver, sandbox={"fail": reason, "progress": 0}))
    body = receiver.received[0].body
    assert (body["status"], body["failure_reason"], body["url"], body["results"]) == (
        "failed",
        reason,
        "",
        None,
    )


def test_duplicates_together_are_on_their_way_at_once(sandbox: Sandbox, receiver: Receiver) -> None:
    receiver.meet = threading.Barrier(8)  # nobody is answered before all eight are here
    task = reported(
        sandbox,
        submit(
            sandbox,
            receiver,
            sandbox={"progress": 0, "callback": {"mode": "duplicate", "times": 8}},
        ),
    )
    assert [one["status"] for one in task["callbacks"]] == [200] * 8


def test_a_late_report_comes_after_the_result_can_be_read(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    task_id = submit(
        sandbox, receiver, sandbox={"progress": 0, "callback": {"mode": "late", "seconds": 0.3}}
    )
    until(lambda: sandbox.task(task_id)["status"] == "succeeded")
    assert (receiver.reports(), sandbox.task(task_id)["callbacks_due"]) == ([], 1)
    task = reported(sandbox, task_id)
    assert task["callbacks"][0]["at"] - task["finished_at"] >= 0.3


def test_an_early_report_is_sent_before_the_submit_is_answered(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    task_id = submit(sandbox, receiver, sandbox={"delay": 60, "callback": "early"})
    assert receiver.reports() == [("succeeded", 100)]
    assert receiver.received[0].body["id"] == task_id


def test_a_report_may_replace_the_lost_answer(sandbox: Sandbox, receiver: Receiver) -> None:
    with pytest.raises(requests.ConnectionError):
        submit(sandbox, receiver, sandbox={"answer": "lost", "progress": 0})
    until(lambda: receiver.reports() == [("succeeded", 100)])


def test_a_forged_report_comes_first_and_to_a_wrong_ticket(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    task = reported(
        sandbox, submit(sandbox, receiver, sandbox={"progress": 0, "callback": "forged"})
    )
    assert [one.path for one in receiver.received] == ["/callback/ticketz", "/callback/ticketA"]
    assert receiver.received[0].body == receiver.received[1].body
    assert [one["url"][-1] for one in task["callbacks"]] == ["z", "A"]


def test_a_contradiction_follows_the_result_and_the_result_stands(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    task_id = submit(sandbox, receiver, sandbox={"progress": 0, "callback": "contradiction"})
    assert reported(sandbox, task_id)["status"] == "succeeded"
    assert [status for status, _ in receiver.reports()] == ["succeeded", "failed"]


@pytest.mark.parametrize("status", [301, 307, 400, 404, 500, 503])
def test_a_report_is_neither_repeated_nor_redirected(
    sandbox: Sandbox, receiver: Receiver, status: int
) -> None:
    receiver.statuses = [status]
    task = reported(sandbox, submit(sandbox, receiver, sandbox={"progress": 0}))
    assert [(one["kind"], one["status"], one["error"]) for one in task["callbacks"]] == [
        ("succeeded", status, "")
    ]
    assert [one.path for one in receiver.received] == ["/callback/ticketA"]


@pytest.mark.parametrize("together", [True, False])
def test_a_report_is_repeated_as_often_as_the_script_wants(
    sandbox: Sandbox,
    receiver: Receiver,
    together: bool,  # noqa: FBT001 - a column of the table
) -> None:
    receiver.statuses = [503, 503, 200]
    callback = {"mode": "duplicate", "times": 1, "together": together, "retries": 5, "pause": 0.01}
    task = reported(
        sandbox, submit(sandbox, receiver, sandbox={"progress": 0, "callback": callback})
    )
    assert [one["status"] for one in task["callbacks"]] == [503, 503, 200]


def test_repeating_ends_at_last(sandbox: Sandbox, receiver: Receiver) -> None:
    receiver.statuses = [500]
    task = reported(
        sandbox,
        submit(
            sandbox, receiver, sandbox={"progress": 0, "callback": {"retries": 2, "pause": 0.01}}
        ),
    )
    assert [one["status"] for one in task["callbacks"]] == [500, 500, 500]


def test_an_attempt_that_reaches_nobody_is_noted_with_its_reason(
    sandbox: Sandbox, receiver: Receiver
) -> None:
    closed = (
        f"http://127.0.0.1:{sandbox.port}0/callback/x"
        if sandbox.port < 6553
        else "http://127.0.0.1:1/callback/x"
    )
    task = reported(sandbox, submit(sandbox, receiver, webHook=closed, sandbox={"progress": 0}))
    [attempt] = task["callbacks"]
    assert attempt["status"] is None
    assert attempt["error"].startswith("ConnectionError: ")
    assert attempt["latency"] >= 0


def test_every_attempt_is_noted_with_time_and_latency(sandbox: Sandbox, receiver: Receiver) -> None:
    before = time.time()
    task = reported(sandbox, submit(sandbox, receiver))
    assert [one["kind"] for one in task["callbacks"]] == ["running", "succeeded"]
    assert all(
        before <= one["at"] <= time.time() and 0 < one["latency"] < 5 for one in task["callbacks"]
    )


def test_posting_a_job_twice_shows_in_its_submits(sandbox: Sandbox, receiver: Receiver) -> None:
    first = submit(sandbox, receiver, sandbox={"callback": "lost"})
    assert sandbox.task(first)["submits"] == 1
    second = submit(sandbox, receiver, sandbox={"callback": "lost"})
    assert sandbox.task(first)["submits"] == sandbox.task(second)["submits"] == 2
    listed = requests.get(
        f"{sandbox.url}/sandbox/tasks", params={"webhook": receiver.url}, timeout=10
    ).json()
    assert [task["id"] for task in listed["tasks"]] == [first, second]


def test_a_batch_of_hundreds_is_reported_without_loss(sandbox: Sandbox, receiver: Receiver) -> None:
    session = requests.Session()
    body = {
        "model": "m",
        "prompt": "a fox",
        "webHook": receiver.url,
        "shutProgress": True,
        "sandbox": {"delay": 0.5},
    }
    for _ in range(500):
        session.post(
            f"{sandbox.url}/v1/draw/completions",
            json=body,
            headers={"Authorization": "Bearer any"},
            timeout=10,
        ).close()
    threads = threading.active_count()
    session.close()
    until(lambda: len(receiver.received) == 500)
    assert len({one.body["id"] for one in receiver.received}) == 500
    assert threads < 100


def test_stopping_sends_nothing_more_and_leaves_no_thread(receiver: Receiver) -> None:
    before = set(threading.enumerate())
    with Sandbox() as running:
        submit(running, receiver, sandbox={"delay": 60, "progress": 0})
    assert not set(threading.enumerate()) - before
    assert receiver.received == []
