"""Bytes to JSON: strictly first, then tolerantly, with a list of what had to be repaired.

A body is worth money if it names a task and its result, however it is spelled. So a field that is
ignored may have any bytes. The object may be compressed, in another charset, in a form field, in a
list of one, or JSON in a JSON string. All work and memory is bounded. Nothing is guessed: a value
is either in the body or it is not.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json

from receiver.errors import UnreadableError
from receiver.providers.grsai.loose_json import SPACE, decode
from receiver.providers.grsai.streams import events

# Bytes of a body after decompression, and how many times its size they may be. JSON becomes up to
# 30 times as long, pictures in base64 (in large bodies) 1.4 times. With higher limits, 16 KB from a
# stranger would cost seconds and a gigabyte.
_SMALL, _SMALL_RATIO = 128 * 1024, 32
_LARGE, _LARGE_RATIO = 1024 * 1024, 2
# Most layers around an object, one inside another.
_MAX_LAYERS = 16
# Objects, form fields or lines of events that are read of one body.
_MAX_PARTS = 1000

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# Without a byte order mark: where the NUL bytes are in a text that begins with ASCII (RFC 4627).
_NULS = (
    (re.compile(rb"[^\0]\0\0\0", re.DOTALL), "utf-32-le"),
    (re.compile(rb"\0\0\0[^\0]", re.DOTALL), "utf-32-be"),
    (re.compile(rb"[^\0]\0[^\0]\0", re.DOTALL), "utf-16-le"),
    (re.compile(rb"\0[^\0]\0[^\0]", re.DOTALL), "utf-16-be"),
)
# gzip, or zlib with a window of 32 KiB or less.
_PACKED = re.compile(rb"\x1f\x8b|[\x08\x18\x28\x38\x48\x58\x68\x78][\x01\x5e\x9c\xda]")
_TASK_IDS = ("id", "taskId", "task_id")
_STATUSES = ("status", "state")
# Words in envelopes that are about the request, not about a task.
_ALL_IS_WELL = frozenset({"success", "ok", "true", "0", "200"})
ENVELOPES = ("data", "task", "result", "payload", "body", "response", "json")


@dataclass(frozen=True, slots=True)
class Document:
    """The JSON value of a body, and what was repaired to read it."""

    value: Any
    repairs: tuple[str, ...] = ()


def parse(body: bytes) -> Document:
    """Return the JSON value of a body; raise UnreadableError if there is none."""
    try:
        return Document(from_json(body, allow_inf_nan=False))
    except ValueError as error:
        for text, repairs in _texts(body):
            if found := _read_text(text):
                return Document(found.value, _distinct(*repairs, *found.repairs) or ("loose JSON",))
        raise UnreadableError(f"the body is not JSON: {error}") from error


def unwrap(document: Document) -> Document:
    """Return the task object in a document; raise UnreadableError if there is no object.

    Lists of one and JSON strings count as repairs, envelopes (``{"code", "msg", "data"}``) do not.
    """
    found = _unwrap(document.value, _MAX_LAYERS)
    if found is None:
        raise UnreadableError("the body is JSON, but no object")
    return Document(found.value, _distinct(*document.repairs, *found.repairs))


def first_of(values: dict[str, Any], names: Iterable[str]) -> Any:
    """Return the first value that is not empty; None if all are."""
    return next((value for name in names if (value := values.get(name))), None)


def task_id(task: dict[str, Any]) -> Any:
    """Return the field that names the task."""
    return first_of(task, _TASK_IDS)


def status_word(task: dict[str, Any]) -> Any:
    """Return the vendor's word for the state of the task."""
    return first_of(task, _STATUSES)


def _distinct(*repairs: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(repairs))


# Bytes to text.


def _texts(body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield the texts that a body may be, the likeliest first, with what was repaired."""
    repairs: list[str] = []
    while len(repairs) < 2 and (unpacked := _unpacked(body)) is not None:  # noqa: PLR2004 - packed twice
        body = unpacked
        repairs.append("compressed")
    for bom, charset in _BOMS:
        if body.startswith(bom):
            yield body.removeprefix(bom).decode(charset, "replace"), [*repairs, _name(charset)]
            return
    for pattern, charset in _NULS:
        if pattern.match(body):
            yield body.decode(charset, "replace"), [*repairs, charset.upper()]
            return
    yield from ((text, [*repairs, *more]) for text, more in _eight_bit_texts(body))
    if not repairs and (plain := _inflated(body, -zlib.MAX_WBITS)):
        yield plain.decode("utf-8", "replace"), ["compressed"]


def _name(charset: str) -> str:
    return "byte order mark" if charset == "utf-8" else charset.upper()


def _eight_bit_texts(body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield a body as UTF-8 and, if that does not fit, as Chinese charsets.

    Text in GBK has bytes that are quotes and backslashes for UTF-8. A UTF-8 text with a few broken
    bytes stays UTF-8.
    """
    try:
        yield body.decode(), []
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        good = sum(character > "\x7f" and character != "\ufffd" for character in text)
        orders = [(text, ["not UTF-8"])]
        for charset in ("gb18030", "big5"):
            try:
                orders.append((body.decode(charset), [charset.upper()]))
            except UnicodeDecodeError:
                continue
        if good < text.count("\ufffd"):
            orders.append(orders.pop(0))
        yield from orders


def _unpacked(body: bytes) -> bytes | None:
    return _inflated(body, zlib.MAX_WBITS | 32) if _PACKED.match(body) else None


def _inflated(body: bytes, window: int) -> bytes | None:
    """Return a decompressed body; None if it is not compressed like this, incomplete or huge."""
    unpacker = zlib.decompressobj(window)
    try:
        unpacked = unpacker.decompress(body, _max_unpacked(len(body)))
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None


def _max_unpacked(size: int) -> int:
    return min(max(_SMALL, _SMALL_RATIO * size), max(_LARGE, _LARGE_RATIO * size))


# Text to a value.


def _read_text(text: str) -> Document | None:
    text = text.strip(SPACE)
    for read in (_json, _events_in, _form):
        if found := read(text):
            return found
    return None


def _json(text: str) -> Document | None:
    """Read the JSON values in a text; of several objects the last that names a task counts."""
    values: list[Any] = []
    repairs: list[str] = []
    at = 0
    while at < len(text) and len(values) < _MAX_PARTS:
        found = decode(text, at)
        if found is None:
            break
        value, end, fixed = found
        values.append(value)
        repairs += fixed
        at = end
        while at < len(text) and text[at] in SPACE:
            at += 1
    if not values:
        return None
    if at < len(text):
        repairs.append("bytes after the JSON")
    return _last_task(values, repairs)


def _last_task(values: list[Any], repairs: list[str]) -> Document:
    if len(values) > 1:
        repairs.append("several objects")
    tasks = [
        value for value in values if (found := _unwrap(value, _MAX_LAYERS)) and _rank(found.value)
    ]
    return Document((tasks or values)[-1], tuple(repairs))


def _events_in(text: str) -> Document | None:
    """Read a body of server-sent events."""
    if not re.search(r"^(?:data|event|id|retry)?:", text, re.MULTILINE):
        return None
    lines = text.encode("utf-8", "replace").splitlines()[-_MAX_PARTS:]  # the last one counts
    found = [read for event in events(lines) if (read := _json(event.decode("utf-8", "replace")))]
    if not found:
        return None
    repairs = [repair for read in found for repair in read.repairs]
    return _last_task([read.value for read in found], ["event stream", *repairs])


def _form(text: str) -> Document | None:
    """Read a form: a field whose value (or name) is JSON, or the fields of the task themselves."""
    fields = _multipart(text) if text.startswith("--") else _urlencoded(text)
    task = dict(fields)
    if _rank(task) == 2:  # noqa: PLR2004 - id and status; another field may be JSON, as its results
        return Document(task, ("form",))
    for name, value in fields:
        for part in (value, name):
            if part.lstrip(SPACE)[:1] in ("{", "[", '"') and (found := _json(part.strip(SPACE))):
                return Document(found.value, ("form", *found.repairs))
    return Document(task, ("form",)) if _rank(task) else None


def _urlencoded(text: str) -> list[tuple[str, str]]:
    if "=" not in text or text.startswith("<"):
        return []
    name, _, value = text.partition("=")
    if value.lstrip(SPACE)[:1] in ("{", "["):  # not escaped
        return [(name, value)]
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_PARTS)
    except ValueError:
        return []


def _multipart(text: str) -> list[tuple[str, str]]:
    boundary = text.partition("\n")[0].strip()
    fields = []
    for part in text.split(boundary, _MAX_PARTS)[1:_MAX_PARTS]:
        head, blank, content = part.replace("\r\n", "\n").partition("\n\n")
        name = re.search(r'name="?([^";\n]+)', head)
        if blank:
            fields.append((name[1] if name else "", content.strip(SPACE)))
    return fields


# A value to the task object in it.


def _unwrap(value: Any, layers: int) -> Document | None:
    """Return the object that says most about a task: itself, or one that it wraps."""
    if not layers:
        return None
    if isinstance(value, str) and value.lstrip(SPACE)[:1] in ("{", "[", '"'):
        inner = _json(value.strip(SPACE))
        return _layer(inner.value, layers, "JSON in a string", *inner.repairs) if inner else None
    if isinstance(value, list) and len(value) == 1:
        return _layer(value[0], layers, "list of one")
    if not isinstance(value, dict):
        return None
    best = Document(value)
    for name in ENVELOPES:
        inner = _unwrap(value[name], layers - 1) if name in value else None
        if inner is not None:
            best = _better(best, inner)
    return best


def _layer(value: Any, layers: int, *repairs: str) -> Document | None:
    inner = _unwrap(value, layers - 1)
    return Document(inner.value, (*repairs, *inner.repairs)) if inner else None


def _better(outer: Document, inner: Document) -> Document:
    """Return the object that says more about a task, or both merged if each has a part."""
    said, more = _rank(outer.value), _rank(inner.value)
    if said == more == 1 and bool(task_id(outer.value)) != bool(task_id(inner.value)):
        return Document({**outer.value, **inner.value}, inner.repairs)
    is_request = said == more and _is_well(outer.value) and not _is_well(inner.value)
    return inner if more > said or is_request else outer


def _is_well(value: dict[str, Any]) -> bool:
    return str(status_word(value)).strip().lower() in _ALL_IS_WELL


def _rank(value: Any) -> int:
    """Return how much an object says: 0 nothing, 1 an id or a status, 2 both."""
    return isinstance(value, dict) and bool(task_id(value)) + bool(status_word(value))
