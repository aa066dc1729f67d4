"""``receiver serve`` as users run it: real processes, killed and stopped in every way."""

import hashlib
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from installation import Installation
from processes import Running, running
from waiting import LIMIT, until

from receiver.model import JobState, new_ref
from receiver.services import Services


def children(service: Running, words: str) -> list[int]:
    """Return the pids of the supervisor's own children whose command line has these words."""
    found = (pid for pid, line in service.members().items() if words in line)
    return [
        pid
        for pid in found
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(service.pid)
    ]


def kept_secrets(installation: Installation) -> dict[str, tuple[int, str]]:
    return {
        path.name: (path.stat().st_mode & 0o777, path.read_text())
        for path in (installation.data / "secrets").iterdir()
    }


def test_a_fresh_checkout_does_the_main_job_and_a_later_start_keeps_secrets_and_jobs(
    installation: Installation,
) -> None:
    with installation.started() as service:
        secrets = kept_secrets(installation)
        assert {name: mode for name, (mode, _) in secrets.items()} == {
            "admin": 0o600,
            "callback": 0o600,
        }
        assert (installation.data / "secrets").stat().st_mode & 0o777 == 0o700
        token = secrets["admin"][1].strip()
        assert f"ADMIN_TOKEN {token}" in service.output(), "it is printed for the user"
        assert secrets["callback"][1].strip() not in service.output()
        (job,) = installation.wait(installation.submit().ref)
        assert installation.is_safe(job)
        shown = requests.get(
            f"{installation.url}/api/jobs/{job.ref}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        )
        assert shown.json() == job.model_dump(mode="json")
        hook = installation.sandbox.tasks()[0]["webhook"]
        assert hook.rpartition("/")[2] not in service.output(), (
            "tickets are secrets, so they are not logged"
        )
        assert service.stop() == 0
    with installation.started() as again:
        assert kept_secrets(installation) == secrets
        assert token not in again.output(), "it is printed once"
        late = requests.post(hook, json={"id": job.provider_id, "status": "running"}, timeout=10)
        assert (late.status_code, late.json()) == (200, {"ok": True, "ref": job.ref})
        (same,) = installation.wait(job.ref)
        assert same.model_dump() == job.model_dump()
        # A kill -9 of the supervisor leaves no process behind.
        os.kill(again.pid, signal.SIGKILL)
        again.process.wait()
        until(lambda: not again.members(), what="that nothing lives on")
        assert installation.status("/healthz") is None


def test_killed_children_are_started_again_and_their_work_is_taken_over(
    installation: Installation,
) -> None:
    with installation.started() as service:
        slow = installation.submit(bytes=200_000, file={"mode": "slow", "rate": 200_000})
        until(lambda: installation.sandbox.stats()["file_gets"] == 1, what="a download under way")
        (worker,), (web,) = children(service, "receiver worker"), children(service, "gunicorn")
        for pid in (worker, web):
            os.kill(pid, signal.SIGKILL)
        service.says("process died, starting it again", times=2)
        service.says("claims of a dead worker taken over")
        (job,) = installation.wait(slow.ref)
        assert installation.is_safe(job)
        assert installation.sandbox.stats()["file_gets"] == 2
        until(
            lambda: children(service, "gunicorn") and installation.status("/readyz") == 200,
            what="that the web side is back",
        )
        (job,) = installation.wait(installation.submit().ref)
        assert installation.is_safe(job)
        assert not list((installation.data / "scratch").rglob(f"{slow.ref}*")), (
            "what the killed worker left was removed"
        )


def begin_callback(installation: Installation, ticket: str, body: bytes) -> socket.socket:
    """Send a callback without the last byte of its body, and see that a worker is reading it."""
    connection = socket.create_connection(("127.0.0.1", installation.port), timeout=10)
    head = ["Host: x", f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close"]
    connection.sendall("\r\n".join([f"POST /callback/{ticket} HTTP/1.1", *head, "", ""]).encode())
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body[:-1])
    return connection


def test_sigterm_drains_a_callback_and_a_download_under_way(installation: Installation) -> None:
    with installation.started() as service, installation.services() as services:
        slow = installation.submit(bytes=300_000, file={"mode": "slow", "rate": 200_000})
        until(lambda: installation.sandbox.stats()["file_gets"] == 1, what="a download under way")
        ref, body = new_ref(time.time()), b'{"id":"in-flight","status":"running"}'
        with closing(begin_callback(installation, services.tickets.sign(ref), body)) as connection:
            started = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            service.says("service draining")
            connection.sendall(body[-1:])
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert ref.encode() in answer
        assert service.process.wait(LIMIT) == 0
        assert time.monotonic() - started < 20
        assert [row.verdict for row in services.queries.deliveries(ref)] == ["progress"]
        (asset,) = services.queries.assets([slow.ref])[slow.ref]
        assert asset.state == "archived", "the download was finished, not thrown away"
        assert not service.members()
        assert "Traceback" not in service.output()


# kill -9 under load.


@dataclass
class Load:
    """Callbacks of many jobs, posted by several senders, and how many of each were answered 200."""

    bodies: dict[str, list[bytes]]
    urls: dict[str, str]
    acknowledged: Counter[str] = field(default_factory=Counter)

    def post(self, refs: list[str]) -> None:
        """Post the reports of these jobs. A report without an answer is not repeated."""
        with requests.Session() as session:
            for ref in refs:
                for body in self.bodies[ref]:
                    try:
                        answer = session.post(self.urls[ref], data=body, timeout=10)
                    except requests.RequestException:
                        continue
                    if answer.status_code == 200:
                        self.acknowledged[ref] += 1


def a_load(installation: Installation, services: Services, jobs: int) -> Load:
    """Finish unknown jobs at the provider; make two final callbacks and a late one of each."""
    bodies = {}
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer sk-test"

        def ask(path: str, **question: Any) -> Any:
            return session.post(installation.sandbox.url + path, json=question, timeout=10).json()[
                "data"
            ]

        order: dict[str, Any] = {
            "model": "m",
            "prompt": "a fox",
            "size": "64x64",
            "webHook": "-1",
            "sandbox": {"delay": 0},
        }
        tasks = [ask("/v1/draw/completions", **order)["id"] for _ in range(jobs)]
        until(lambda: installation.sandbox.stats()["running"] == 0, what="that all are finished")
        for task in tasks:
            final = json.dumps(ask("/v1/draw/result", id=task)).encode()
            bodies[new_ref(time.time())] = [
                final,
                final,
                json.dumps({"id": task, "status": "running"}).encode(),
            ]
    return Load(
        bodies, {ref: f"{installation.url}/callback/{services.tickets.sign(ref)}" for ref in bodies}
    )


def test_kill_9_under_load_loses_nothing_that_was_acknowledged_and_archives_everything_once(
    installation: Installation,
) -> None:
    moment = random.randrange(10, 120)  # noqa: S311 - any moment must do
    with installation.services() as services:
        load = a_load(installation, services, jobs=60)
        refs = list(load.bodies)
        with installation.started() as first, ThreadPoolExecutor(4) as senders:
            posted = [senders.submit(load.post, refs[number::4]) for number in range(4)]
            until(
                lambda: load.acknowledged.total() >= moment or all(post.done() for post in posted)
            )
            first.kill()
        for post in posted:
            post.result()
        acknowledged = Counter(load.acknowledged)
        assert moment <= acknowledged.total()
        for ref, number in acknowledged.items():
            assert len(services.queries.deliveries(ref)) >= number, (
                f"{ref}, killed after {moment} answers"
            )
        with installation.started() as second:
            load.post(
                [ref for ref in refs if ref not in acknowledged]
            )  # a provider that repeats them
            jobs = installation.wait(*refs)
            assert Counter(job.state for job in jobs) == {JobState.ARCHIVED: 60}
            assert services.totals.audit().ok
            assert "Traceback" not in second.output()
        events = [
            event
            for event in services.events.after(limit=1000)
            if event["type"] == "asset.archived"
        ]
        assert Counter(event["ref"] for event in events) == dict.fromkeys(refs, 1)
        assert stored(installation) == sorted(
            str(installation.sandbox.task(str(job.provider_id))["files"][0]["sha256"])
            for job in jobs
        )


def stored(installation: Installation) -> list[str]:
    """Return the SHA-256 of every picture in the archive."""
    files = [
        path for path in (installation.data / "archive").rglob("*.png") if ".tmp" not in path.parts
    ]
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)


def test_a_port_that_is_taken_is_reported_at_once_instead_of_starting_for_ever(
    installation: Installation,
) -> None:
    with socket.create_server(("127.0.0.1", installation.port)):
        ended = installation.run("receiver", "serve")
    assert ended.status == 2
    assert f"cannot listen on *:{installation.port}" in ended.err


def test_a_signal_while_the_supervisor_starts_waits_for_it_and_stops_the_service_in_order(
    installation: Installation,
) -> None:
    environ, folder = installation.environ, installation.folder
    with running(("receiver", "serve"), environ, folder) as service:
        program = Path(f"/proc/{service.process.pid}/cmdline")
        until(lambda: b"receiver.server.supervisor" in program.read_bytes(), what="the supervisor")
        assert service.stop() == 0
    assert "service draining" in service.output()
