"""Fair shares of the download threads: no job and no host keeps the others waiting.

While others wait, one job or one host may hold a quarter of the threads. One that is alone may hold
all of them; when others come, slow downloads above the quarter are interrupted. Some threads are
for first attempts only. If slow downloads of many jobs and hosts hold all threads, some are
interrupted: those that are slower than their size and the backlog allow.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

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
# Seconds between two checks for work that waits.
LOOK_INTERVAL = 1.0
# A query for those who wait takes long where many wait: with 100,000 assets at one host 0.3 to
# 0.8 s. If it finds none, it is repeated after this many times its own length, or this many
# seconds at most: those who come meanwhile wait so long.
LOOK_SHARE, LOOK_PAUSE = 20, 10.0
# Seconds that a download runs at least, and that one may last that is not interrupted.
MIN_SECONDS, ENDS_SOON = 2.0, 5.0
# Seconds that a download may last, by its speed and size, if each thread has one asset that waits;
# less if more wait, twice as long with each attempt.
ALLOWED, ALLOWED_LEAST = 60.0, 15.0
MOST_DOUBLINGS = 6
# Bytes of a download whose size is not known, at least.
SMALL = 256 * 1024
# A download this many times slower than the fastest one is slow, whatever the line can carry.
OUTLIER = 8
# If no download ends for this many seconds, the slowest are interrupted in any case.
STUCK = 10.0
# The same if only others of the same host wait, and how long a download may last then.
STUCK_AT_ONE_HOST, ALLOWED_AT_ONE_HOST = 30.0, 120.0
# Seconds that the job and the host of an interrupted download have no share of their own: all of
# these together may hold a quarter of the threads while others wait.
REMEMBERED = 300.0
# In one of this many claims only the deadline counts, so that later attempts have their turn.
TURNS = 8


# A job by its ref, a host by its name, or a host as URLs name it (see ``netloc``).
Party: TypeAlias = tuple[str, str]


@dataclass(eq=False)
class Running:
    """One asset that is being archived."""

    asset: Asset
    progress: Progress
    netloc: str  # of its URL, as the ledger compares it
    ends_by: float | None = None  # when it should have ended that was soon to end

    @property
    def parties(self) -> set[Party]:
        """The parties it belongs to: its job, and the host that it has reached by now."""
        host = self.progress.hosts[-1] if self.progress.hosts else self.netloc
        return {self.job, ("host", host)} if host else {self.job}

    @property
    def job(self) -> Party:
        """Its job."""
        return "job", self.asset.ref

    @property
    def is_retry(self) -> bool:
        """Whether it was tried before."""
        return self.asset.attempts > 1


@dataclass
class _Slow:
    """Sources of interrupted downloads, and until when they are remembered."""

    until: dict[Party, float] = field(default_factory=dict)

    def add(self, one: Running, now: float) -> None:
        for party in (*one.parties, ("netloc", one.netloc)):
            self.until[party] = now + REMEMBERED

    def forget_hosts(self, one: Running) -> None:
        """Forget the hosts of a fast download: they are not slow, at most some of their files."""
        for party in (*one.parties - {one.job}, ("netloc", one.netloc)):
            self.until.pop(party, None)

    def parties(self, now: float) -> set[Party]:
        return {party for party, until in list(self.until.items()) if until > now}


@dataclass
class _Fastest:
    """The highest speed of the last minutes, in bytes per second."""

    speed: float = 0.0
    seen_at: float = 0.0

    def note(self, speed: float, now: float) -> None:
        if speed >= self.speed or now - self.seen_at > REMEMBERED:
            self.speed, self.seen_at = speed, now

    def is_outlier(self, speed: float) -> bool:
        return speed < self.speed / OUTLIER


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
        self._next_look = self._next_count = 0.0
        # Until when claims do not look for others than these hosts.
        self._alone_until: dict[frozenset[str], float] = {}
        self._ended_at = clock()
        self._fastest = _Fastest()
        self._turn = 0
        self.interrupted = 0

    def claim(self, limit: int) -> list[Claimed[Asset]]:
        """Claim due assets for these free threads, a quarter of the threads at a time."""
        claimed: list[Claimed[Asset]] = []
        while (wanted := min(limit - len(claimed), self._quota)) > 0:
            more = self._claim(wanted)
            claimed += more
            if len(more) < wanted:
                break
        return claimed

    def _claim(self, limit: int) -> list[Claimed[Asset]]:
        running = self._all()
        retries = self._most_retries - sum(one.is_retry for one in running)
        avoided = self._avoided(running)
        began = self._clock()
        claims = self._claims.claim(
            limit, retries=max(0, retries), avoided=avoided, by_deadline=self._turn == TURNS - 1
        )
        self._turn = (self._turn + bool(claims)) % TURNS
        self._note(avoided, claims, began)
        with self._lock:
            for one in claims:
                progress = Progress(self._clock)
                self._running[_key(one)] = Running(one.row, progress, netloc(one.row.url))
        return claims

    def _note(self, avoided: list[Avoided], claims: list[Claimed[Asset]], began: float) -> None:
        """Remember beside which hosts no others wait, so that not each claim looks for others.

        If there are none, the query reads every due asset, and takes long if they are many.
        """
        now = self._clock()
        with self._lock:
            known = {hosts: then for hosts, then in self._alone_until.items() if then > now}
            for one in avoided:
                if not all(one.includes(claimed.row) for claimed in claims):
                    break
                known[one.hosts] = now + max(LOOK_INTERVAL, _pause(now - began))
            self._alone_until = known

    def run(
        self, claimed: Claimed[Asset], archive: Callable[[Claimed[Asset], Progress], None]
    ) -> None:
        """Archive a claimed asset, and watch its download."""
        one = self._running[_key(claimed)]
        try:
            archive(claimed, one.progress)
        finally:
            with self._lock:
                del self._running[_key(claimed)]
                if not one.progress.reason:
                    self._note_end(one)

    def _note_end(self, one: Running) -> None:
        self._ended_at = self._clock()
        self._fastest.note(one.progress.speed, self._ended_at)
        if one.progress.received and not self._fastest.is_outlier(one.progress.speed):
            self._slow.forget_hosts(one)

    def _all(self) -> list[Running]:
        with self._lock:
            return list(self._running.values())

    def _slow_parties(self) -> set[Party]:
        with self._lock:
            return self._slow.parties(self._clock())

    def _avoided(self, running: list[Running]) -> list[Avoided]:
        """Return the parties whose assets are claimed only if there are no others, strictest first.

        If every waiting job and host holds its share, the limits end, because no thread should be
        idle: first that of hosts, then that of jobs, finally that of slow sources.
        """
        slow = self._slow_parties()
        if _count(running, slow) < self._threads // SHARE:
            slow = set()
        held = Counter(party for one in running for party in one.parties)
        full, fuller = (
            {party for party, count in held.items() if count >= most}
            for most in (self._quota, 2 * self._quota)
        )
        jobs = _jobs(full)
        levels = (full | slow, fuller | jobs | slow, jobs | slow, jobs | _jobs(slow), slow)
        avoided = [_avoiding(running, parties) for parties in (*levels, _jobs(slow))]
        return [one for one in avoided if one and not self._is_alone(one)]

    def _is_alone(self, avoided: Avoided) -> bool:
        """Return whether a claim has found a moment ago that no others wait."""
        now = self._clock()
        with self._lock:
            known = self._alone_until.items()
            return any(until > now and hosts <= avoided.hosts for hosts, until in known)

    # While all threads are busy.

    def relieve(self) -> None:
        """Interrupt slow downloads if others wait for their threads."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        running = self._all()
        with self._lock:
            for one in running:
                one.progress.look()
                self._fastest.note(one.progress.speed, now)
        if now < self._next_count:
            return
        if victims := self._above_share(running):  # others wait: the next claims are to find them
            with self._lock:
                self._alone_until.clear()
        else:
            victims = self._too_slow(running)
            self._next_count = self._clock() + _pause(self._clock() - now)
        for one, waiting in victims.items():
            with self._lock:
                self._slow.add(one, now)
            self.interrupted += 1
            INTERRUPTED.inc()
            seconds, speed = one.progress.seconds, one.progress.pace
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

    def _above_share(self, running: list[Running]) -> dict[Running, int]:
        """Return downloads above their party's share, at most as many as others wait.

        Beside each stands how many wait.
        """
        held = Counter(party for one in running for party in one.parties)
        slow, slow_quota = self._slow_parties(), self._threads // SHARE
        groups = [({party}, self._quota) for party, count in held.items() if count > self._quota]
        victims: dict[Running, int] = {}
        for parties, most in (*groups, (_jobs(slow), slow_quota), (slow, slow_quota)):
            theirs = [one for one in running if one.parties & parties and one not in victims]
            excess = len(theirs) - most
            if excess > 0 and (longest := self._longest(theirs)):
                waiting = self._waiting(running, parties) - len(victims)
                victims |= dict.fromkeys(longest[: max(0, min(excess, waiting))], waiting)
        return victims

    def _too_slow(self, running: list[Running]) -> dict[Running, int]:
        """Return downloads that are slower than their size and the backlog allow.

        Beside each stands how many wait.
        """
        longest = self._longest(running)
        waiting = self._waiting(running, {longest[0].job}) if longest else 0
        if not waiting:
            return {}
        elsewhere = self._waiting(running, longest[0].parties)
        allowed = max(ALLOWED_LEAST, ALLOWED * self._threads / max(waiting, self._threads))
        stuck = self._clock() - self._ended_at
        # If only one host is served, all its downloads may be slow because our line is. Then only
        # very slow ones are interrupted.
        least = allowed if elsewhere and stuck > STUCK else ALLOWED_AT_ONE_HOST
        is_stuck = stuck > (STUCK if elsewhere else STUCK_AT_ONE_HOST)
        late = [
            one
            for one in longest
            if (
                one.progress.seconds > ENDS_SOON * _allowed_factor(one)
                and self._fastest.is_outlier(one.progress.speed)
                and _expected_seconds(one.progress) > allowed * _allowed_factor(one)
            )
            or (
                is_stuck
                and one.progress.seconds > MIN_SECONDS * _allowed_factor(one)
                and _expected_seconds(one.progress) > least * _allowed_factor(one)
            )
        ]
        return dict.fromkeys(late[: min(waiting, self._quota)], waiting)

    def _longest(self, running: list[Running]) -> list[Running]:
        """Return downloads that may be interrupted, those first that would last longest."""
        wanted = [
            one
            for one in running
            if one.progress.is_running
            and not one.progress.reason
            and one.progress.seconds > MIN_SECONDS
            and not self._ends_soon(one)
        ]
        return sorted(wanted, key=lambda one: (one.progress.seconds_left(), -one.progress.pace),
                      reverse=True)  # fmt: skip

    def _ends_soon(self, one: Running) -> bool:
        """Return whether a download ends soon; this is believed only for a limited time."""
        if one.progress.seconds_left() > ENDS_SOON:
            return False
        if one.ends_by is None:
            one.ends_by = self._clock() + 2 * ENDS_SOON
        return self._clock() < one.ends_by

    def _waiting(self, running: list[Running], parties: set[Party]) -> int:
        """Return how many due assets are not of these parties; counting ends soon."""
        stopping = sum(bool(one.progress.reason) for one in running)
        due = self._claims.count_due(_avoiding(running, parties), 4 * self._threads)
        return max(0, due - stopping)

    def figures(self) -> dict[str, object]:
        """Return what a worker's heartbeats say about its downloads."""
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


def _avoiding(running: Iterable[Running], parties: set[Party]) -> Avoided:
    """Return how the assets of these parties are avoided: a host by the URLs that lead to it."""
    hosts = {one.netloc for one in running if (one.parties - {one.job}) & parties}
    return Avoided(
        refs=frozenset(name for kind, name in parties if kind == "job"),
        hosts=frozenset(hosts | {name for kind, name in parties if kind == "netloc"}),
    )


def _pause(seconds: float) -> float:
    """Return how long a query that took these seconds is not repeated."""
    return min(LOOK_SHARE * seconds, LOOK_PAUSE)


def _jobs(parties: set[Party]) -> set[Party]:
    return {party for party in parties if party[0] == "job"}


def _count(running: Iterable[Running], parties: set[Party]) -> int:
    return sum(bool(one.parties & parties) for one in running)


def _key(claimed: Claimed[Asset]) -> tuple[str, str, int]:
    return claimed.token, claimed.row.ref, claimed.row.idx


def _allowed_factor(one: Running) -> int:
    """Return how many times longer a download may last than at its first attempt."""
    return int(2 ** min(one.asset.attempts - 1, MOST_DOUBLINGS))


def _expected_seconds(progress: Progress) -> float:
    """Return how many seconds a download will last in all, by its pace and size so far."""
    size = max(progress.announced or 2 * progress.received, SMALL)
    left = size - progress.received
    return progress.seconds + left / progress.pace if progress.pace else float("inf")
