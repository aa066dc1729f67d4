"""How the pages write sizes, times and durations."""

import hashlib
import time
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

from receiver.ledger.queries.events import MOST_COUNTED

_STATIC = Path(__file__).parent.parent / "static"
_UNITS = ("B", "KB", "MB", "GB", "TB")
_STEP = 1024
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def size(number: int | None) -> str:
    """Return a number of bytes, as in "1.5 MB"."""
    value, unit = float(number or 0), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    if unit == 0 or value >= 100:  # noqa: PLR2004 - three digits
        return f"{value:.0f} {_UNITS[unit]}"
    return f"{value:.1f} {_UNITS[unit]}"


def disk_size(number: int) -> str:
    """Return bytes of a disk in units of a thousand, as the doctor and makers of disks write it."""
    return f"{number / 1e9:,.1f} GB"


def time_utc(moment: float | None) -> str:
    """Return a time (seconds since the epoch) in UTC; the page's script shows it in local time."""
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def time_iso(moment: float | None) -> str:
    """Return a time in ISO format, for the ``datetime`` attribute of ``<time>``."""
    if moment is None:
        return ""
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def now() -> int:
    """Return this machine's time in milliseconds; the reader's clock may be wrong."""
    return int(time.time() * 1000)


def duration(seconds: float | None) -> str:
    """Return a duration, as in "1 min 05 s"."""
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
    """Return a number with thousands separators."""
    return f"{value:,}"


def amount(value: float | Decimal) -> str:
    """Return an amount of money or credits with up to 4 decimals, as in "1,234.5"."""
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def at_most(value: int) -> str:
    """Return a number that was counted up to 10,000."""
    return f"{value:,}+" if value >= MOST_COUNTED else f"{value:,}"


def share(part: int, whole: int) -> str:
    """Return a part of a whole in per cent."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


@lru_cache(maxsize=64)
def fingerprint(name: str) -> str:
    """Return a short hash of a static file's content."""
    return hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:12]
