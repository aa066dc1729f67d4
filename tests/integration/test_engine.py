"""The engine at work: who is claimed first and by how many hands, what wakes it, what it survives, and how it stops."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from ledgers import Books, opened, stored
from processes import running
from waiting import until

from receiver.engine import Lane, embedded
from receiver.engine.bell import Bell
from receiver.engine.embedded import EmbeddedEngine
from receiver.errors import LedgerError, StoreError
from receiver.ledger import ledger as ledger_module
from receiver.ledger.claims import Claimed
from receiver.ledger.ledger import LEASE
from receiver.ledger.rows import Asset
from receiver.model import AssetState, Delivery, JobState, Source, Submission
from receiver.services import Services
from receiver.settings import Settings
from submitter.sandbox import Sandbox

# Seconds between sweeps: too many to wait for, and hardly any.
NEVER, OFTEN = 600.0, 0.02


class Shop:
    """A ledger with one lane of work on its assets. What a hand does is ``work``; it ends with the asset archived."""

    def __init__(self, books: Books, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.bell = Bell(folder / "bell")
        self.rounds = 0  # of the engine, in which it looked at every lane
        self.claimed: list[str] = []  # refs in their order
        self.failed_claims = 0
        self.work: Callable[[Claimed[Asset]], object] = lambda _claimed: None

    def engine(self, *, sweep: float = NEVER, grace: float = 10.0) -> EmbeddedEngine:
        return EmbeddedEngine(self.books.ledger, self.bell, sweep=sweep, grace=grace)

    def lane(self, width: int = 1) -> Lane:
        return Lane("assets", width, partial(self.books.reports.next_due, "assets"), self._claim, self._run)

    def bystander(self) -> Lane:
        """Return a lane that never has work: given after the others, it counts the rounds."""

        def count_round() -> None:
            self.rounds += 1

        return Lane("bystander", 1, count_round, lambda _limit: [], lambda _claimed: None)

    def _claim(self, limit: int) -> list[Claimed[Asset]]:
        try:
            claims = self.books.ledger.claim_assets(limit)
        except LedgerError:
            self.failed_claims += 1
            raise
        self.claimed += [claimed.row.ref for claimed in claims]
        return claims

    def _run(self, claimed: Claimed[Asset]) -> None:
        self.work(claimed)
        self.books.ledger.finish_asset(claimed, stored(claimed))

    def order(self, count: int = 1) -> list[str]:
        """Have so many jobs with one asset each, due now; return their refs."""
        return [self.books.archiving(1, f"task-{len(self.books.reports.jobs(limit=100))}") for _ in range(count)]

    def archived(self) -> int:
        """Count the assets that are home."""
        return [event["type"] for event in self.books.reports.events()].count("asset.archived")

    def asset(self, ref: str) -> Asset:
        (asset,) = self.books.assets(ref)
        return asset

    def round(self, number: int = 1) -> None:
        """Wait until the engine has looked at every lane so often."""
        until(lambda: self.rounds >= number, what=f"round {number} of the engine")

    @contextmanager
    def ledger_away(self) -> Iterator[None]:
        """Let every write fail."""
        lock = next(self.folder.glob("ledger.sqlite3.lock"))
        lock.unlink()
        lock.mkdir()
        yield
        lock.rmdir()


class Gate:
    """Work that lasts until the gate is opened."""

    def __init__(self) -> None:
        self.inside = 0
        self._open = threading.Event()

    def __call__(self, _claimed: Claimed[Asset]) -> None:
        self.inside += 1
        assert self._open.wait(20), "nobody opened the gate"

    def open(self) -> None:
        self._open.set()


@contextmanager
def at_work(engine: EmbeddedEngine, *lanes: Lane) -> Iterator[threading.Thread]:
    """Run the engine in a thread until the block ends; no thread of it may be left then."""
    before = set(threading.enumerate())
    thread = threading.Thread(target=engine.run, args=(lanes,), name="engine", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        engine.stop()
        thread.join(20)
        assert not thread.is_alive()
        until(lambda: not set(threading.enumerate()) - before, what="the end of every hand")


@pytest.fixture
def shop(sqlite_url: str, tmp_path: Path) -> Iterator[Shop]:
    with opened(sqlite_url) as books:
        yield Shop(books, tmp_path)


@pytest.fixture
def gate(shop: Shop) -> Iterator[Gate]:
    """Have the work last until the gate is opened, at the latest when the test ends."""
    shop.work = gate = Gate()
    yield gate
    gate.open()


# What the engine survives


@pytest.mark.parametrize("error", [ZeroDivisionError("a mistake"), StoreError("away"), LedgerError("away")])
def test_work_that_raises_stops_neither_the_engine_nor_its_lane_and_is_done_again_after_its_lease(shop: Shop, error: Exception) -> None:
    troubles = Counter(dict.fromkeys(shop.order(3), 1))

    def raise_once(claimed: Claimed[Asset]) -> None:
        if troubles[claimed.row.ref]:
            troubles[claimed.row.ref] -= 1
            raise error

    shop.work = raise_once
    engine = shop.engine()
    with at_work(engine, shop.lane()):
        until(lambda: not troubles.total(), what="a first attempt for all three")
        assert shop.archived() == 0
        shop.books.clock.advance(LEASE)
        engine.ring()
        until(lambda: shop.archived() == 3, what="a second attempt for all three")


def test_a_ledger_that_was_away_is_worked_with_again_when_it_is_back(shop: Shop) -> None:
    shop.order(2)
    with ExitStack() as outage:
        outage.enter_context(shop.ledger_away())
        with at_work(shop.engine(), shop.lane()):
            until(lambda: shop.failed_claims, what="a claim that fails")
            outage.close()
            until(lambda: shop.archived() == 2, what="the work, without a ring")


def test_a_bell_rung_where_nobody_listens_is_no_error(shop: Shop) -> None:
    shop.bell.ring()  # no pipe
    shop.bell.listen().__exit__(None, None, None)
    shop.bell.ring()  # a pipe without a listener


def test_a_pipe_full_of_rings_does_not_block_and_counts_as_one(shop: Shop) -> None:
    with shop.bell.listen() as listener:
        for _ in range(70_000):
            shop.bell.ring()
        listener.wait(10)
        started = time.monotonic()
        listener.wait(0.05)
        assert time.monotonic() - started >= 0.05


# How it stops


def test_stopping_before_the_start_ends_at_once(shop: Shop) -> None:
    shop.order()
    engine = shop.engine()
    engine.stop()
    engine.run([shop.lane()])
    assert shop.claimed == []


def test_stopping_an_idle_engine_from_another_thread_ends_it_at_once(shop: Shop) -> None:
    with at_work(engine := shop.engine(), shop.lane(), shop.bystander()) as thread:
        shop.round()
        engine.stop()
        thread.join(5)
        assert not thread.is_alive()


def test_a_drain_waits_for_work_in_hand_and_takes_no_more(shop: Shop, gate: Gate) -> None:
    first, second = shop.order(2)
    with at_work(engine := shop.engine(), shop.lane()) as thread:
        until(lambda: gate.inside, what="work in hand")
        engine.stop()
        gate.open()
        thread.join(5)
        assert not thread.is_alive()
    assert (shop.asset(first).state, shop.asset(first).attempts) == (AssetState.ARCHIVED, 1)
    assert (shop.asset(second).state, shop.asset(second).attempts) == (AssetState.PENDING, 0)


def test_a_drain_hands_back_what_takes_too_long_and_the_attempt_does_not_count(shop: Shop, gate: Gate) -> None:
    refs = shop.order(2)
    with at_work(engine := shop.engine(grace=0.05), shop.lane(2)) as thread:
        until(lambda: gate.inside == 2, what="work in hand")
        engine.stop()
        thread.join(5)
        assert not thread.is_alive()
        for ref in refs:
            asset = shop.asset(ref)
            assert (asset.claim, asset.due_at, asset.attempts) == (None, shop.books.clock.now, 0)
        gate.open()  # too late: the work is another's now
    assert {shop.asset(ref).state for ref in refs} == {AssetState.PENDING}


def test_a_drain_ends_even_if_nothing_can_be_handed_back(shop: Shop, gate: Gate) -> None:
    shop.order()
    with at_work(engine := shop.engine(grace=0.05), shop.lane()) as thread:
        until(lambda: gate.inside, what="work in hand")
        with shop.ledger_away():
            engine.stop()
            thread.join(5)
            assert not thread.is_alive()
        gate.open()


# Leases


def test_the_leases_of_long_work_are_renewed(shop: Shop, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (embedded, ledger_module):
        monkeypatch.setattr(module, "LEASE", 0.5)
    shop.books.ledger.now = time.time
    (ref,) = shop.order()
    with at_work(shop.engine(sweep=OFTEN), shop.lane(2)):
        until(lambda: gate.inside, what="work in hand")
        begun = time.time()
        until(lambda: time.time() > begun + 1.2 and (shop.asset(ref).due_at or 0) > time.time(), what="two leases later, ours")
        gate.open()
        until(shop.archived, what="the end of the work")
    assert (shop.claimed, shop.asset(ref).attempts) == ([ref], 1)


def test_a_process_that_slept_through_its_leases_does_not_take_its_own_work_for_abandoned(
    shop: Shop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ref,) = shop.order()
    monkeypatch.setattr(embedded, "LEASE", 0.0)  # renewed in every round, as after a long sleep
    with at_work(engine := shop.engine(), shop.lane(2), shop.bystander()):
        until(lambda: gate.inside, what="work in hand")
        shop.round(2)  # after which it sleeps
        shop.books.clock.advance(LEASE + 1)
        engine.ring()
        until(lambda: shop.asset(ref).due_at == shop.books.clock.now + LEASE, what="the lease renewed")
        gate.open()
        until(shop.archived, what="the end of the work")
    assert shop.claimed == [ref]


# Who is next, and by how many hands


@pytest.mark.parametrize("width", [1, 2])
def test_few_hands_take_the_nearest_deadline_first(shop: Shop, width: int) -> None:
    refs = shop.order(6)
    deadlines = dict(zip(refs, [50, 10, 60, 30, 20, 40], strict=True))
    for ref, seconds in deadlines.items():
        shop.books.execute("UPDATE assets SET expires_at = due_at + :seconds WHERE ref = :ref", ref=ref, seconds=seconds)
    with at_work(shop.engine(), shop.lane(width)):
        until(lambda: shop.archived() == 6, what="all of the work")
    assert shop.claimed == sorted(refs, key=deadlines.__getitem__)


def test_every_hand_is_used_and_no_more_than_there_are(shop: Shop, gate: Gate) -> None:
    shop.order(8)
    with at_work(engine := shop.engine(), shop.lane(3), shop.bystander()):
        until(lambda: gate.inside == 3, what="three hands at work")
        for _ in range(3):
            before = shop.rounds
            engine.ring()
            shop.round(before + 1)
            assert (gate.inside, len(shop.claimed)) == (3, 3)
        gate.open()
        until(lambda: shop.archived() == 8, what="all of the work")


def test_a_lane_without_a_free_hand_does_not_hold_up_the_other(shop: Shop, gate: Gate) -> None:
    shop.order(2)
    shop.books.ledger.hint("task-x")
    done = threading.Event()
    hints = Lane("hints", 1, partial(shop.books.reports.next_due, "hints"), shop.books.ledger.claim_hints, lambda _claimed: done.set())
    with at_work(shop.engine(), shop.lane(), hints):
        assert done.wait(10)
        until(lambda: gate.inside, what="work in hand")
        gate.open()


# What wakes it


def test_a_ring_wakes_it_at_once_from_whatever_process(shop: Shop) -> None:
    with at_work(shop.engine(), shop.lane(), shop.bystander()):
        shop.round()
        shop.order()
        Bell(shop.folder / "bell").ring()
        until(shop.archived, within=5, what="the work")


def test_a_lost_ring_is_made_good_by_the_sweep(shop: Shop) -> None:
    with at_work(shop.engine(sweep=OFTEN), shop.lane(), shop.bystander()):
        shop.round()
        shop.order()
        until(shop.archived, within=5, what="the work")


def test_work_due_later_is_begun_when_it_is_due_without_a_ring(shop: Shop) -> None:
    shop.books.ledger.now = time.time
    (ref,) = shop.order()
    shop.books.execute("UPDATE assets SET due_at = due_at + 0.5")
    with at_work(shop.engine(), shop.lane()):
        until(shop.archived, within=5, what="the work")
    finished = shop.asset(ref).finished_at
    assert finished is not None
    assert finished - shop.asset(ref).announced_at >= 0.5


# Workers, as processes


def test_a_second_worker_waits_until_the_first_is_dead_then_takes_over_its_work_and_sweeps_its_scratch(tmp_path: Path) -> None:
    slow = {"file": {"mode": "slow", "rate": 2000, "times": 1}, "bytes": 200_000, "delay": 0}
    with Sandbox(script=slow) as sandbox:
        environ = {
            "DATA_DIR": str(tmp_path / "data"),
            "GRSAI_API_KEY": "any",
            "GRSAI_BASE_URL": sandbox.url,
            "FETCH_ALLOW": f"127.0.0.1:{sandbox.port}",
        }
        with closing(Services(Settings.load(environ)).open()) as services, running(["receiver", "worker"], environ, tmp_path) as first:
            ref = ordered(services, sandbox)
            (left_over,) = until(lambda: list((tmp_path / "data" / "scratch").glob("*/*")), what="a download under way")
            with running(["receiver", "worker"], environ, tmp_path) as second:
                second.says("waiting for the worker that is still running")
                (held,) = services.reports.assets([ref])[ref]
                assert (held.claim is not None, held.attempts, left_over.exists()) == (True, 1, True)
                first.kill()
                second.says("worker started")
                until(lambda: state(services, ref) is JobState.ARCHIVED, what="the job archived")
                assert not left_over.exists()
                assert second.stop() == 0
        assert list((tmp_path / "data" / "scratch").glob("*")) == []


def ordered(services: Services, sandbox: Sandbox) -> str:
    """Have the sandbox make a picture and its success reported; return the job's ref."""

    def ask(path: str, body: dict[str, Any]) -> bytes:
        return requests.post(sandbox.url + path, json=body, headers={"Authorization": "Bearer any"}, timeout=10).content

    task_id = json.loads(ask("/v1/draw/completions", {"model": "m", "prompt": "a fox", "webHook": "-1"}))["data"]["id"]
    until(lambda: sandbox.task(task_id)["status"] == "succeeded", what="the picture")
    ref = services.ledger.submit(Submission("a fox", "m", {}), sandbox.url).ref
    services.ledger.accepted(ref, task_id)
    services.inbox.accept(Delivery(ref, Source.POLL, ask("/v1/draw/result", {"id": task_id}), time.time()))
    return ref


def state(services: Services, ref: str) -> JobState | None:
    job = services.reports.job(ref)
    return job.state if job else None
