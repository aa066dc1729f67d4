"""A limit for guesses of ADMIN_TOKEN on the API, which must not shut out those who know it.

A right token cannot be recognized without being compared, so an address without guesses left is not
compared at all. An address that sent the right token lately has more guesses: behind a proxy all
callers have one address, and a stranger's guesses must not stop a program that works.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from receiver.web.rate_limit import MAX_SOURCES, RateLimiter

# Wrong tokens a minute from one address, and from all together; half as many at once.
PER_ADDRESS, IN_ALL = 20.0, 200.0
# The same from an address that sent the right token in the last seconds.
PER_KNOWN_ADDRESS, KNOWN_FOR = 600.0, 600.0


class Guesses:
    """Counts wrong tokens by address. Safe between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._known_until: OrderedDict[str, float] = OrderedDict()
        share = PER_ADDRESS / IN_ALL
        self._strangers = RateLimiter(IN_ALL, burst=IN_ALL / 2, share=share, clock=clock)
        self._known = RateLimiter(
            PER_KNOWN_ADDRESS, burst=PER_KNOWN_ADDRESS / 2, share=1, clock=clock
        )

    def delay(self, address: str | None) -> float:
        """Return the seconds until a token from this address may be compared; 0: now."""
        return self._limiter(address).remaining_delay(address)

    def right(self, address: str | None) -> None:
        """Remember an address that sent the right token."""
        with self._lock:
            self._known_until[address or ""] = self._clock() + KNOWN_FOR
            self._known_until.move_to_end(address or "")
            while len(self._known_until) > MAX_SOURCES:
                self._known_until.popitem(last=False)

    def wrong(self, address: str | None) -> None:
        """Count a wrong token."""
        self._limiter(address).delay(address)

    def _limiter(self, address: str | None) -> RateLimiter:
        is_known = self._known_until.get(address or "", 0.0) > self._clock()
        return self._known if is_known else self._strangers
