"""What fal, Replicate, BFL and kie.ai have in common: plain JSON over HTTP. No I/O.

Texts and numbers are cut to a maximum, and NUL characters removed, because PostgreSQL cannot store
them: no body can cause unlimited work in the rest of the service.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic_core import from_json

from receiver.errors import (
    AnswerLostError,
    NoSuchTaskError,
    NotSentError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Result
from receiver.providers.data_urls import is_data_url, location, picture_at
from receiver.providers.dialect import Head

# How many results of a report are archived, as for GRSAI.
MAX_RESULTS = 256
_MAX_ID = 200
_MAX_URL = 8192
_MAX_TEXT = 2000
_MAX_SIDE = 1_000_000
_MAX_NESTED = 4
_TOO_MANY_REQUESTS, _NOT_FOUND = 429, 404
# Fields of a result that may hold the picture itself.
_BASE64_FIELDS = ("b64_json", "base64", "file_data")
_MESSAGE_FIELDS = ("detail", "error", "message", "msg", "title")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)
_MODERATED = re.compile(
    r"moderat|content.?polic|content.?filter|nsfw|flagged|sensitive|inappropriate|safety",
    re.IGNORECASE,
)
_RATIO = re.compile(r"[1-9][0-9]{0,3}:[1-9][0-9]{0,3}")
_PIXELS = re.compile(r"([1-9][0-9]{0,5}) ?[x×*] ?([1-9][0-9]{0,5})", re.IGNORECASE)


# Reading.


def document(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; raise UnreadableError if there is none."""
    try:
        found = from_json(body.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise UnreadableError("the body is not a JSON object")
    return found


def part(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object in a field; an empty one if it holds anything else."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def text(value: object) -> str:
    """Return a text cut to a maximum length; "" for anything else."""
    return value[:_MAX_TEXT].replace("\x00", "").strip() if isinstance(value, str) else ""


def identifier(value: object) -> str | None:
    """Return an id; None for anything else, or for a text that is too long."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    found = text(value)
    return found if 0 < len(found) <= _MAX_ID else None


def message(value: object, layers: int = _MAX_NESTED) -> str:
    """Return the words of an error: a text, an object with one, or a list of them."""
    if not layers:
        return ""
    if isinstance(value, list):
        parts = (message(item, layers - 1) for item in value[:10])
        return "; ".join(filter(None, parts))[:_MAX_TEXT]
    if isinstance(value, dict):
        fields = (message(value.get(name), layers - 1) for name in _MESSAGE_FIELDS)
        return next(filter(None, fields), "")
    return text(value)


def is_moderated(words: str) -> bool:
    """Return whether an error's words say that the content was refused."""
    return bool(_MODERATED.search(words))


def results(values: Iterable[object]) -> tuple[tuple[Result, ...], int]:
    """Return the results in a list of URLs or objects with one, and how many are too many.

    A picture inside the report, as ``data:`` URL or base64, is a result too.
    """
    found = list(_addresses(values, _MAX_NESTED))
    made = (
        Result(location(place, url), _side(owner.get("width")), _side(owner.get("height")))
        for place, (url, owner) in enumerate(found[:MAX_RESULTS])
    )
    return tuple(made), max(0, len(found) - MAX_RESULTS)


def picture(values: Iterable[object], url: str) -> str:
    """Return the base64 text of the picture that ``url`` (``delivery:<index>``) names.

    Raise UnreadableError if these results have no such picture inside.
    """
    return picture_at([found for found, _ in _addresses(values, _MAX_NESTED)], url)


def _addresses(values: Iterable[object], layers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the address of each result, with the object that it is in."""
    if not layers:
        return
    for value in values:
        if isinstance(value, list):
            yield from _addresses(value, layers - 1)
        elif isinstance(value, dict):
            if (url := _address_in(value)) is not None:
                yield url, value
        elif (url := _address(value)) is not None:
            yield url, {}


def _address_in(item: dict[str, Any]) -> str | None:
    """Return the URL of an object, or what it has of the picture itself."""
    if (url := _address(item.get("url"))) is not None:
        return url
    inside = next(filter(None, map(item.get, _BASE64_FIELDS)), None)
    if not isinstance(inside, str):
        return None
    return _address(inside) or f"data:;base64,{inside}"


def _address(value: object) -> str | None:
    """Return an http(s) or ``data:`` URL; None for anything else."""
    if isinstance(value, str) and is_data_url(found := value.strip()):
        return found
    return address(value)


def address(value: object) -> str | None:
    """Return an http(s) URL; None for anything else."""
    if not isinstance(value, str) or len(value) > _MAX_URL:
        return None
    found = value.replace("\x00", "").strip()
    return found if found.lower().startswith(("https://", "http://")) else None


def poll_address(value: object) -> str | None:
    """Return an http(s) URL that can be asked; None for anything else."""
    found = address(value)
    with suppress(ValueError):  # a broken IPv6 address, or a port that is not a number
        if found is not None and urlsplit(found).port != 0 and urlsplit(found).hostname:
            return found
    return None


def _side(value: object) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value <= _MAX_SIDE else None  # type: ignore[operator,return-value]  # an int


def moment(value: object) -> float | None:
    """Return an RFC 3339 time in seconds since the epoch; None for anything else."""
    try:
        found = datetime.fromisoformat(text(value))
    except ValueError:
        return None
    return None if found.tzinfo is None else found.timestamp()


# Answers.


def submitted(head: Head, body: bytes, setting: str) -> dict[str, Any]:
    """Return the object in the answer to a submit with status 2xx.

    Raise RefusedError (no job was started), NotSentError (rate limit) or AnswerLostError (unknown
    whether a job was started). ``setting`` is the remedy for a redirect.
    """
    if head.redirects:
        raise RefusedError(head.redirect_text(setting))
    try:
        found = document(body)
    except UnreadableError as error:
        found, unreadable = {}, str(error)
    else:
        unreadable = ""
    words = message(found) or f"the provider answered HTTP {head.status}"
    if head.status == _TOO_MANY_REQUESTS:
        raise NotSentError(words)
    if head.refuses:
        raise RefusedError(words)
    if not head.is_success or unreadable:
        raise AnswerLostError(unreadable or words)
    return found


def polled(head: Head, body: bytes, setting: str) -> None:
    """Check the answer to a poll by its status.

    An unreadable answer with status 2xx passes, so that it is stored. Raise NoSuchTaskError, or
    ProviderUnavailableError if it says nothing about the task.
    """
    if head.redirects:
        raise ProviderUnavailableError(head.redirect_text(setting))
    if head.is_success:
        return
    try:
        words = message(document(body))
    except UnreadableError:
        words = ""
    words = words or f"asked for a result, the provider answered HTTP {head.status}"
    raise (NoSuchTaskError if head.status == _NOT_FOUND else ProviderUnavailableError)(words)


def checked(head: Head, body: bytes, setting: str) -> dict[str, Any]:
    """Return the object in an answer that needs our key; raise UnreadableError without one."""
    if head.redirects:
        raise UnreadableError(head.redirect_text(setting))
    if not head.is_success:
        try:
            words = message(document(body))
        except UnreadableError:
            words = ""
        raise UnreadableError(words or f"HTTP {head.status}")
    return document(body)


def number(value: object) -> float | None:
    """Return a finite number; None for anything else, such as NaN, which JSON does not have."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    with suppress(OverflowError):  # an int beyond every float
        return float(value) if math.isfinite(value) else None
    return None


# Requests.


def model_path(model: str, example: str) -> str:
    """Return the model as a part of a path; raise ValueError if it cannot be one."""
    if not _MODEL.fullmatch(model):
        raise ValueError(f"{model!r} is not a model's name, such as {example}")
    return quote(model)


def pixels(size: str) -> tuple[int, int] | None:
    """Return width and height of a size in pixels; None for any other."""
    found = _PIXELS.fullmatch(size)
    return (int(found[1]), int(found[2])) if found else None


def ratio(size: str) -> str | None:
    """Return a size that is a ratio, such as 3:2; None for any other."""
    return size if _RATIO.fullmatch(size) else None
