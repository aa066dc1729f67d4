"""What time it is for the service: time that passes evenly, whatever is done to the machine's clock meanwhile.

Leases, polls and deadlines are all kept by it. When an administrator, or NTP, sets the clock, rows would otherwise look abandoned, or lie
in the future, by as much. So the clock is read once; from then on the time since is added, by a counter that nobody can set.
"""

import os
import random
import time
from collections.abc import Sequence
from functools import cache

# How a process tells those it starts what it goes by: seconds between the epoch and the machine's start.
_SHARED = "RECEIVER_CLOCK"
# Not the shared generator of ``random``: tests seed it and watch it while other threads run.
_random = random.SystemRandom()


def now() -> float:
    """Return the seconds since the epoch, UTC."""
    return _machine_started_at() + _since_then()


def share() -> None:
    """Have the processes started from here go by this one's time."""
    os.environ[_SHARED] = repr(_machine_started_at())


def error() -> float:
    """Return by how many seconds the machine's clock was set forward (negative: back) since we read it."""
    return time.time() - now()


def back_off(attempt: int, waits: Sequence[float], *, jitter: float = 0.25) -> float:
    """Return the seconds to wait after the ``attempt``-th failure (from 1).

    ``waits`` are the seconds after each failure; its last number also applies to all later ones.
    ``jitter`` spreads the result by up to this part of it, so that not all retry at once.
    """
    wait = waits[min(max(attempt, 1), len(waits)) - 1]
    return wait * _random.uniform(1 - jitter, 1 + jitter)


def doubling(first: float, longest: float) -> tuple[float, ...]:
    """Return waits for ``back_off``: ``first``, twice as much each time, and at last ``longest``."""
    return (first, *doubling(first * 2, longest)) if first < longest else (longest,)


@cache
def _machine_started_at() -> float:
    shared = os.environ.get(_SHARED)
    return float(shared) if shared else time.time() - _since_then()


def _since_then() -> float:
    # Unlike the monotonic clock this one goes on while the machine sleeps; only Linux has it.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
