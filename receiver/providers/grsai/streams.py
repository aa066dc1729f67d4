"""The events of a stream: server-sent events, JSON lines, or one object over many lines."""

import re
from collections.abc import Iterable, Iterator

from receiver.providers.grsai.loose_json import is_complete

# Lines that may belong to one object.
_MAX_HELD = 100
_BOM = b"\xef\xbb\xbf"


def events(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the JSON bodies in the lines of a stream, up to ``[DONE]`` or the end.

    A body is in one ``data:`` line or several, or bare in a line of its own (NDJSON) or over many
    lines. Comments and other fields of server-sent events are skipped. A body that stays incomplete
    is yielded too, so that it can be stored.
    """
    held: list[bytes] = []
    is_data = (
        False  # whether the collected lines are server-sent events, which end with a blank line
    )
    for line in lines:
        if (found := _payload(line)) is None:
            continue
        payload, of_data = found
        if payload.strip() == b"[DONE]":
            break
        ends = is_data and not payload.strip()
        # An object at the start of a line begins an event.
        if held and (ends or payload[:1] == b"{" or len(held) >= _MAX_HELD):
            yield from _event(held)
            held = []
        is_data = is_data if held else of_data
        held.append(payload)
        if is_complete(b"\n".join(held).strip()):
            yield from _event(held)
            held = []
    yield from _event(held)


def _payload(line: bytes) -> tuple[bytes, bool] | None:
    """Return what a line has of a body, and whether it is data of a server-sent event.

    None if it is a comment or another field.
    """
    line = line.removeprefix(_BOM).rstrip(b"\r")
    if line.startswith((b":", b"event:", b"id:", b"retry:")):
        return None
    is_data = line.startswith(b"data:")
    payload = line.removeprefix(b"data:").removeprefix(b" ") if is_data else line
    return payload.removeprefix(_BOM), is_data


def _event(held: list[bytes]) -> Iterator[bytes]:
    """Yield a body; nothing for a text without any JSON, which only keeps the connection open."""
    body = b"\n".join(held).strip()
    if re.search(rb'[{\["]', body):
        yield body
