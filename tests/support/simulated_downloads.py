"""Simulated downloads of a worker: the claims and the ledger are real, time is virtual.

Each second, every source sends what it sends in that time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ledgers import LedgerHarness, stored, succeeded

from receiver.archive.shares import Running, Shares
from receiver.clock import back_off
from receiver.ledger.claims import LEASE, Claimed, Claims
from receiver.ledger.fair_claims import FairClaims, netloc
from receiver.ledger.rows import Asset
from receiver.model import new_ref

MB = 1_000_000
FAST = 1 * MB
BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


@dataclass(frozen=True)
class Source:
    """A host: bytes in a second from each connection, what it announces, its delay, a redirect.

    ``at_once`` bytes come first; of what is left, each second brings at least the part ``decay``.
    """

    speed: float = FAST
    at_once: int = 0
    decay: float = 0.0
    size: int = MB
    announces: bool = True
    first_byte: float = 0.0
    redirects_to: str = ""


SLOW = Source(speed=1300)
NO_END = Source(speed=2.0, size=3 * MB, at_once=3 * MB - 10_000)


@dataclass
class Simulation:
    """A worker with ``threads`` threads, and the sources of its downloads."""

    ledger: LedgerHarness
    threads: int
    sources: dict[str, Source] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)  # first picture of a job, in seconds
    busy: dict[str, int] = field(default_factory=dict)  # most threads held by a job
    now: float = 0.0
    slow_jobs: dict[str, Source] = field(default_factory=dict)  # on the host of the others

    def __post_init__(self) -> None:
        """Share the threads by the virtual clock."""
        self.shares = Shares(
            FairClaims(self.ledger.database, self.ledger.clock), self.threads, lambda: self.now
        )
        self.claims: dict[tuple[str, str, int], Claimed[Asset]] = {}

    def report(self, *urls: str, lives: float = 7200.0) -> str:
        """Report a job with these results; return its ref."""
        ref = new_ref(self.ledger.clock())
        self.ledger.use_timing(replace(self.ledger.timing, url_lifetime=lives))
        self.ledger.deliver(ref, succeeded(*urls, provider_id=f"task-{ref}"))
        return ref

    def attack(
        self, source: Source = SLOW, *, hosts: int = 1, jobs: int = 1, results: int = 32
    ) -> None:
        """Report jobs whose results are on slow hosts."""
        for number in range(hosts):
            self.sources[f"slow{number}.test"] = source
        for job in range(jobs):
            name = f"slow{job % hosts}.test"
            self.report(*(f"https://{name}/{job}/{index}.png" for index in range(results)))

    def attack_from_the_usual_host(self, jobs: int, results: int = 32) -> None:
        """Report jobs whose results are slow, on the host from which all others come too."""
        for job in range(jobs):
            ref = self.report(*(f"https://files.test/{job}/{n}.png" for n in range(results)))
            self.slow_jobs[ref] = SLOW

    def run(self, seconds: int) -> None:
        """Let this many seconds pass."""
        for _ in range(seconds):
            self._start()
            self.now += 1
            self.ledger.clock.advance(1)
            if self.now % (LEASE / 2) == 0:  # as a worker does; else its files would count as lost
                Claims(self.ledger.database, self.ledger.clock).renew([*self.claims.values()])
            for key, one in list(self.shares._running.items()):
                self._receive(one)
                if one.progress.reason or self._is_received(one):
                    self._end(key, one)
            self._start()
            if len(self.shares._running) == self.threads:
                self.shares.relieve()

    def run_until(self, is_reached: Callable[[], bool], within: int) -> None:
        """Let time pass, this many seconds at most, until something is reached."""
        for _ in range(within):
            if is_reached():
                return
            self.run(1)

    def _start(self) -> None:
        free = self.threads - len(self.shares._running)
        for claimed in self.shares.claim(free) if free > 0 else []:
            key = (claimed.token, claimed.row.ref, claimed.row.idx)
            self.claims[key] = claimed
            one = self.shares._running[key]
            one.progress.begin()
            one.progress.hosts.append(netloc(claimed.row.url))
        for ref in {one.asset.ref for one in self.shares._running.values()}:
            self.busy[ref] = max(self.busy.get(ref, 0), self.held(ref))

    def held(self, ref: str) -> int:
        """Return how many threads a job holds now."""
        return sum(one.asset.ref == ref for one in self.shares._running.values())

    def _receive(self, one: Running) -> None:
        progress, source = one.progress, self._source(one)
        if source.redirects_to:
            progress.hosts.append(source.redirects_to)
            source = self._source(one)
        if progress.seconds > source.first_byte:
            progress.announced = source.size if source.announces else None
            count = int(max(source.speed, source.decay * (source.size - progress.received)))
            progress.received = min(source.size, max(source.at_once, progress.received + count))

    def _source(self, one: Running) -> Source:
        own = self.slow_jobs.get(one.asset.ref)
        return own or self.sources.get(one.progress.hosts[-1], Source())

    def _is_received(self, one: Running) -> bool:
        return one.progress.received >= self._source(one).size

    def _end(self, key: tuple[str, str, int], one: Running) -> None:
        claimed, row = self.claims.pop(key), one.asset
        if one.progress.reason:
            due_at = self.ledger.clock() + back_off(row.attempts, BACK_OFF, jitter=0)
            self.ledger.assets.retry(claimed, due_at, one.progress.reason)
        else:
            self.ledger.assets.finish(claimed, stored(claimed))
            self.ended.setdefault(row.ref, self.now)
        self.shares.run(claimed, lambda _claimed, _progress: None)
