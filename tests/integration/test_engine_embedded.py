"""The engine of one machine: its notifications and how it waits."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests
from engine_harness import OFTEN, EmbeddedHarness, Gate, at_work
from ledgers import opened
from processes import running
from waiting import LIMIT, until

from receiver.ledger.claims import LEASE
from receiver.ledger.notifications import QueueName
from receiver.ledger.sqlite import SqliteDatabase
from receiver.model import Delivery, JobState, Source, Submission
from receiver.services import Services
from receiver.settings import Settings
from receiver.worker import embedded, leases
from receiver.worker.embedded import EmbeddedEngine
from receiver.worker.notifier import Notifier
from submitter.sandbox import Sandbox


@pytest.fixture
def harness(sqlite_url: str, tmp_path: Path) -> Iterator[EmbeddedHarness]:
    """Return a harness on one machine."""
    with opened(sqlite_url) as ledger:
        yield EmbeddedHarness(ledger, tmp_path)


@pytest.fixture
def gate(harness: EmbeddedHarness) -> Iterator[Gate]:
    """Have the work last until the gate is opened, at the latest when the test ends."""
    harness.work = gate = Gate()
    yield gate
    gate.open()


def test_work_goes_on_when_the_ledger_is_available_again(
    harness: EmbeddedHarness,
) -> None:
    harness.add_jobs(2)
    with ExitStack() as outage:
        outage.enter_context(harness.ledger_unavailable())
        with at_work(harness.engine(), harness.queue()):
            until(lambda: harness.failed_claims, what="a claim that fails")
            outage.close()
            until(lambda: harness.archived() == 2, what="the work, without a notification")


def test_a_notification_without_a_listener_is_no_error(harness: EmbeddedHarness) -> None:
    harness.notifier.notify()  # no pipe
    harness.notifier.listen().__exit__(None, None, None)
    harness.notifier.notify()  # a pipe without a listener


def test_a_full_pipe_does_not_block_and_counts_as_one_notification(
    harness: EmbeddedHarness,
) -> None:
    with harness.notifier.listen() as listener:
        for _ in range(70_000):
            harness.notifier.notify()
        listener.wait(10)
        started = time.monotonic()
        listener.wait(0.05)
        assert time.monotonic() - started >= 0.05


def test_stopping_an_idle_engine_from_another_thread_ends_it_at_once(
    harness: EmbeddedHarness,
) -> None:
    with at_work(engine := harness.engine(), harness.queue(), harness.idle_queue()) as thread:
        harness.round()
        engine.stop()
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_signal_may_stop_the_engine_between_any_two_lines_of_its_rounds(
    harness: EmbeddedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler runs in the engine's thread, which must not hold a lock that it needs."""
    monkeypatch.setattr(embedded, "_BETWEEN_ROUNDS", 0.001)
    busy = replace(harness.idle_queue(), next_due=harness.notifier.notify)

    def run(engine: EmbeddedEngine, lines: Iterator[int]) -> None:
        def trace(_frame: FrameType, event: str, _arg: object) -> Any:
            if event == "line" and next(lines, None) == 0:
                sys.settrace(None)
                engine.stop()
            return trace

        sys.settrace(trace)
        engine.run([busy])
        sys.settrace(None)

    for line in range(300, 400):
        arguments = (harness.engine(), iter(range(line, -1, -1)))
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        thread.start()
        thread.join(LIMIT)
        assert not thread.is_alive(), f"stopped at line {line}"


def test_a_drain_ends_even_if_nothing_can_be_released(harness: EmbeddedHarness, gate: Gate) -> None:
    harness.add_jobs()
    with at_work(engine := harness.engine(grace=0.05), harness.queue()) as thread:
        until(lambda: gate.inside, what="running work")
        with harness.ledger_unavailable():
            engine.stop()
            thread.join(LIMIT)
            assert not thread.is_alive()
        gate.open()


def test_a_process_that_slept_through_its_leases_does_not_take_its_own_work_for_abandoned(
    harness: EmbeddedHarness, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ref,) = harness.add_jobs()
    monkeypatch.setattr(leases, "LEASE", 0.0)  # renewed in every round, as after a long sleep
    with at_work(engine := harness.engine(), harness.queue(2), harness.idle_queue()):
        until(lambda: gate.inside, what="running work")
        harness.round(1)
        engine.notify()
        harness.round(2)  # the last queue was looked at, so the engine sleeps now
        harness.ledger.clock.advance(LEASE + 1)
        engine.notify()
        until(
            lambda: harness.asset(ref).due_at == harness.ledger.clock.now + LEASE,
            what="the lease renewed",
        )
        gate.open()
        until(harness.archived, what="the end of the work")
    assert harness.claimed == [ref]


def test_every_thread_is_used_and_no_more_than_allowed(
    harness: EmbeddedHarness, gate: Gate
) -> None:
    harness.add_jobs(8)
    with at_work(engine := harness.engine(), harness.queue(3), harness.idle_queue()):
        until(lambda: gate.inside == 3, what="three threads at work")
        for _ in range(3):
            before = harness.rounds
            engine.notify()
            harness.round(before + 1)
            assert (gate.inside, len(harness.claimed)) == (3, 3)
        gate.open()
        until(lambda: harness.archived() == 8, what="all of the work")


# Notifications


def test_a_notification_of_any_process_starts_the_work_at_once(harness: EmbeddedHarness) -> None:
    with at_work(harness.engine(), harness.queue(), harness.idle_queue()):
        harness.round()
        harness.add_jobs()
        Notifier(harness.folder / "worker.fifo").notify()
        until(harness.archived, what="the work")


def test_after_work_the_engine_looks_at_its_queue_and_at_those_that_it_fed_only(
    harness: EmbeddedHarness,
) -> None:
    """The end of a job's last asset feeds the jobs that are complete."""
    assert isinstance(harness.ledger.database, SqliteDatabase)
    harness.ledger.database.notified = harness.notifier.notify
    fed = harness.idle_queue(QueueName.COMPLETE_JOBS)
    harness.add_jobs(3)
    with at_work(harness.engine(), harness.queue(), fed, harness.idle_queue()):
        until(lambda: harness.archived() == 3, what="the work")
        until(lambda: harness.looks[fed.name] > 1, what="a look at the queue that was fed")
    assert harness.rounds == 1, "at the start"


def test_polling_finds_the_work_of_a_lost_notification(harness: EmbeddedHarness) -> None:
    with at_work(harness.engine(poll_interval=OFTEN), harness.queue(), harness.idle_queue()):
        harness.round()
        harness.add_jobs()
        until(harness.archived, what="the work")


def test_work_due_later_starts_when_it_is_due_without_a_notification(
    harness: EmbeddedHarness,
) -> None:
    harness.ledger.clock.follow(time.time)
    (ref,) = harness.add_jobs()
    harness.ledger.execute("UPDATE assets SET due_at = due_at + 0.5")
    with at_work(harness.engine(), harness.queue()):
        until(harness.archived, what="the work")
    finished = harness.asset(ref).finished_at
    assert finished is not None
    assert finished - harness.asset(ref).announced_at >= 0.5


def test_due_rows_of_another_work_queue_hide_no_later_row(harness: EmbeddedHarness) -> None:
    """As suspects that wait for their turn, while another asset is due in a second."""
    harness.ledger.clock.follow(time.time)
    suspect, later = harness.add_jobs(2)
    harness.ledger.execute("UPDATE assets SET crashes = 2 WHERE ref = :ref", ref=suspect)
    harness.ledger.execute("UPDATE assets SET due_at = due_at + 0.3 WHERE ref = :ref", ref=later)
    with at_work(harness.engine(), harness.queue()):
        until(harness.archived, what="the work")
    assert harness.claimed == [later]


# Workers, as processes


def test_a_second_worker_waits_for_the_first_then_takes_over_its_work_and_empties_its_scratch(
    tmp_path: Path,
) -> None:
    slow = {"file": {"mode": "slow", "rate": 2000, "times": 1}, "bytes": 200_000, "delay": 0}
    with Sandbox(script=slow) as sandbox:
        environ = {
            "DATA_DIR": str(tmp_path / "data"),
            "GRSAI_API_KEY": "any",
            "GRSAI_BASE_URL": sandbox.url,
            "FETCH_ALLOW": f"127.0.0.1:{sandbox.port}",
        }
        with (
            closing(Services(Settings.load(environ)).open()) as services,
            running(["receiver", "worker"], environ, tmp_path) as first,
        ):
            ref = ordered(services, sandbox)
            (left_over,) = until(
                lambda: list((tmp_path / "data" / "scratch").glob("*/*")),
                what="a download under way",
            )
            with running(["receiver", "worker"], environ, tmp_path) as second:
                second.says("waiting for the worker that is still running")
                (leases,) = services.queries.assets([ref])[ref]
                assert (leases.claim is not None, leases.attempts, left_over.exists()) == (
                    True,
                    1,
                    True,
                )
                first.kill()
                second.says("worker started")
                until(lambda: state(services, ref) is JobState.ARCHIVED, what="the job archived")
                assert not left_over.exists()
                assert second.stop() == 0
        assert list((tmp_path / "data" / "scratch").glob("*")) == []


def ordered(services: Services, sandbox: Sandbox) -> str:
    """Have the sandbox make a picture and its success reported; return the job's ref."""

    def ask(path: str, body: dict[str, Any]) -> bytes:
        return requests.post(
            sandbox.url + path, json=body, headers={"Authorization": "Bearer any"}, timeout=10
        ).content

    task_id = json.loads(
        ask("/v1/draw/completions", {"model": "m", "prompt": "a fox", "webHook": "-1"})
    )["data"]["id"]
    until(lambda: sandbox.task(task_id)["status"] == "succeeded", what="the picture")
    ref = services.jobs.submit(Submission("a fox", "m", {}), sandbox.url).ref
    services.jobs.record_accepted(ref, task_id)
    services.inbox.accept(
        Delivery(ref, Source.POLL, ask("/v1/draw/result", {"id": task_id}), time.time())
    )
    return ref


def state(services: Services, ref: str) -> JobState | None:
    job = services.queries.job(ref)
    return job.state if job else None
