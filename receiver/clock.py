"""The time of the service, which changes of the machine's clock do not affect; and back-off.

Leases, polls and deadlines use it. If an administrator or NTP set the clock, rows would otherwise
look abandoned, or their times would be in the future. So the clock is read once; later times are
computed with a counter that cannot be set.
"""

import os
import random
import time
from collections.abc import Sequence
from functools import cache

# Passes the time of a process to its children: the machine's start, in seconds since the epoch.
_SHARED = "RECEIVER_CLOCK"
# Not the shared generator of ``random``: tests seed it and watch it while other threads run.
_random = random.SystemRandom()


def now() -> float:
    """Return the seconds since the epoch, UTC."""
    return _machine_started_at() + since_start_of_machine()


def since_start_of_machine() -> float:
    """Return the seconds since the machine started: its processes agree, even if a clock is set.

    Unlike a monotonic clock it goes on while the machine sleeps; only Linux has that.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def share() -> None:
    """Make the processes that are started from now on use the time of this one."""
    os.environ[_SHARED] = repr(_machine_started_at())


def error() -> float:
    """Return how many seconds the machine's clock is ahead of ours (negative: behind)."""
    return time.time() - now()


def rough(seconds: float) -> str:
    """Return a duration roughly, as in "5 min" or "3 days"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def back_off(attempt: int, waits: Sequence[float], *, jitter: float = 0.25) -> float:
    """Return the seconds to wait after the ``attempt``-th failure (from 1).

    ``waits`` are the seconds after each failure; its last number also applies to all later ones.
    ``jitter`` spreads the result by up to this part of it, so that not all retry at once.
    """
    wait = waits[min(max(attempt, 1), len(waits)) - 1]
    return wait * _random.uniform(1 - jitter, 1 + jitter)


def doubling(first: float, longest: float) -> tuple[float, ...]:
    """Return waits for ``back_off``: ``first``, then twice as long each time, up to ``longest``."""
    return (first, *doubling(first * 2, longest)) if first < longest else (longest,)


@cache
def _machine_started_at() -> float:
    shared = os.environ.get(_SHARED)
    return float(shared) if shared else time.time() - since_start_of_machine()
