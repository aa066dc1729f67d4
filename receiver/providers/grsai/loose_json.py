"""JSON values in a text, read as generously as possible without guessing."""

import json
from typing import Any

# Characters that may stand around a value: white space, NUL, a byte order mark.
SPACE = " \t\r\n\0\ufeff"
# A longer integer is read as a float, so that no conversion takes long.
_MAX_INT_DIGITS = 300


def decode(text: str, at: int) -> tuple[Any, int, list[str]] | None:
    """Return the JSON value at a place in a text, where it ends, and what was repaired.

    NaN becomes null, and texts may have control characters. None if there is no value.
    """
    repairs: list[str] = []
    for strict in (True, False):
        decoder = json.JSONDecoder(
            strict=strict, parse_constant=lambda _word: repairs.append("NaN"), parse_int=_int
        )
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        return value, end, repairs if strict else [*repairs, "control characters"]
    return None


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) < _MAX_INT_DIGITS else float(digits)


def is_complete(body: bytes) -> bool:
    """Return whether a body is one whole JSON object, list or text."""
    if body[:1] not in (b"{", b"[", b'"') or body[-1:] not in (b"}", b"]", b'"'):
        return False
    text = body.decode("utf-8", "replace")
    return (found := decode(text, 0)) is not None and not text[found[1] :].strip(SPACE)
