"""A running service for tests that play the sender of callbacks."""

import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from installation import Installation
from processes import Running
from waiting import until

from receiver.failpoints import Point
from receiver.model import new_ref
from receiver.services import Services


@dataclass
class FinishedTask:
    """A task that the provider finished and has not reported: its ticket and its final report."""

    ref: str
    ticket: str
    task_id: str
    final: dict[str, Any]


@dataclass
class RunningReceiver:
    """One service for all these tests; a file in ``failpoints`` arms the failpoint of its name."""

    installation: Installation
    service: Running
    services: Services
    failpoints: Path

    def finished_task(self, **script: Any) -> FinishedTask:
        """Let the provider finish a task without callbacks; the test sends them."""
        order: dict[str, Any] = {
            "model": "m",
            "prompt": "a fox",
            "size": "64x64",
            "webHook": "-1",
            "sandbox": {"delay": 0, **script},
        }
        task_id = self._ask("/v1/draw/completions", **order)["id"]
        until(
            lambda: self.installation.sandbox.task(task_id)["status"] != "running",
            what="that the provider is done",
        )
        ref = new_ref(time.time())
        return FinishedTask(
            ref, self.services.tickets.sign(ref), task_id, self._ask("/v1/draw/result", id=task_id)
        )

    def _ask(self, path: str, **body: Any) -> Any:
        headers = {"Authorization": "Bearer sk-test"}
        return requests.post(
            self.installation.sandbox.url + path, json=body, headers=headers, timeout=10
        ).json()["data"]

    def url(self, ticket: str) -> str:
        """Return the callback URL of a ticket."""
        return f"{self.installation.url}/callback/{ticket}"

    def post(self, ticket: str, body: object, **headers: str) -> requests.Response:
        """Send a callback; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(
            self.url(ticket), data=data, headers=headers, timeout=20, allow_redirects=False
        )

    def raw(self, finished: FinishedTask, body: bytes) -> bytes:
        """Return the bytes of a callback request."""
        head = [
            f"POST /callback/{finished.ticket} HTTP/1.1",
            "Host: x",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "",
            "",
        ]
        return "\r\n".join(head).encode() + body

    def verdicts(self, ref: str) -> list[str]:
        """Return the verdicts of a job's callbacks."""
        return [
            row.verdict
            for row in self.services.queries.delivery_log(ref)
            if row.source == "callback"
        ]

    def is_safe_once(self, finished: FinishedTask) -> bool:
        """Wait until a job is final; return whether its picture is archived correctly and once.

        What it looks at is printed, so that a failure shows what was wrong.
        """
        (job,) = self.installation.wait(finished.ref)
        events = Counter(
            event["type"]
            for event in self.services.events.after(limit=100_000)
            if event["ref"] == finished.ref
        )
        objects = [
            path.name for path in self.installation.data.glob(f"archive/*/*/*/{finished.ref}/*")
        ]
        print(job, objects, events)  # noqa: T201 - shown by pytest after a failure
        return (
            self.installation.is_safe(job)
            and sorted(objects) == ["0.png", "job.json"]
            and events - Counter(["job.at_risk"]) == Counter(["asset.archived", "job.archived"])
        )

    def knows(self, ref: str) -> bool:
        """Return whether the job exists."""
        return self.services.queries.job(ref) is not None

    def kill(self, words: str) -> None:
        """Kill the processes with these words in their command lines; wait for new ones."""
        pids = {pid for pid, line in self.service.members().items() if words in line}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: not pids & set(self.service.members()) and self._has(words),
            what=f"another {words}",
        )
        self.is_back()

    def _has(self, words: str) -> bool:
        return any(words in line for line in self.service.members().values())

    def is_idle(self) -> bool:
        """Return whether no work is left, now or later."""
        return all(
            self.services.queries.next_due(table) is None for table in ("assets", "jobs", "hints")
        )

    def die_answering(self) -> FinishedTask | None:
        """Kill the process that answers; return the task whose report it stored and not answered.

        Return None if another one was killed, because it committed first: a worker's heartbeat.
        """
        finished = self.finished_task()
        until(self.is_idle, what="that no other work commits")
        (self.failpoints / Point.AFTER_COMMIT).touch()
        try:
            self.post(finished.ticket, finished.final)
        except requests.ConnectionError:
            return finished
        self.is_back()
        return None

    def is_back(self) -> None:
        """Wait until the service answers."""
        until(
            lambda: self.installation.status("/readyz") == requests.codes.ok,
            what="that the service answers again",
        )


def send_all(receiver: RunningReceiver, reports: list[tuple[str, str]]) -> list[int]:
    """Post these reports over one connection, as one sender does; return the answers' statuses."""
    with requests.Session() as session:
        tickets = {ref: receiver.services.tickets.sign(ref) for ref, _status in reports}
        bodies = [
            (tickets[ref], {"id": f"task-{ref}", "status": status, "failure_reason": "error"})
            for ref, status in reports
        ]
        return [
            session.post(receiver.url(ticket), json=body, timeout=30).status_code
            for ticket, body in bodies
        ]
