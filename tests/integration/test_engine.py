"""What every engine does: the order of claims, what it survives, and how it stops."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from engine_harness import OFTEN, DistributedHarness, EmbeddedHarness, EngineHarness, Gate, at_work
from ledgers import opened
from waiting import LIMIT, until

from receiver.errors import LedgerError, StoreError
from receiver.ledger import claims
from receiver.ledger.claims import LEASE, Claimed
from receiver.ledger.rows import Asset
from receiver.model import AssetState
from receiver.worker import leases
from receiver.worker.engine import WorkQueue


@pytest.fixture(params=["embedded", "distributed"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineHarness]:
    """Return a harness with each of the two engines."""
    distributed = request.param == "distributed"
    url = str(request.getfixturevalue("postgres_url" if distributed else "sqlite_url"))
    with opened(url) as ledger:
        yield (
            DistributedHarness(ledger, tmp_path, url)
            if distributed
            else EmbeddedHarness(ledger, tmp_path)
        )


@pytest.fixture
def gate(harness: EngineHarness) -> Iterator[Gate]:
    """Have the work last until the gate is opened, at the latest when the test ends."""
    harness.work = gate = Gate()
    yield gate
    gate.open()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a mistake"), StoreError("unavailable"), LedgerError("unavailable")]
)
def test_work_that_raises_stops_neither_engine_nor_queue_and_is_repeated_after_its_lease(
    harness: EngineHarness, error: Exception
) -> None:
    refs = harness.add_jobs(3)
    errors = Counter(dict.fromkeys(refs, 1))

    def raise_once(claimed: Claimed[Asset]) -> None:
        if errors[claimed.row.ref]:
            errors[claimed.row.ref] -= 1
            raise error

    harness.work = raise_once
    engine = harness.engine()
    with at_work(engine, harness.queue()):
        until(lambda: not errors.total(), what="a first attempt for all three")
        assert harness.archived() == 0
        if isinstance(error, LedgerError):  # such work is released instead, soon after its end
            until(lambda: not any(harness.asset(ref).claim for ref in refs), what="three releases")
        harness.ledger.clock.advance(LEASE)
        harness.notify(engine)
        until(lambda: harness.archived() == 3, what="a second attempt for all three")


def test_work_that_always_makes_the_ledger_fail_waits_for_its_lease_and_counts_as_a_crash(
    harness: EngineHarness,
) -> None:
    (ref,) = harness.add_jobs()
    harness.ledger.execute("UPDATE assets SET attempts = :many", many=leases.MOST_ATTEMPTS - 1)
    failed = threading.Event()

    def fail(_claimed: Claimed[Asset]) -> None:
        failed.set()
        raise LedgerError("unavailable")

    harness.work = fail
    with at_work(harness.engine(), harness.queue()):
        assert failed.wait(LIMIT)
    assert harness.asset(ref).claim is not None  # not even the drain releases it
    harness.ledger.clock.advance(LEASE)
    (claimed,) = harness.ledger.assets.claim(1)
    assert claimed.row.crashes == 1


def test_stopping_before_the_start_ends_at_once(harness: EngineHarness) -> None:
    harness.add_jobs()
    engine = harness.engine()
    engine.stop()
    with at_work(engine, harness.queue()) as thread:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert harness.claimed == []


def test_a_drain_waits_for_running_work_and_claims_no_more(
    harness: EngineHarness, gate: Gate
) -> None:
    first, second = harness.add_jobs(2)
    with at_work(engine := harness.engine(), harness.queue()) as thread:
        until(lambda: gate.inside, what="running work")
        engine.stop()
        gate.open()
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert (harness.asset(first).state, harness.asset(first).attempts) == (AssetState.ARCHIVED, 1)
    assert (harness.asset(second).state, harness.asset(second).attempts) == (AssetState.PENDING, 0)


def test_a_drain_releases_what_takes_too_long_and_the_attempt_counts(
    harness: EngineHarness, gate: Gate
) -> None:
    refs = harness.add_jobs(2)
    with at_work(engine := harness.engine(grace=0.05), harness.queue(2)) as thread:
        until(lambda: gate.inside == 2, what="running work")
        engine.stop()
        thread.join(LIMIT)
        assert not thread.is_alive()
        for ref in refs:
            asset = harness.asset(ref)
            assert (asset.claim, asset.due_at, asset.attempts) == (
                None,
                harness.ledger.clock.now,
                1,
            )
        gate.open()  # too late: the work belongs to another worker now
    assert {harness.asset(ref).state for ref in refs} == {AssetState.PENDING}


def test_the_leases_of_long_work_are_renewed(
    harness: EngineHarness, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (leases, claims):
        monkeypatch.setattr(module, "LEASE", 0.5)
    harness.ledger.clock.follow(time.time)
    (ref,) = harness.add_jobs()
    with at_work(harness.engine(poll_interval=OFTEN), harness.queue(2)):
        until(lambda: gate.inside, what="running work")
        begun = time.time()
        until(
            lambda: time.time() > begun + 1.2 and (harness.asset(ref).due_at or 0) > time.time(),
            what="two leases later, ours",
        )
        gate.open()
        until(harness.archived, what="the end of the work")
    assert (harness.claimed, harness.asset(ref).attempts) == ([ref], 1)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_few_threads_take_the_nearest_deadline_first(
    harness: EngineHarness, concurrency: int
) -> None:
    refs = harness.add_jobs(6)
    deadlines = dict(zip(refs, [50, 10, 60, 30, 20, 40], strict=True))
    for ref, seconds in deadlines.items():
        harness.ledger.execute(
            "UPDATE assets SET expires_at = due_at + :seconds WHERE ref = :ref",
            ref=ref,
            seconds=seconds,
        )
    queue, one = harness.queue(concurrency), threading.Lock()

    def claim(limit: int) -> list[Claimed[Asset]]:
        with one:  # so that it is written down in the order in which it is done
            return queue.claim(limit)

    with at_work(harness.engine(), replace(queue, claim=claim)):
        until(lambda: harness.archived() == 6, what="all of the work")
    assert harness.claimed == sorted(refs, key=deadlines.__getitem__)


def test_a_queue_without_a_free_thread_does_not_block_the_others(
    harness: EngineHarness, gate: Gate
) -> None:
    harness.add_jobs(2)
    harness.ledger.hints.add("task-x")
    done = threading.Event()
    hints = WorkQueue(
        "hints",
        1,
        partial(harness.ledger.queries.next_due, "hints"),
        harness.ledger.hints.claim,
        lambda _claimed: done.set(),
    )
    with at_work(harness.engine(), harness.queue(), hints):
        assert done.wait(10)
        until(lambda: gate.inside, what="running work")
        gate.open()


def test_threads_that_become_free_while_one_claims_share_the_next_claim(
    harness: EngineHarness, gate: Gate
) -> None:
    harness.add_jobs(8)
    queue, limits, found = harness.queue(4), list[int](), list[int]()

    def claim(limit: int) -> list[Claimed[Asset]]:
        limits.append(limit)
        if len(limits) == 2:  # the first thread that is free claims until all of them are
            until(lambda: harness.archived() == 4, what="the end of the first four")
        claims = queue.claim(limit)
        found.append(len(claims))
        return claims

    with at_work(harness.engine(), replace(queue, claim=claim)):
        until(lambda: gate.inside == 4, what="four threads at work")
        gate.open()
        until(lambda: harness.archived() == 8, what="all of the work")
    assert found[0] == 4
    assert sum(found[1:3]) == 4
    assert not any(found[3:])


def test_a_thread_whose_claim_fails_leaves_the_rest_to_the_engine(harness: EngineHarness) -> None:
    harness.add_jobs(2)
    queue, errors = harness.queue(1), [None, LedgerError("unavailable")]

    def claim(limit: int) -> list[Claimed[Asset]]:
        if errors and (error := errors.pop(0)):
            raise error
        return queue.claim(limit)

    with at_work(harness.engine(), replace(queue, claim=claim)):
        until(lambda: harness.archived() == 2, what="all of the work")
