"""Reports about tasks: callbacks, stream events and results, read into one shape. No I/O.

The vendor's words are translated here. Unknown fields are ignored. An unknown status means "still
running" unless the result is there. Texts are cut to a maximum length, so that no body can cause
unlimited work in the rest of the service.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from receiver.errors import UnreadableError
from receiver.model import Outcome, Reason, Report, Result
from receiver.providers.data_urls import is_data_url, location, picture_at
from receiver.providers.grsai.bodies import parse, status_word, task_id, unwrap

# How many results of a report are archived; the job names the others (docs/reliability.md).
MAX_RESULTS = 256
# Limits on what is kept of a body, in characters and pixels, and how deep results may be nested.
_MAX_ID = 200
_MAX_URL = 8192
_MAX_TEXT = 2000
_MAX_SIDE = 1_000_000
_MAX_FIELDS = 1000
_MAX_NESTED = 4
# Results that are counted, but not archived.
_MAX_COUNTED = 10_000
_DONE = 100  # the progress of a task that has ended

_OUTCOMES = {
    **dict.fromkeys(
        ("succeeded", "success", "succeed", "completed", "complete", "done", "finished"),
        Outcome.SUCCEEDED,
    ),
    **dict.fromkeys(
        ("failed", "failure", "fail", "error", "timeout", "canceled", "cancelled", "violation"),
        Outcome.FAILED,
    ),
    **dict.fromkeys(
        ("running", "queued", "pending", "processing", "submitted", "starting", "in_progress"),
        Outcome.RUNNING,
    ),
}
_REASONS = {
    "input_moderation": Reason.INPUT_MODERATION,
    "output_moderation": Reason.OUTPUT_MODERATION,
    "violation": Reason.VIOLATION,
}
# Names of fields in lower case, without underscores.
_REASON_FIELDS = ("failurereason", "failreason", "reason", "code", "type")
_MESSAGE_FIELDS = (
    *("error", "errormessage", "errormsg", "msg", "message", "detail"),
    *("failurereason", "failreason"),
)
# Words in envelopes that mean success.
_NO_MESSAGE = frozenset({"success", "ok", "succeeded", "null", "none"})
_MODERATED = re.compile(
    r"moderat|violat|content.?(?:policy|filter)|safety.system|nsfw|inappropriate|flagged"
    r"|sensitive.(?:content|word)|违规|审核|敏感",
    re.IGNORECASE,
)
_URL_FIELDS = ("url", "videoUrl", "video_url", "imageUrl", "image_url")
_RESULT_FIELDS = ("results", "result", "output", "data")
_ADDRESS = re.compile(r"https?://|data:", re.IGNORECASE)


def read_report(body: bytes) -> Report:
    """Read a task object in any of its envelopes and spellings.

    Raise UnreadableError if there is none.
    """
    parsed = parse(body)
    document = unwrap(parsed)
    task = document.value
    provider_id, status = identifier(task_id(task)), _word(status_word(task))
    if provider_id is None and isinstance(task.get("data"), str):
        provider_id = identifier(task["data"])  # the answer to a submit may be a bare id
    if provider_id is None and not status:
        raise UnreadableError("the body has neither an id nor a status")
    progress, found = _progress(task.get("progress")), _results(task)
    is_bare = task is parsed.value  # not the answer to a submit, which may have nothing but an id
    if parsed.repairs and not found and (_is_damaged(task) or (is_bare and not status)):
        raise UnreadableError(f"the body is damaged where it matters ({', '.join(parsed.repairs)})")
    outcome = _outcome(status, progress, has_results=bool(found))
    failed = outcome is Outcome.FAILED
    return Report(
        outcome=outcome,
        provider_id=provider_id,
        status=status,
        progress=progress,
        results=tuple(_result(place, *one) for place, one in enumerate(found[:MAX_RESULTS])),
        reason=_reason(task, status) if failed else None,
        message=message_of(task) if failed else "",
        repaired=", ".join(document.repairs),
        left_out=max(0, len(found) - MAX_RESULTS),
    )


def _is_damaged(task: dict[str, Any]) -> bool:
    """Return whether an id is there, but not as it was sent."""
    return bool(task_id(task)) and identifier(task_id(task)) is None


def is_end(body: bytes, provider_id: str) -> bool:
    """Return whether a body is the last report about the task ``provider_id``."""
    try:
        report = read_report(body)
    except UnreadableError:
        return False
    return report.provider_id == provider_id and report.outcome is not Outcome.RUNNING


def read_picture(body: bytes, url: str) -> str:
    """Return the base64 text of the picture that ``url`` (``delivery:<index>``) names.

    Raise UnreadableError if the report has no such picture.
    """
    found = _results(unwrap(parse(body)).value)
    return picture_at([address for address, _ in found], url)


def identifier(value: object) -> str | None:
    """Return an id as text; None if it is empty, too long, or not what was sent."""
    number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    text = str(value) if number else _text(value, _MAX_ID + 1)
    return text if "\ufffd" not in text and 0 < len(text) <= _MAX_ID else None


def message_of(task: dict[str, Any], layers: int = _MAX_NESTED) -> str:
    """Return the provider's own words about a failure; "" if there are none."""
    fields = plainly_named(task)
    for name in _MESSAGE_FIELDS if layers else ():
        value = fields.get(name)
        while isinstance(value, list) and value:
            value = value[0]
        said = message_of(value, layers - 1) if isinstance(value, dict) else _text(value)
        if said and said.lower() not in _NO_MESSAGE:
            return said
    return ""


def plainly_named(task: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with their names in lower case and without underscores.

    Of equal names the first one with a value counts.
    """
    found: dict[str, Any] = {}
    for name, value in islice(task.items(), _MAX_FIELDS):
        plain = name.lower().replace("_", "")
        found[plain] = found.get(plain) or value
    return found


def _outcome(status: str, progress: int, *, has_results: bool) -> Outcome:
    if known := _OUTCOMES.get(_canonical(status)):
        return known
    return Outcome.SUCCEEDED if has_results and progress >= _DONE else Outcome.RUNNING


def is_status(word: str) -> bool:
    """Return whether a text is one of the known words for the state of a task."""
    return _canonical(word) in _OUTCOMES


def _canonical(word: str) -> str:
    """Return a word of the vendor in lower case, with underscores."""
    return re.sub(r"[-\s]+", "_", word.strip().lower())


def _reason(task: dict[str, Any], status: str) -> Reason:
    """Return why a task failed: by its codes, else by its words."""
    task = plainly_named(task)
    error = task.get("error")
    parts = [task, plainly_named(error if isinstance(error, dict) else {})]
    codes = [_canonical(_text(part.get(name))) for part in parts for name in _REASON_FIELDS]
    for code in (_canonical(status), *codes, _canonical(_text(error))):
        if code in _REASONS:
            return _REASONS[code]
    said = " ".join(filter(None, [*codes, message_of(task)]))
    return Reason.VIOLATION if _MODERATED.search(said) else Reason.PROVIDER_ERROR


# Results.


def _results(task: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the address of each result, with the object that it is in. Veo has one, at the top."""
    for name in _RESULT_FIELDS:
        found = list(islice(_addresses(task.get(name), {}, _MAX_NESTED), _MAX_COUNTED))
        if found:
            return found
    return list(islice(_addresses_of(task, _MAX_NESTED), _MAX_COUNTED))


def _addresses(
    value: Any, owner: dict[str, Any], layers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the addresses in a list, an object, a text, or JSON in a text."""
    if not layers:
        return
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = parse(value.encode("utf-8", "replace")).value
        except UnreadableError:
            return
    if isinstance(value, str) and _ADDRESS.match(value.strip()) and (address := _address(value)):
        yield address, owner
    elif isinstance(value, dict):
        yield from _addresses_of(value, layers)
    elif isinstance(value, list):
        for item in value:
            yield from _addresses(item, owner, layers - 1)


def _addresses_of(item: dict[str, Any], layers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the addresses in the first field that has one; in such a field any text is one."""
    for name in _URL_FIELDS:
        value = item.get(name)
        if isinstance(value, str) and value.lstrip()[:1] not in ("{", "["):
            found = [(address, item)] if (address := _address(value)) else []
        else:
            found = list(_addresses(value, item, layers - 1))
        if found:
            yield from found
            return
    if picture := item.get("b64_json"):
        yield from _addresses(f"data:;base64,{picture}", item, layers)


def _address(value: str) -> str | None:
    """Return an address that can be used as it is, None for any other."""
    if is_data_url(value.strip()):
        return value.strip()
    text = re.sub(r"[\t\r\n]", "", _text(value, _MAX_URL + 1))
    return text if "\ufffd" not in text and 0 < len(text) <= _MAX_URL else None


def _result(place: int, address: str, item: dict[str, Any]) -> Result:
    return Result(location(place, address), _side(item.get("width")), _side(item.get("height")))


# Values.


def _text(value: object, max_length: int = _MAX_TEXT) -> str:
    """Return a text cut to ``max_length``, or "".

    NUL is removed, because PostgreSQL cannot store it, and a lone surrogate becomes U+FFFD.
    """
    if not isinstance(value, str):
        return ""
    text = value[:max_length].replace("\x00", "").strip()
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _word(value: object) -> str:
    is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return str(value) if is_number else _text(value)


def _progress(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,3}(\.[0-9]{1,9})?\s*%?\s*", value):
        value = float(value.strip(" %\t\r\n"))
    if not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        return 0
    return int(min(100, max(0, value)))


def _side(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and 1 <= value <= _MAX_SIDE else None
