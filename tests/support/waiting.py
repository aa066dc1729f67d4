"""Wait for the thing itself, never for a time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_pause = threading.Event()  # never set


def until(condition: Callable[[], T], *, within: float = 20.0, what: str = "the condition") -> T:
    """Return the first true value of ``condition``; AssertionError, saying ``what`` did not come true, after ``within`` seconds."""
    end = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < end, (
            f"{what} did not come true within {within:.0f} s, last seen: {found!r}"
        )
        _pause.wait(0.02)
    return found
