"""Fair shares of the download threads: no job and no host keeps the others waiting.

While others wait, one job or one host may hold a quarter of the threads. Whoever is alone may hold
all of them; when others come, slow downloads above the quarter are interrupted. Some threads are
for first attempts only. If all threads are held by slow downloads of many jobs and hosts, those are
interrupted that are slower than their size and the backlog allow.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import structlog

from receiver.ledger.claims import Claimed
from receiver.ledger.fair_claims import Avoided, FairClaims, netloc
from receiver.ledger.rows import Asset
from receiver.net.progress import Progress
from receiver.telemetry.metrics import INTERRUPTED

log = structlog.get_logger(__name__)

# The part of the threads that one job or host may hold while others wait; as many are for first
# attempts.
SHARE = 4
# Seconds between two looks for work that waits.
LOOK_INTERVAL = 1.0
# Seconds that a download runs at least, and that one may last that is not interrupted.
MIN_SECONDS, ENDS_SOON = 2.0, 5.0
# Seconds that a download may last, by its speed and size, if each thread has one asset that waits;
# less if more wait, twice as long with each attempt.
ALLOWED, ALLOWED_LEAST = 60.0, 15.0
MOST_DOUBLINGS = 6
# Bytes of a download whose size is not known, at least.
SMALL = 256 * 1024
# So many times slower than the fastest one, a download is slow whatever the line can carry.
OUTLIER = 8
# Seconds without the end of a download after which the slowest are interrupted all the same.
STUCK = 10.0
# Seconds that the job and the host of an interrupted download have no share of their own: all of
# these together may hold a quarter of the threads while others wait.
REMEMBERED = 300.0
# Each so many claims the deadline alone counts, so that later attempts have their turn.
TURNS = 8


@dataclass(eq=False)
class Running:
    """One asset that is being archived."""

    asset: Asset
    progress: Progress
    netloc: str  # of its URL, as the ledger compares it

    @property
    def parties(self) -> set[tuple[str, str]]:
        """Who it belongs to: its job, and the host that it has reached by now."""
        host = self.progress.hosts[-1] if self.progress.hosts else _hostname(self.netloc)
        return {("job", self.asset.ref), ("host", host)} if host else {("job", self.asset.ref)}

    @property
    def is_retry(self) -> bool:
        """Whether it was tried before."""
        return self.asset.attempts > 1


@dataclass
class _Slow:
    """Sources of interrupted downloads, and until when they are remembered."""

    until: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, one: Running, now: float) -> None:
        for party in (*one.parties, ("netloc", one.netloc)):
            self.until[party] = now + REMEMBERED

    def parties(self, now: float) -> set[tuple[str, str]]:
        self.until = {party: until for party, until in self.until.items() if until > now}
        return set(self.until)


class Shares:
    """Claims assets and watches their downloads; threads share it. ``threads`` is how many run."""

    def __init__(
        self, claims: FairClaims, threads: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._claims = claims
        self._threads = threads
        self._quota = max(1, threads // SHARE)
        self._most_retries = threads - threads // SHARE
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str, int], Running] = {}  # by claim, ref and index
        self._slow = _Slow()
        self._alone_until = self._next_look = 0.0
        self._ended_at = clock()
        self._fastest = 0.0  # bytes in a second
        self._turn = 0
        self.interrupted = 0

    def claim(self, limit: int) -> list[Claimed[Asset]]:
        """Claim due assets for so many free threads, a quarter of the threads at a time."""
        claimed: list[Claimed[Asset]] = []
        while len(claimed) < limit:
            more = self._claim(min(limit - len(claimed), self._quota))
            claimed += more
            if not more:
                break
        return claimed

    def _claim(self, limit: int) -> list[Claimed[Asset]]:
        running = self._all()
        retries = self._most_retries - sum(one.is_retry for one in running)
        avoided = self._avoided(running)
        claims = self._claims.claim(
            limit, retries=max(0, retries), avoided=avoided, by_deadline=self._turn == TURNS - 1
        )
        self._turn = (self._turn + bool(claims)) % TURNS
        if avoided and all(avoided[-1].includes(one.row) for one in claims):
            # Nobody else waits. The question reads every due row: not for each claim again.
            self._alone_until = self._clock() + LOOK_INTERVAL
        with self._lock:
            for one in claims:
                progress = Progress(self._clock)
                self._running[_key(one)] = Running(one.row, progress, netloc(one.row.url))
        return claims

    def run(
        self, claimed: Claimed[Asset], archive: Callable[[Claimed[Asset], Progress], None]
    ) -> None:
        """Archive a claimed asset, and watch its download."""
        progress = self._running[_key(claimed)].progress
        try:
            archive(claimed, progress)
        finally:
            with self._lock:
                del self._running[_key(claimed)]
            if not progress.reason:
                self._ended_at = self._clock()

    def _all(self) -> list[Running]:
        with self._lock:
            return list(self._running.values())

    def _full(self, running: Iterable[Running], most: int) -> set[tuple[str, str]]:
        """Return the parties that hold ``most`` threads, and the slow ones if they have theirs."""
        running = list(running)
        held = Counter(party for one in running for party in one.parties)
        slow = self._slow.parties(self._clock())
        is_lane_full = _count(running, slow) >= self._threads // SHARE
        full = {party for party, count in held.items() if count >= most}
        return full | (slow if is_lane_full else set())

    def _avoided(self, running: list[Running]) -> list[Avoided]:
        """Return whose assets are claimed only if there are no others, the strictest first.

        If all who wait hold their share, it goes on with twice the share, and at last with who was
        not slow, because no thread is to be idle.
        """
        if self._clock() < self._alone_until:
            return []
        mosts = (self._quota, 2 * self._quota, self._threads + 1)
        levels = [_avoiding(running, self._full(running, most)) for most in mosts]
        return [level for level in levels if level]

    # While all threads are busy.

    def relieve(self) -> None:
        """Interrupt slow downloads if others wait for their threads."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        running = self._all()
        self._fastest = max([self._fastest, *(one.progress.speed for one in running)])
        victims = self._above_share(running) or self._too_slow(running)
        for one, waiting in victims:
            self._slow.add(one, now)
            self.interrupted += 1
            INTERRUPTED.inc()
            seconds, speed = one.progress.seconds, one.progress.speed
            one.progress.stop(
                f"it was slow ({speed / 1000:.1f} KB/s for {seconds:.0f} s) and others waited"
            )
            log.warning(
                "slow download interrupted, others wait",
                ref=one.asset.ref,
                index=one.asset.idx,
                host=one.progress.hosts[-1] if one.progress.hosts else one.netloc,
                waiting=waiting,
            )

    def _above_share(self, running: list[Running]) -> list[tuple[Running, int]]:
        """Return downloads above their party's share, at most as many as others wait."""
        above = self._above(running)
        theirs = [one for one in running if one.parties & above]
        if not theirs:
            return []
        waiting = self._waiting(running, above)
        victims: list[tuple[Running, int]] = []
        for one in self._longest(theirs):
            left = [other for other in running if (other, waiting) not in victims]
            if len(victims) < waiting and one.parties & self._above(left):
                victims.append((one, waiting))
        return victims

    def _above(self, running: Iterable[Running]) -> set[tuple[str, str]]:
        """Return the parties that hold more than their share, each or all slow ones together."""
        running = list(running)
        held = Counter(party for one in running for party in one.parties)
        slow = self._slow.parties(self._clock())
        above = {party for party, count in held.items() if count > self._quota}
        return above | (slow if _count(running, slow) > self._threads // SHARE else set())

    def _too_slow(self, running: list[Running]) -> list[tuple[Running, int]]:
        """Return downloads that are slower than their size and the backlog allow."""
        is_stuck = self._clock() - self._ended_at > STUCK
        limit = self._fastest / OUTLIER
        slow = [
            one
            for one in self._longest(running)
            if one.progress.seconds > (MIN_SECONDS if is_stuck else ENDS_SOON) * _patience(one)
            and (is_stuck or one.progress.speed < limit)
        ]
        for one in slow[:1]:
            waiting = self._waiting(running, one.parties)
            allowed = max(ALLOWED_LEAST, ALLOWED * self._threads / max(waiting, self._threads))
            late = [
                (other, waiting)
                for other in slow
                if _expected_seconds(other.progress) > allowed * _patience(other)
            ]
            return late[: min(waiting, self._quota)]
        return []

    def _longest(self, running: list[Running]) -> list[Running]:
        """Return downloads that may be interrupted, those first that would last longest."""
        wanted = [
            one
            for one in running
            if one.progress.is_running
            and not one.progress.reason
            and one.progress.seconds > MIN_SECONDS
            and one.progress.seconds_left() > ENDS_SOON
        ]
        return sorted(wanted, key=lambda one: (one.progress.seconds_left(), -one.progress.speed),
                      reverse=True)  # fmt: skip

    def _waiting(self, running: list[Running], parties: set[tuple[str, str]]) -> int:
        """Return how many due assets are not of these parties; counting ends soon."""
        stopping = sum(bool(one.progress.reason) for one in running)
        due = self._claims.count_due(_avoiding(running, parties), 4 * self._threads)
        return max(0, due - stopping)

    def figures(self) -> dict[str, object]:
        """Return what a worker's signs of life say about its downloads."""
        running = self._all()
        held = Counter(party for one in running for party in one.parties)
        most = held.most_common(1)
        return {
            "threads": self._threads,
            "running": len(running),
            "interrupted": self.interrupted,
            "most_held_by": " ".join(most[0][0]) if most else "",
            "most_held": most[0][1] if most else 0,
        }


def _avoiding(running: Iterable[Running], parties: set[tuple[str, str]]) -> Avoided:
    """Return how the assets of these parties are avoided: a host by the URLs that lead to it."""
    hosts = {one.netloc for one in running if one.parties & parties - {("job", one.asset.ref)}}
    return Avoided(
        refs=frozenset(name for kind, name in parties if kind == "job"),
        hosts=frozenset(hosts | {name for kind, name in parties if kind == "netloc"}),
    )


def _count(running: Iterable[Running], parties: set[tuple[str, str]]) -> int:
    return sum(bool(one.parties & parties) for one in running)


def _key(claimed: Claimed[Asset]) -> tuple[str, str, int]:
    return claimed.token, claimed.row.ref, claimed.row.idx


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a wrong bracket; the policy refuses it
        return host


def _patience(one: Running) -> int:
    """Return how many times longer it may last than at its first attempt."""
    return int(2 ** min(one.asset.attempts - 1, MOST_DOUBLINGS))


def _expected_seconds(progress: Progress) -> float:
    """Return how long a download lasts in all, by its speed and size so far."""
    size = max(progress.announced or 2 * progress.received, SMALL)
    return size / progress.speed if progress.received else float("inf")
