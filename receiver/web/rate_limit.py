"""How much strangers may ask of us: token buckets, one for all and one for each source, so that no single source can use up the whole."""

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Lock

# Sources remembered; one that is forgotten begins anew, and what all may have still bounds it.
MOST_SOURCES = 1000
# The part of the whole that one source may have.
SHARE = 0.5


class RateLimiter:
    """Lets ``a_minute`` requests pass in a minute, as many at once after a pause; half of both for one source. Safe between threads.

    A source is an IPv4 address or an IPv6 /64 network. Behind a proxy everybody is one source: the proxy's.
    """

    def __init__(self, a_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_minute = a_minute
        self._clock = clock
        self._lock = Lock()
        self._whole = _Bucket(a_minute, clock())
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str | None) -> bool:
        """Say whether one more request from this address may pass, and count it if so."""
        source = _network(address)
        with self._lock:
            now = self._clock()
            own = self._sources.setdefault(source, _Bucket(self._a_minute * SHARE, now))
            self._sources.move_to_end(source)
            while len(self._sources) > MOST_SOURCES:
                self._sources.popitem(last=False)
            if own.level(now) < 1 or self._whole.level(now) < 1:
                return False
            own.tokens -= 1
            self._whole.tokens -= 1
            return True


class _Bucket:
    """Fills up with ``a_minute`` tokens a minute, and holds no more than so many."""

    def __init__(self, a_minute: float, now: float) -> None:
        self._a_minute = a_minute
        self._seen = now
        self.tokens = a_minute

    def level(self, now: float) -> float:
        """Return how many tokens there are now."""
        self.tokens = min(self._a_minute, self.tokens + (now - self._seen) * self._a_minute / 60)
        self._seen = now
        return self.tokens


def _network(address: str | None) -> str:
    """Return whom an address belongs to: whoever has one IPv6 address has its whole /64."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return str(ip)
