"""The engine of several machines: notifications, polling for lost ones, and dead workers."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_harness import OFTEN, DistributedHarness, Gate, at_work
from ledgers import opened
from waiting import LIMIT, until

from receiver.errors import LedgerError
from receiver.ledger import liveness
from receiver.worker import postgres_notifier
from receiver.worker.engine import WorkQueue


@pytest.fixture
def harness(postgres_url: str, tmp_path: Path) -> Iterator[DistributedHarness]:
    """Return a harness on PostgreSQL."""
    with opened(postgres_url) as ledger:
        yield DistributedHarness(ledger, tmp_path, postgres_url)


@pytest.fixture
def gate(harness: DistributedHarness) -> Iterator[Gate]:
    """Have the work last until the gate is opened, at the latest when the test ends."""
    harness.work = gate = Gate()
    yield gate
    gate.open()


def test_a_commit_of_another_process_starts_the_work_at_once(
    harness: DistributedHarness, tmp_path: Path
) -> None:
    with opened(harness.url) as other, at_work(harness.engine(), harness.queue()):
        harness.add_jobs()
        until(harness.archived, what="the first, by which the engine listens")
        DistributedHarness(other, tmp_path, harness.url).add_jobs()
        until(lambda: harness.archived() == 2, what="the work, although the engine never polls")


def test_work_due_later_starts_when_it_is_due(harness: DistributedHarness) -> None:
    harness.ledger.clock.follow(time.time)
    (ref,) = harness.add_jobs()
    harness.ledger.execute("UPDATE assets SET due_at = due_at + 0.5")
    with at_work(harness.engine(poll_interval=OFTEN), harness.queue()):
        until(harness.archived, within=10, what="the work")
    asset = harness.asset(ref)
    assert asset.finished_at is not None
    assert asset.finished_at - asset.announced_at >= 0.5


def test_every_thread_is_used_and_no_more_than_allowed(
    harness: DistributedHarness, gate: Gate
) -> None:
    harness.add_jobs(8)
    with at_work(engine := harness.engine(), harness.queue(3)):
        until(lambda: gate.inside == 3, what="three threads at work")
        for _ in range(3):
            engine.notify()
        assert (gate.inside, len(harness.claimed)) == (3, 3)
        gate.open()
        until(lambda: harness.archived() == 8, what="all of the work")
    assert len(harness.claimed) == 8


def test_more_threads_than_connections_work_side_by_side(
    harness: DistributedHarness, gate: Gate
) -> None:
    harness.add_jobs(40)
    with at_work(harness.engine(), harness.queue(40)):
        until(lambda: gate.inside == 40, what="forty threads at work")
        gate.open()
        until(lambda: harness.archived() == 40, what="all of the work")


def test_two_machines_share_the_work_and_nothing_is_done_twice(
    harness: DistributedHarness, tmp_path: Path
) -> None:
    with opened(harness.url) as other_ledger:
        other = DistributedHarness(other_ledger, tmp_path, harness.url)
        both_at_work = threading.Barrier(2)
        harness.work = other.work = lambda _claimed: both_at_work.wait(20)
        with at_work(harness.engine(), harness.queue()), at_work(other.engine(), other.queue()):
            refs = harness.add_jobs(10)
            until(lambda: harness.archived() == 10, what="all of the work")
    assert sorted(harness.claimed + other.claimed) == sorted(refs)
    assert len(harness.claimed) == 5


def test_the_work_of_a_dead_process_is_done_by_the_living(
    harness: DistributedHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_notifier, "CHECK", 0.1)
    monkeypatch.setattr(liveness, "GRACE", 0.0)
    (ref,) = harness.add_jobs()
    with opened(harness.url) as dead:
        DistributedHarness(dead, tmp_path, harness.url)
        assert dead.assets.claim(1)
    with at_work(harness.engine(), harness.queue()):
        until(harness.archived, what="the work, long before the lease ends")
    assert harness.asset(ref).attempts == 2


def test_a_drain_ends_even_if_nothing_can_be_released(
    harness: DistributedHarness, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.add_jobs()
    with at_work(engine := harness.engine(grace=0.05), harness.queue()) as thread:
        until(lambda: gate.inside, what="running work")

        def unavailable(_held: object) -> None:
            raise LedgerError("unavailable")

        monkeypatch.setattr(harness.ledger.claims, "release", unavailable)
        engine.stop()
        thread.join(LIMIT)
        assert not thread.is_alive()
        gate.open()


def test_a_claim_that_fails_stops_neither_queue_nor_engine(harness: DistributedHarness) -> None:
    queue, errors = harness.queue(), [ZeroDivisionError("a mistake"), LedgerError("unavailable")]

    def claim(limit: int) -> list[object]:
        if errors:
            raise errors.pop()
        return list(queue.claim(limit))

    harness.add_jobs(3)
    with at_work(
        harness.engine(poll_interval=OFTEN),
        WorkQueue(queue.name, 1, queue.next_due, claim, queue.run),  # type: ignore[arg-type]
    ):
        until(lambda: harness.archived() == 3, what="all of the work")
