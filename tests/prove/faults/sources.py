"""Sources: the ways in which a file behind a result URL is not there, not yet, or not whole."""

from typing import Any

from tests.prove.fault import Fault

_MODES: dict[str, dict[str, Any]] = {
    "not ready yet": {"mode": "not_ready", "times": 2},
    "answers 500": {"mode": "error", "times": 2},
    "reset": {"mode": "reset", "times": 1},
    "truncated": {"mode": "truncated", "times": 1},
    "truncated, no length": {"mode": "truncated", "times": 1, "length": False},
    "placeholder page": {"mode": "placeholder", "times": 2},
    "slow drip": {"mode": "slow", "rate": 8_000},
    "early expiry": {"mode": "expired", "times": 1},
}
# It is lost, and has to be called lost: no URL of it ever lives, and asking again brings no other.
_DEAD: dict[str, Any] = {"file": {"mode": "expired", "times": 0}, "result": {"refresh": False}}

SOURCES = (
    *(Fault(f"source: {name}", menu=({"file": mode},)) for name, mode in _MODES.items()),
    Fault("source: dead for good", menu=(_DEAD, {}), seconds=10, settings={"URL_LIFETIME": "4"}),
)
