"""How figures are written for people: sizes, times, spans."""

import hashlib
import time
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

_STATIC = Path(__file__).parent.parent / "static"
_UNITS = ("B", "KB", "MB", "GB", "TB")
_STEP = 1024
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def size(number: int | None) -> str:
    """Write a number of bytes."""
    value, unit = float(number or 0), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return (
        f"{value:.0f} {_UNITS[unit]}"
        if unit == 0 or value >= 100  # noqa: PLR2004 - three digits
        else f"{value:.1f} {_UNITS[unit]}"
    )


def clock(moment: float | None) -> str:
    """Write a moment (seconds since the epoch) for people, in UTC; the page's script makes it the reader's own time."""
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def machine(moment: float | None) -> str:
    """Write a moment for the ``datetime`` of a ``<time>``."""
    return (
        ""
        if moment is None
        else datetime.fromtimestamp(moment, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def now() -> int:
    """Return the moment by this machine's clock, in milliseconds: the reader's may be wrong."""
    return int(time.time() * 1000)


def span(seconds: float | None) -> str:
    """Write how long something took."""
    if seconds is None:
        return "–"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - two digits
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:02.0f} s"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:02.0f} min"
    return f"{seconds / _DAY:.1f} d"


def number(value: int) -> str:
    """Write a large number so that it can be read."""
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """Write a part of a whole in per cent."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


@lru_cache(maxsize=64)
def fingerprint(name: str) -> str:
    """Return what changes when a static file does."""
    return hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:12]
