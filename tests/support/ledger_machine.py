"""A hypothesis state machine that drives ledger, store and download through the model's actions.

Two machines with one worker each share a ledger and a directory. The provider's files come from a
real server. The steps of the workers interleave, because they stop at each failpoint; a machine can
be killed there. After each step everything that was promised is compared with what is there.
"""

import json
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from http_server import HttpServer
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledgers import Clock, LedgerHarness, failed, running, succeeded
from outside_network import DEFAULT_TLS
from paused_worker import Failpoints, KilledError, PausedWorker
from sqlalchemy import delete

from receiver import failpoints
from receiver.archive.manifest import manifest_key, quarantine_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ClaimLostError, NoSuchTaskError, ReceiverError
from receiver.failpoints import Point
from receiver.jobs.operator import Operator
from receiver.jobs.reconcile import Reconciler
from receiver.ledger.database import open_database
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.rows import Asset, Job
from receiver.ledger.tables import metadata
from receiver.maintenance.rebuild import Rebuilder
from receiver.model import FINAL_STATES, AssetState, EventType, Source
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.dialect import Task
from submitter.sandbox.pictures import picture

TO = "log:"
# No picture, and no text either: it may be one that we cannot read.
BAD = b"\x00\x01\x02 no picture" * 40
FILES = [picture(f"picture {number}", "png", 8, 8, 400, None) for number in range(6)]
KILLS = st.sampled_from([None, None, None, Point.BEFORE_COMMIT, Point.AFTER_COMMIT])
WHICH = st.integers(0, 3)


class FileServer(HttpServer):
    """The provider: its tasks, and the files of their results, each of which can be bad or gone."""

    def __init__(self) -> None:
        self.tasks: dict[str, bytes] = {}
        self.files: dict[str, str] = {}  # ok, bad, gone
        self._served = 0

    def handle_get(self, request: BaseHTTPRequestHandler) -> None:
        """Serve a file; each time another one, as a provider that encodes again."""
        state = self.files.get(request.path, "gone")
        self._served += 1
        body = BAD if state == "bad" else FILES[self._served % len(FILES)]
        request.send_response(404 if state == "gone" else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Type", "image/png")
        request.end_headers()
        request.wfile.write(body)

    def can_ask(self, provider: str) -> bool:  # noqa: ARG002 - there is one
        """See ``ResultSource``."""
        return True

    def result(self, task: Task) -> bytes:
        """Answer a poll; see ``ResultSource``."""
        if task.provider_id not in self.tasks:
            raise NoSuchTaskError("no such task")
        return self.tasks[task.provider_id]


@dataclass
class Life:
    """What we know of a job."""

    ref: str
    task: str
    acknowledged: Counter[str] = field(default_factory=Counter)
    ends: int = 0
    was: Job | None = None
    events: set[int] = field(default_factory=set)
    archived: dict[int, str | None] = field(default_factory=dict)


class Machine:
    """One machine: its own connections, its own worker that stops at failpoints."""

    def __init__(self, url: str, clock: Clock, folder: Path, source: FileServer) -> None:
        self.ledger = LedgerHarness(open_database(url), clock)
        self.store = DirectoryStore(folder / "archive")
        scratch = Path(tempfile.mkdtemp(dir=folder))
        quarantine = self.ledger.quarantine(self.store, scratch)
        fetcher = Fetcher(
            AddressPolicy.parse([source.address], ()),
            max_bytes=100_000,
            timeout=10,
            ssl_context=DEFAULT_TLS,
        )
        self.archiver = self.ledger.archiver(fetcher, self.store, scratch, quarantine)
        self.reconciler: Reconciler = self.ledger.reconciler(self.store, source)
        self.operator: Operator = self.ledger.make_operator(quarantine)
        self.worker = PausedWorker()

    def next_work(self, *, jobs_first: bool) -> Callable[[], object] | None:
        """Claim what is due: an asset or a job; return what has to be done."""
        ledger = self.ledger
        assets = [*ledger.assets.claim(1)] or ledger.assets.claim(1, suspects=True)
        jobs = [] if assets and not jobs_first else ledger.jobs.claim(1)
        jobs = jobs or ([] if assets else ledger.jobs.claim_suspects(1))
        if assets and jobs:
            ledger.claims.release(assets)
        if jobs:
            return lambda: self.reconciler.reconcile_job(jobs[0])
        return (lambda: self.archiver.archive(assets[0])) if assets else None

    def close(self) -> None:
        """End the worker and the connections."""
        self.worker.kill()
        self.ledger.database.close()


class LedgerMachine(RuleBasedStateMachine):
    """See the module. ``url`` is an empty ledger, ``template`` a migrated SQLite file."""

    url: str
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.clock = Clock()
        self.source = FileServer().__enter__()
        self.machines = [Machine(self.url, self.clock, self.folder, self.source) for _ in range(2)]
        self.ledger, self.store = self.machines[0].ledger, self.machines[0].store
        self.store.check()  # it is there before its first object, as in a service that starts
        self.points = Failpoints()
        self._reached, failpoints.reached = failpoints.reached, self.points
        self.lives: list[Life] = []
        self.received: list[int] = []
        self.reopened = ""
        self.ledger.database.write(
            lambda connection: [
                connection.execute(delete(table)) for table in reversed(metadata.sorted_tables)
            ]
        )
        self.ledger.outbox.register([TO])

    # Submits and reports.

    @initialize()
    def first(self) -> None:
        self.submit(1, "succeeded", answered=True)

    @rule(
        results=st.integers(1, 2),
        end=st.sampled_from(["succeeded", "succeeded", "failed"]),
        answered=st.booleans(),
    )
    @precondition(lambda self: len(self.lives) < 4)
    def submit(self, results: int, end: str, *, answered: bool) -> None:
        ref, task = self.ledger.submitting(), f"task-{len(self.lives)}"
        paths = [f"/{task}/{idx}.png" for idx in range(results)]
        self.source.files |= dict.fromkeys(paths, "ok")
        urls = [f"http://{self.source.address}{path}" for path in paths]
        good = succeeded(*urls, provider_id=task)
        self.source.tasks[task] = good if end == "succeeded" else failed(provider_id=task)
        if answered:
            self.ledger.jobs.record_accepted(ref, task)
        self.lives.append(Life(ref, task))

    @rule(
        which=WHICH,
        says=st.sampled_from(["the end", "the end", "running", "contradiction"]),
        machine=st.integers(0, 1),
        kill_at=KILLS,
    )
    def callback(self, which: int, says: str, machine: int, kill_at: Point | None) -> None:
        life = self.lives[which % len(self.lives)]
        truth = self.source.tasks[life.task]
        contradiction = failed(provider_id=life.task)
        body = {"running": running(life.task), "contradiction": contradiction}.get(says, truth)
        self.points.kill_at = kill_at
        with suppress(KilledError):
            self.machines[machine].ledger.deliver(life.ref, body)
            life.acknowledged[sha256(body).hexdigest()] += 1
        self.points.kill_at = None

    # Workers.

    @rule(machine=st.integers(0, 1), jobs_first=st.booleans(), kill_at=KILLS)
    def work(self, machine: int, kill_at: Point | None, *, jobs_first: bool) -> None:
        its = self.machines[machine]
        if its.worker.is_busy:
            its.worker.proceed(kill_at)
        elif work := its.next_work(jobs_first=jobs_first):
            its.worker.begin(work, kill_at)

    @rule(machine=st.integers(0, 1))
    @precondition(lambda self: any(one.worker.is_busy for one in self.machines))
    def kill_worker(self, machine: int) -> None:
        self.machines[machine].worker.kill()

    @rule(seconds=st.sampled_from([1.0, 31.0, 61.0, 61.0, 3601.0, 7201.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(which=WHICH, state=st.sampled_from(["ok", "bad", "gone"]))
    def files_change(self, which: int, state: str) -> None:
        task = self.lives[which % len(self.lives)].task
        for path in self.source.files:
            if path.startswith(f"/{task}/"):
                self.source.files[path] = state

    # Events.

    @rule(machine=st.integers(0, 1), dies=st.booleans())
    def send_events(self, machine: int, *, dies: bool) -> None:
        its = self.machines[machine]
        for claimed in its.ledger.outbox.claim(TO, list(EventType), 3):
            self.received.append(claimed.row.event)
            if not dies:
                with suppress(ClaimLostError):
                    its.ledger.outbox.mark_sent(claimed)

    # Operators.

    @rule(which=WHICH, accept=st.booleans())
    def operator(self, which: int, *, accept: bool) -> None:
        """Accept the first rejected file, or retry the job."""
        life, operator = self.lives[which % len(self.lives)], self.machines[1].operator
        if (job := self.ledger.queries.job(life.ref)) is None:
            return
        before = job.round
        with suppress(ReceiverError):
            if accept:
                rejected = [one.idx for one in self.ledger.assets_of(life.ref) if one.rejected]
                operator.accept(life.ref, rejected[0] if rejected else 0)
            else:
                operator.retry(life.ref)
        if self.ledger.job(life.ref).round != before:
            self.reopened = life.ref

    @rule()
    @precondition(lambda self: not any(one.worker.is_busy for one in self.machines))
    def prune(self) -> None:
        self.ledger.pruner(self.store).jobs(self.clock() + 1)
        for life in self.lives:
            if life.was is not None and self.ledger.queries.job(life.ref) is None:
                assert life.was.state in FINAL_STATES, f"{life} was pruned"
                assert life.events <= set(self.received), "pruned, and its events were not sent"
                life.acknowledged.clear()
                life.was, life.ends, life.archived = None, 0, {}

    @rule()
    @precondition(lambda self: not any(one.worker.is_busy for one in self.machines))
    def rebuild(self) -> None:
        """Rebuild another ledger from the archive; every job with a picture is in it."""
        path = self.folder / "rebuilt.sqlite3"
        shutil.copy(self.template, path)
        database = open_database(f"sqlite:///{path}")
        try:
            Rebuilder(
                self.store,
                database,
                JobQueries(database),
                job_timeout=3600,
                threads=1,
                stopping=threading.Event(),
                show=lambda _: None,
            ).run()
            again = JobQueries(database)
            for life in self.lives:
                job = self.ledger.queries.job(life.ref)
                if job is None or job.state not in FINAL_STATES:
                    continue
                mine = _archived(self.ledger.assets_of(life.ref))
                found = again.job(life.ref)
                if mine:
                    assert found is not None, life
                    assert found.state == job.state
                    assert _archived(again.assets([life.ref])[life.ref]) == mine
        finally:
            database.close()
            path.unlink()

    @rule()
    def audit(self) -> None:
        found = self.ledger.totals.audit()
        assert found.ok, found

    # What must hold at any time.

    @invariant()
    def every_promise_is_kept(self) -> None:
        for life in self.lives:
            job = self.ledger.queries.job(life.ref)
            if job is not None:
                self._check_job(life, job)
                self._check_assets(life, job)
        self.reopened = ""

    def _check_job(self, life: Life, job: Job) -> None:
        kept = Counter(
            row.digest
            for row in self.ledger.queries.deliveries(life.ref)
            if row.source == Source.CALLBACK
        )
        assert not life.acknowledged - kept, "an acknowledged callback is gone"
        before = life.was
        if before is not None and before.state in FINAL_STATES and life.ref != self.reopened:
            assert job.state == before.state, "a final state changed"
        is_new = before is None or before.state not in FINAL_STATES or life.ref == self.reopened
        life.ends += is_new and job.state in FINAL_STATES
        life.was = job
        events = self.ledger.events.of_job(life.ref)
        life.events = {int(event["id"]) for event in events}
        types = Counter(str(event["type"]) for event in events)
        assert sum(types[f"job.{state}"] for state in FINAL_STATES) == life.ends

    def _check_assets(self, life: Life, job: Job) -> None:
        assets = self.ledger.assets_of(life.ref)
        types = Counter(self.ledger.event_types(life.ref))
        archived = _archived(assets)
        assert types["asset.archived"] == len(archived)
        assert life.archived.items() <= archived.items(), "an archived picture changed"
        life.archived = archived
        for asset in assets:
            if asset.state is AssetState.ARCHIVED:
                assert _digest(self.store, str(asset.key)) == asset.sha256
            elif asset.quarantined_at is not None:
                key = quarantine_key(asset.ref, asset.idx, str(asset.rejected_sha256))
                assert _digest(self.store, key) == asset.rejected_sha256
        if job.state in FINAL_STATES and archived:
            with self.store.open(manifest_key(life.ref)) as file:
                manifest: dict[str, Any] = json.loads(file.read())
            told = {one["index"]: one["sha256"] for one in manifest["assets"] if one["sha256"]}
            assert (manifest["state"], told) == (job.state, archived)

    # The end.

    def teardown(self) -> None:
        """Let one machine do all that is left; every job ends, and every event arrives."""
        try:
            self._finish_all()
        finally:
            for machine in self.machines:
                machine.close()
            failpoints.reached = self._reached
            self.source.__exit__()
            shutil.rmtree(self.folder)

    def _finish_all(self) -> None:
        for machine in self.machines:
            machine.worker.kill()
        self.source.files = dict.fromkeys(self.source.files, "ok")
        its = self.machines[0]
        for _ in range(300):
            self.clock.advance(61)
            while work := its.next_work(jobs_first=False):
                work()
            self.send_events(0, dies=False)
            if not self._left():
                break
        assert not self._left(), "a job is silent"
        self.every_promise_is_kept()
        self.audit()
        events = {int(event["id"]) for event in self.ledger.events.after(limit=10_000)}
        for _ in range(50):
            if events <= set(self.received):
                break
            self.clock.advance(61)
            self.send_events(0, dies=False)
        assert events <= set(self.received), "an event never arrived"

    def _left(self) -> list[str]:
        jobs = [self.ledger.queries.job(life.ref) for life in self.lives]
        return [job.ref for job in jobs if job is not None and job.state not in FINAL_STATES]


def _archived(assets: list[Asset]) -> dict[int, str | None]:
    return {one.idx: one.sha256 for one in assets if one.state is AssetState.ARCHIVED}


def _digest(store: DirectoryStore, key: str) -> str:
    with store.open(key) as file:
        return sha256(file.read()).hexdigest()
