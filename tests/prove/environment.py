"""The environment of one round: an installation, its provider, its load, and recovery times."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, Literal

from event_server import SECRET, EventServer
from faultproxy import FaultProxy, fault_proxy
from installation import Installation
from processes import Finished, Running, running
from seaweed import KillableS3, S3Server, killable_seaweedfs
from sqlalchemy import func, select
from waiting import until

from receiver.errors import LedgerError
from receiver.failpoints import Point
from receiver.ingest.tickets import Tickets
from receiver.ledger.tables import events
from receiver.model import FINAL_STATES
from receiver.services import Services
from receiver.settings import Settings
from submitter.sandbox import Sandbox
from tests.prove.evidence import Evidence, Recovery, gather
from tests.prove.load import KEY, MENU, Customer, Menus, Orders, Pulse, Strangers
from tests.prove.promises import NO_SILENCE, Broken
from tests.prove.recording_proxy import RecordingProxy, recording_proxy
from tests.prove.setups import Archive, Servers, Setup, round_storage

S3 = Literal["shared", "killable", "proxied"]

_USUAL: Menus = {"order": MENU}
_SECRET, _TOKEN = "a-secret-of-the-proof", "a-token-of-the-proof"
# Short waiting times; nothing else differs from the defaults.
_FAST = {
    "POLL_AFTER": "2",
    "POLL_INTERVAL": "1",
    "JOB_TIMEOUT": "8",
    "WEB_CONCURRENCY": "2",
    "WORKER_THREADS": "8",
    "LOG_FORMAT": "json",
}
# Seconds after a fault within which the service has to work again, on its own core.
RECOVERY = 5.0
# Seconds without a change until a round counts as silent.
_QUIET_WITHIN = 60.0
_READY_WITHIN = 60.0


class Environment:
    """What the play of a fault can do and see. Times are in seconds."""

    def __init__(
        self,
        folder: Path,
        setup: Setup,
        random: Random,
        installation: Installation,
        seen: RecordingProxy,
        *,
        archive: Archive,
        events: EventServer,
        stack: ExitStack,
    ) -> None:
        self.folder, self.setup, self.random, self.installation, self.seen, self.archive = (
            folder,
            setup,
            random,
            installation,
            seen,
            archive,
        )
        self.stack = stack
        self.events = events
        self.kills: list[dict[str, Any]] = []
        self.faults = folder / "faults"
        self.s3: KillableS3 | None = None
        self.proxy: FaultProxy | None = None
        self.recoveries: list[Recovery] = []
        self.cut: list[str] = []
        self.rebuilt = False
        self._settings = Settings.load(installation.environ)
        self.strangers = Strangers(installation.sandbox, Tickets([_SECRET]))
        self._given_up = threading.Event()  # then no call needs an answer
        self.customer = Customer(installation.url, _TOKEN, self._given_up)
        self._service: Running | None = None
        self._logs: list[Running] = []

    # The service.

    @property
    def service(self) -> Running:
        """The running service."""
        assert self._service is not None
        return self._service

    def start(self) -> None:
        """Start the service without waiting for it."""
        if self.setup.ledger == "postgresql" and not self._logs:
            done = migrated(self)
            assert done.status == 0, done.err
        self._service = self.stack.enter_context(
            running(("receiver", "serve"), self.installation.environ, self.folder)
        )
        self._logs.append(self._service)

    def start_and_wait(self) -> None:
        """Start the service and wait until web and worker are ready."""
        before = self.workers_started()
        self.start()

        def is_ready() -> bool:
            assert self.service.process.poll() is None, self.service.output()
            return self.workers_started() > before and self.installation.status("/readyz") == 200

        until(is_ready, within=_READY_WITHIN, what="that the service is ready")

    def children(self, words: str, of: int | None = None) -> list[int]:
        """Return the pids of children of ``of`` (the supervisor) whose command has these words."""
        parent = self.service.pid if of is None else of
        return [
            pid
            for pid, line in self.service.members().items()
            if words in line and _parent(pid) == parent
        ]

    def workers_started(self) -> int:
        """Return how often a worker logged its start."""
        return sum(log.output().count('"worker started"') for log in self._logs)

    # The load.

    @contextmanager
    def load(self, *, least: int = 30, most: int = 60, menus: Menus = _USUAL) -> Iterator[None]:
        """Order jobs and send callbacks during the block; at its end every order is answered."""
        orders, pulse = (
            Orders(self.customer, menus, self.random, least, most),
            Pulse(self.seen, self.strangers, self._given_up),
        )
        pulse.start()
        orders.start()
        try:
            yield
        except BaseException:
            self._given_up.set()
            raise
        finally:
            orders.stop()
            pulse.stop()

    def moment(self) -> None:
        """Wait for a random moment: some more acknowledgements and some milliseconds."""
        wanted = len(self.seen.acknowledged) + self.random.randrange(3, 40)
        until(
            lambda: len(self.seen.acknowledged) >= wanted,
            within=_READY_WITHIN,
            what="that callbacks are acknowledged",
        )
        time.sleep(self.random.uniform(0, 0.02))

    # Faults.

    def arm(self, point: Point) -> None:
        """Kill the next process that reaches this failpoint, and wait until one did."""
        self.faults.mkdir(exist_ok=True)
        armed = self.faults / point
        armed.touch()
        until(
            lambda: not armed.exists(),
            within=_READY_WITHIN,
            what=f"that failpoint {point} is reached",
        )

    @contextmanager
    def recovering(self, what: str, *, worker: bool = False) -> Iterator[None]:
        """Measure from the end of the block until a callback is acknowledged.

        With ``worker`` also until a new worker works.
        """
        before = self.workers_started()
        yield
        struck, runnable = time.time(), [_runnable()]
        self.kills.append({"what": "kill", "at": struck, "which": what})

        def is_back() -> bool:
            runnable.append(_runnable())
            return self._acknowledged_since(struck)

        def has_worker() -> bool:
            runnable.append(_runnable())
            return self.workers_started() > before

        until(is_back, within=_READY_WITHIN, what=f"an acknowledgement after {what}")
        if worker:
            until(has_worker, within=_READY_WITHIN, what=f"a new worker after {what}")
        # The load average is that of a minute: rounds that have just begun are not in it yet.
        load = max(os.getloadavg()[0], mean(runnable))
        crowd = max(1.0, load / (os.cpu_count() or 1))
        now = time.time()
        self.recoveries.append(Recovery(what, now - struck, RECOVERY * crowd, now))

    def _acknowledged_since(self, moment: float) -> bool:
        return any(answer.began > moment for answer in reversed(self.seen.acknowledged[-20:]))

    # The end.

    @contextmanager
    def services(self) -> Iterator[Services]:
        """Open the ledger beside the running service."""
        services = Services(self._settings)
        try:
            yield services
        finally:
            services.close()

    def quiet(self) -> list[Broken]:
        """Wait until the provider is done and every job is final; return the silent jobs."""
        end = time.monotonic() + _QUIET_WITHIN
        with self.services() as services:
            while not self._is_quiet(services):
                if time.monotonic() > end:
                    return _silent(services)
                time.sleep(0.1)
        return []

    def _is_quiet(self, services: Services) -> bool:
        stats = self.installation.sandbox.stats()
        with suppress(LedgerError):
            going_on = sum(
                number
                for state, number in services.totals.counts().items()
                if state not in FINAL_STATES
            )
            waiting = stats["running"] or stats["callbacks_due"] or going_on
            return not waiting and (self.rebuilt or self._has_all_events(services))
        return False

    def _has_all_events(self, services: Services) -> bool:
        query = select(func.count()).select_from(events)
        written = services.database.read(lambda connection: connection.scalar(query))
        return len({received.id for received in self.events.received}) >= (written or 0)

    def evidence(self) -> Evidence:
        """Stop the service and gather what is left."""
        if self._service is not None and self._service.process.poll() is None:
            self._service.stop(within=30)
        with self.services() as services:
            found = gather(
                services, self.archive, self.installation.sandbox, self.seen.acknowledged
            )
        found.recoveries, found.cut, found.provider_ids, found.rebuilt = (
            self.recoveries,
            self.cut,
            self.customer.provider_ids,
            self.rebuilt,
        )
        found.happened = [*self.kills, *_arrived(self.events)]
        if self.rebuilt:
            found.happened.append({"what": "rebuilt", "at": time.time()})
        return found


def _arrived(server: EventServer) -> Iterator[dict[str, Any]]:
    for received in server.received:
        event = received.event
        at = float(received.headers["webhook-timestamp"])
        about = {"id": received.id, "type": event["type"], "ref": event["data"]["ref"]}
        yield {"what": "event", "at": at, **about}


def _silent(services: Services) -> list[Broken]:
    going_on = [job for job in services.queries.jobs(limit=1000) if job.state not in FINAL_STATES]
    found = [
        Broken(
            NO_SILENCE, job.ref, f"is still {job.state} ({job.prompt or 'adopted'})", is_lost=True
        )
        for job in going_on
    ]
    return found or [Broken(NO_SILENCE, "the provider", "still has callbacks to send")]


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="ascii", errors="replace")
            .rpartition(")")[2]
            .split()[1]
        )
    return 0


def kill(pids: list[int]) -> None:
    """Kill processes, as the kernel does when memory is short."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def prepared(
    folder: Path,
    setup: Setup,
    servers: Servers,
    random: Random,
    *,
    settings: Mapping[str, str],
    s3: S3 = "shared",
) -> Iterator[Environment]:
    """Prepare an environment in ``folder``; end its processes at the end."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(
            Sandbox(looks=4, keys=[KEY], script={"bytes": 20_000, "progress": 1})
        )
        installation = Installation(folder, sandbox)
        seen = stack.enter_context(recording_proxy(installation.port))
        killable = stack.enter_context(killable_seaweedfs()) if s3 == "killable" else None
        land = stack.enter_context(
            round_storage(setup, servers, installation.data, killable.server if killable else None)
        )
        server = stack.enter_context(EventServer())
        proxy = stack.enter_context(fault_proxy(_known(land.s3))) if s3 == "proxied" else None
        installation.environ |= {
            **_FAST,
            **land.environ,
            **settings,
            "PUBLIC_URL": seen.url,
            "GRSAI_API_KEY": KEY,
        }
        installation.environ |= {
            "CALLBACK_SECRETS": _SECRET,
            "ADMIN_TOKEN": _TOKEN,
            "RECEIVER_FAULTS": str(folder / "faults"),
            "EVENT_URLS": server.url,
            "EVENT_SECRET": SECRET,
            "FETCH_ALLOW": f"{installation.environ['FETCH_ALLOW']},{server.address}",
        }
        if proxy:
            installation.environ |= {"AWS_ENDPOINT_URL_S3": proxy.url}
        env = Environment(
            folder,
            setup,
            random,
            installation,
            seen,
            archive=land.archive,
            events=server,
            stack=stack,
        )
        env.s3, env.proxy = killable, proxy
        yield env


def migrated(env: Environment) -> Finished:
    """Migrate the ledger's schema to this release, as before a deployment."""
    return env.installation.run("receiver", "migrate")


def _known(server: S3Server | None) -> S3Server:
    assert server is not None, "only a setup with S3 has an S3 server to stand before"
    return server


Play = Callable[[Environment], None]


def _runnable() -> int:
    """Return how many threads of this machine run or wait for a processor now."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
