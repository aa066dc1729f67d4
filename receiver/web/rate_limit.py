"""The rate limiter for callbacks without a ticket and for wrong tokens.

Libraries such as Flask-Limiter count per key. This one also limits the sum over all sources, and
the number of sources that it remembers.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Lock

# Sources that are remembered. A forgotten one starts with a full bucket; the total still limits it.
MAX_SOURCES = 1000
# The part of the total that one source may use.
SHARE = 0.5


class RateLimiter:
    """Token buckets: one for all requests and one for each source. Safe between threads.

    ``per_minute`` requests pass in a minute, and ``burst`` (the same number if not given) at once
    after a pause. One source gets ``share`` of both. A source is an IPv4 address or an IPv6 /64
    network; behind a proxy all requests have one source, the proxy's.
    """

    def __init__(
        self,
        per_minute: float,
        *,
        burst: float | None = None,
        share: float = SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute = per_minute
        self._burst = per_minute if burst is None else burst
        self._share = share
        self._clock = clock
        self._lock = Lock()
        self._total = _Bucket(self._burst, per_minute, clock())
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()

    def allows(self, address: str | None) -> bool:
        """Return whether one more request from this address may pass now; count it if it may."""
        return self.delay(address) <= 0

    def delay(self, address: str | None) -> float:
        """Return 0 and count the request if it may pass now, else the seconds until one may."""
        with self._lock:
            now = self._clock()
            buckets = (self._bucket(_source(address), now), self._total)
            delay = max(bucket.delay(now) for bucket in buckets)
            if delay <= 0:
                for bucket in buckets:
                    bucket.tokens -= 1
            return delay

    def _bucket(self, source: str, now: float) -> "_Bucket":
        new = _Bucket(self._burst * self._share, self._per_minute * self._share, now)
        bucket = self._sources.setdefault(source, new)
        self._sources.move_to_end(source)
        while len(self._sources) > MAX_SOURCES:
            self._sources.popitem(last=False)
        return bucket


class _Bucket:
    """Holds at most ``capacity`` tokens and gains ``per_minute`` tokens a minute."""

    def __init__(self, capacity: float, per_minute: float, now: float) -> None:
        self._capacity = capacity
        self._per_minute = per_minute
        self._filled_at = now
        self.tokens = capacity

    def delay(self, now: float) -> float:
        """Return the seconds until there is a token; 0 if there is one now."""
        gained = (now - self._filled_at) * self._per_minute / 60
        self.tokens = min(self._capacity, self.tokens + gained)
        self._filled_at = now
        if self.tokens >= 1:
            return 0.0
        return (1 - self.tokens) * 60 / self._per_minute if self._per_minute else math.inf


def _source(address: str | None) -> str:
    """Return the source of an address; the owner of one IPv6 address has its whole /64 network."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return str(ip)
