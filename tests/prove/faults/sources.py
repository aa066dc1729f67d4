"""Sources: a file behind a result URL is missing, late, or incomplete."""

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
# The file is lost and must be reported as lost: no URL works, and a poll brings no other.
_DEAD: dict[str, Any] = {"file": {"mode": "expired", "times": 0}, "result": {"refresh": False}}

SOURCES = (
    *(Fault(f"source: {name}", menu=({"file": mode},)) for name, mode in _MODES.items()),
    Fault("source: dead for good", menu=(_DEAD, {}), seconds=10, settings={"URL_LIFETIME": "4"}),
)
