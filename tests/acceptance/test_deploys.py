"""Deploys lose no callback: reloads, restarts and stops under load.

Each call has its own connection, as a provider's call would have.
"""

import http.client
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from installation import SERVE, Installation
from processes import BIN, Running, running
from waiting import LIMIT, until

from receiver.clock import now
from receiver.ingest.tickets import Tickets
from receiver.model import new_ref

WEB = ("gunicorn", "-c", "python:receiver.gunicorn_conf", "receiver.web:create_app()")
RUNNING = b'{"status":"running","progress":1}'


@dataclass
class Callers:
    """Callers that post all the time, and each call's result: a status or an error's name."""

    installation: Installation
    tickets: Tickets
    came_to: dict[str, int | str] = field(
        default_factory=dict
    )  # by ref: each call is about a job of its own
    stopping: threading.Event = field(default_factory=threading.Event)

    def call(self) -> None:
        """Call until ``stopping`` is set."""
        while not self.stopping.wait(0.03):  # else the callers take the processor time
            ref = new_ref(now())
            self.came_to[ref] = self._post(f"/callback/{self.tickets.sign(ref)}")

    def _post(self, path: str) -> int | str:
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.installation.port, timeout=LIMIT)
        ) as connection:
            try:
                connection.request("POST", path, RUNNING, {"Connection": "close"})
                return connection.getresponse().status
            except OSError as error:
                return type(error).__name__

    def answered(self, more: int) -> None:
        """Wait until ``more`` calls have been answered."""
        before = len(self.came_to)
        until(lambda: len(self.came_to) >= before + more, what=f"{more} more calls")


@contextmanager
def callers(installation: Installation, threads: int = 4) -> Iterator[Callers]:
    """Post callbacks during the block; then check that each was answered 200 and stored."""
    with installation.services() as services:
        calling = Callers(installation, services.tickets)
        with ThreadPoolExecutor(threads) as pool:
            done = [pool.submit(calling.call) for _ in range(threads)]
            try:
                calling.answered(20)
                yield calling
                calling.answered(20)
            finally:
                calling.stopping.set()
        assert [one.exception() for one in done] == [None] * threads
        assert Counter(calling.came_to.values()) == {200: len(calling.came_to)}
        assert all(services.queries.delivery_log(ref) for ref in calling.came_to)


def pids(service: Running, words: str) -> set[int]:
    return {pid for pid, line in service.members().items() if words in line}


def test_a_rolling_reload_under_load_loses_no_call(installation: Installation) -> None:
    with installation.started() as service:
        old_web, old_worker = pids(service, "gunicorn"), pids(service, "receiver worker")
        with callers(installation):
            service.process.send_signal(signal.SIGHUP)
            service.says('"service reloaded"')
            until(
                lambda: not pids(service, "") & (old_web | old_worker),
                what="that the old processes are gone",
            )
        assert pids(service, "gunicorn")
        assert pids(service, "receiver worker")
        (job,) = installation.wait(installation.submit().ref)
        assert installation.is_safe(job), "the new worker works"
        assert service.stop() == 0
        assert "Traceback" not in service.output()


def test_a_reload_that_cannot_work_leaves_the_old_processes_alone(
    installation: Installation,
) -> None:
    token = installation.folder / "token"
    token.write_text("a-token-of-some-length-that-is-no-secret")
    with installation.started(ADMIN_TOKEN_FILE=str(token)) as service:
        service.says("worker started")  # it has read the token, too
        old = set(service.members())
        token.unlink()
        with callers(installation):
            service.process.send_signal(signal.SIGHUP)
            service.says("reload failed")
            until(lambda: set(service.members()) == old, what="that only the old processes live")


@pytest.mark.parametrize("role", ["gunicorn", "receiver worker"])
def test_the_kill_of_a_child_under_load_loses_no_call_that_waits(
    installation: Installation, role: str
) -> None:
    with installation.started() as service, callers(installation):
        child = min(pids(service, role))  # gunicorn's arbiter, not its worker, which is younger
        os.kill(child, signal.SIGKILL)
        service.says("process died, starting it again")
        until(lambda: pids(service, role) - {child}, what="its successor")


def test_a_restart_on_a_socket_that_systemd_holds_loses_no_call(installation: Installation) -> None:
    with (
        socket.create_server(("127.0.0.1", installation.port), backlog=1024) as held,
        ExitStack() as later,
    ):
        lent = held.fileno()
        # LISTEN_PID must be the pid of the service, which only its own shell knows.
        handed_over = (
            "/bin/bash",
            "-c",
            f"exec 3<&{lent}; LISTEN_FDS=1 LISTEN_PID=$$ exec {BIN}/receiver serve",
        )
        first = later.enter_context(installation.started(handed_over, lent=lent))
        with callers(installation):
            assert first.stop() == 0
            later.enter_context(installation.started(handed_over, lent=lent))


def test_a_service_takes_the_place_of_a_killed_one_whose_children_still_answer(
    installation: Installation,
) -> None:
    with (
        installation.started() as killed,
        installation.services() as services,
        ExitStack() as later,
    ):
        ref = new_ref(now())
        call = later.enter_context(
            socket.create_connection(("127.0.0.1", installation.port), timeout=LIMIT)
        )
        head = [
            f"POST /callback/{services.tickets.sign(ref)} HTTP/1.1",
            "Host: x",
            f"Content-Length: {len(RUNNING)}",
            "Expect: 100-continue",
        ]
        call.sendall("\r\n".join([*head, "", ""]).encode())
        assert call.recv(100).startswith(b"HTTP/1.1 100 ")
        os.kill(killed.pid, signal.SIGKILL)
        killed.process.wait()
        successor = later.enter_context(running(SERVE, installation.environ, installation.folder))
        call.sendall(RUNNING)
        assert call.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        successor.says("worker started")
        until(lambda: installation.status("/readyz") == 200, what="that the successor works")
        assert [row.verdict for row in services.queries.deliveries(ref)] == ["progress"]
        assert successor.stop() == 0


def waiting_calls(installation: Installation, path: str, number: int) -> list[socket.socket]:
    """Send calls that wait in the listening socket's queue, because no worker accepts them yet."""
    calls = []
    for _ in range(number):
        call = socket.create_connection(("127.0.0.1", installation.port), timeout=LIMIT)
        call.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), len(RUNNING), RUNNING)
        )
        calls.append(call)
    return calls


@pytest.mark.parametrize("command", [WEB, SERVE], ids=["gunicorn alone", "serve"])
def test_a_stop_answers_those_who_wait_in_the_queue(
    installation: Installation, command: tuple[str, ...]
) -> None:
    assert installation.invoke("receiver", "migrate").status == 0
    with (
        installation.started(command) as service,
        installation.services() as services,
        ExitStack() as later,
    ):
        ref = new_ref(now())
        workers = web_workers(service)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        # A thread that still runs would take the SIGTERM, and then it is not pending.
        until(lambda: all(map(has_stopped, workers)), what="that every thread has stopped")
        calls = [
            later.enter_context(call)
            for call in waiting_calls(installation, f"/callback/{services.tickets.sign(ref)}", 40)
        ]
        service.process.send_signal(signal.SIGTERM)
        until(asked_to_stop(workers), what="that they are asked to stop")
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        answers = [call.makefile("rb").readline() for call in calls]
        assert answers == [b"HTTP/1.1 200 OK\r\n"] * len(calls)
        assert service.process.wait(LIMIT) == 0
        assert len(services.queries.delivery_log(ref)) == len(calls)


def web_workers(service: Running) -> list[int]:
    """Return the pids of gunicorn's workers: their parent is gunicorn too."""
    web = pids(service, "gunicorn")
    return [
        pid
        for pid in web
        if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) in web
    ]


def has_stopped(pid: int) -> bool:
    """Return whether every thread of a process is stopped."""
    states = [
        file.read_text().rpartition(")")[2].split()[0]
        for file in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


def asked_to_stop(workers: list[int]) -> Callable[[], bool]:
    """Return a condition: SIGTERM is pending for each of these stopped processes."""

    def waits(pid: int) -> bool:
        lines = dict(
            line.split(":\t")
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        return bool(int(lines["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1)

    return lambda: all(map(waits, workers))
