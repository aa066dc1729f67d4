"""Wait for a condition, never for a time; and the one time limit of all waiting in tests."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds. Generous, so that only what never happens fails, however busy the machine is. The limit
# of a whole test is pytest's ``timeout`` in pyproject.toml.
LIMIT = 90.0

_pause = threading.Event()  # never set


def until(condition: Callable[[], T], *, within: float = LIMIT, what: str = "the condition") -> T:
    """Return the first true value of ``condition``; raise AssertionError after ``within`` seconds.

    Give ``within`` only where the limit itself is what the test is about.
    """
    end, pause = time.monotonic() + within, 0.02
    while not (found := condition()):
        assert time.monotonic() < end, (
            f"{what} did not come true within {within:.0f} s, last seen: {found!r}"
        )
        _pause.wait(pause)
        pause = min(pause * 1.1, 0.06)  # asking often takes processor time from what is waited for
    return found
