"""Answers to our own requests: submits, results, credits. No I/O.

An accepted submit must never count as refused, because its picture is paid for. Its id must never
be lost, because the answer is its only source.
"""

import re
from typing import Any

from pydantic_core import from_json

from receiver.errors import (
    AnswerLostError,
    NoSuchTaskError,
    NotSentError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Api, Outcome, Reason, Report
from receiver.providers.dialect import Head
from receiver.providers.grsai.bodies import ENVELOPES, Document, parse, status_word, unwrap
from receiver.providers.grsai.loose_json import decode
from receiver.providers.grsai.reports import (
    identifier,
    is_status,
    message_of,
    plainly_named,
    read_report,
)

# Codes of success. Any other code is an error, most often -1.
_FINE = frozenset({None, "", 0, "0", 200, "200", 201, "201", 202, "202", "success", "ok"})
_NO_SUCH_TASK = frozenset({-22, "-22"})
_TOO_MANY_REQUESTS = 429
_UNKNOWN_TASK = re.compile(r"not.?found|not.?exist|no.such|unknown.task|不存在", re.IGNORECASE)
# Names of fields in lower case, without underscores.
_ID_FIELDS = ("id", "taskid")
# How deep an answer may have its id.
_MAX_NESTED = 12
_FAILED = frozenset(
    {"failed", "failure", "fail", "error", "violation", "timeout", "canceled", "cancelled"}
)


def read_submit(head: Head, body: bytes) -> str:
    """Return the provider's id from the answer to a submit, even if its end is missing.

    Raise RefusedError (no job was started), NotSentError (rate limit) or AnswerLostError (unknown
    whether a job was started).
    """
    if head.redirects:
        raise RefusedError(head.redirect_text())
    answer = _answer(body) or _beginning(body)
    found, refusal = _find_id(answer, _MAX_NESTED), _refusal(answer)
    is_fine = refusal is None and (head.is_success or not _words(answer))
    if found is not None and (is_fine or (head.is_success and _is_accepted(answer))):
        return found
    if head.status == _TOO_MANY_REQUESTS:
        raise NotSentError("the provider answered 429: too many requests")
    if head.refuses or (head.is_success and refusal is not None):
        text = refusal or _words(answer) or f"the provider answered HTTP {head.status}"
        raise RefusedError(text, provider_id=found)
    if head.is_success and answer is not None:
        raise AnswerLostError("the provider's answer has no id")
    raise AnswerLostError(f"the provider answered HTTP {head.status} with a body that is no answer")


def find_id(body: bytes) -> str | None:
    """Return the task's id in an answer that is not an error, even if its end is missing."""
    answer = _answer(body) or _beginning(body)
    found = _find_id(answer, _MAX_NESTED)
    return found if found and (_refusal(answer) is None or _is_accepted(answer)) else None


def check_unnamed_event(body: bytes) -> bool:
    """Return whether an event of a stream names the task.

    Raise RefusedError if it is an error instead: no task was named before.
    """
    answer = _answer(body)
    refusal = _refusal(answer)
    if refusal is None or _find_id(answer, _MAX_NESTED) is not None:
        return _find_id(answer, _MAX_NESTED) is not None
    found = _report(body)
    if found is None or found.reason in {None, Reason.PROVIDER_ERROR}:
        raise RefusedError(refusal)
    return False  # moderated: the report has the reason


def read_result(api: Api, head: Head, body: bytes, provider_id: str) -> None:
    """Check that an answer is about the task ``provider_id``; ``read_report`` then reads it.

    An unreadable answer with status 2xx passes, so that it is stored. Raise NoSuchTaskError, or
    ProviderUnavailableError if the answer says nothing about the task.
    """
    if head.redirects:
        raise ProviderUnavailableError(head.redirect_text())
    answer = _answer(body)
    if _is_end_of(body, provider_id):
        return  # whatever the status: the newer API answers 400 for a task that failed
    if head.is_success and answer is None:
        return
    # The newer API answers an unknown id with an error status and a body that looks like a failed
    # job. It says nothing about the job.
    is_unknown = api is Api.NEWER and head.status in {400, 404} and answer is not None
    is_unknown = is_unknown and not _is_about(body, provider_id)
    code = answer.get("code") if isinstance(answer, dict) else None
    says_so = head.is_success and (_is(code, _NO_SUCH_TASK) or _says_unknown(body))
    if is_unknown or says_so:
        raise NoSuchTaskError(_words(answer) or "the provider does not know this task")
    if not head.is_success:
        raise ProviderUnavailableError(
            f"asked for a result, the provider answered HTTP {head.status}"
        )
    if not _names_a_task(body, provider_id):
        text = f"code {code}" if code is not None else "without a task"
        raise ProviderUnavailableError(
            _words(answer) or f"asked for a result, the provider answered {text}"
        )


def read_credits(head: Head, body: bytes) -> float:
    """Return the credits that the key has left. Raise UnreadableError if the answer has none."""
    if head.redirects:
        raise UnreadableError(head.redirect_text())
    answer = unwrap(parse(body)).value
    data = answer.get("data")
    left = (data if isinstance(data, dict) else answer).get("credits")
    fine = head.is_success and _is(answer.get("code"), _FINE)
    if not fine or isinstance(left, bool) or not isinstance(left, int | float):
        raise UnreadableError(_words(answer) or f"HTTP {head.status} without credits")
    return float(left)


def _answer(body: bytes) -> Any:
    """Return the outermost object of an answer; None if there is none.

    A text alone is an id, as in ``data``.
    """
    try:
        value = _opened(parse(body).value)
    except UnreadableError:
        return None
    if isinstance(value, str):
        value = {"data": value}
    return value if isinstance(value, dict) else None


def _opened(value: Any, layers: int = _MAX_NESTED) -> Any:
    """Return the value in a list, or in JSON in a text; of several the first."""
    for _ in range(layers):
        if isinstance(value, list) and value:
            value = value[0]
        elif isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
            try:
                value = parse(value.encode("utf-8", "replace")).value
            except UnreadableError:
                return None
    return value


def _beginning(body: bytes) -> Any:
    """Return the object that a body has after other text, or what has arrived of it.

    A text or number that may be incomplete is left out. None for a page of a gateway.
    """
    text = body.decode("utf-8", "replace")
    at = text.find("{")
    if at < 0 or text.lstrip().startswith("<"):
        return None
    if found := decode(text, at):
        return found[0]
    try:
        begun = text[at:].rstrip("0123456789.eE+-")
        return from_json(begun.encode("utf-8", "replace"), allow_partial=True)
    except ValueError:
        return None


def _find_id(value: Any, layers: int) -> str | None:
    """Return the id in an answer: in the wrapped object or text, or next to the status."""
    if not isinstance(value, dict) or not layers:
        return None
    fields = plainly_named(value)
    for name in ENVELOPES:
        inner = _opened(fields.get(name))
        if isinstance(inner, dict):
            found = _find_id(inner, layers - 1)
        else:
            found = _bare_id(inner) if name == "data" and _is(fields.get("code"), _FINE) else None
        if found:
            return found
    return next((found for name in _ID_FIELDS if (found := identifier(fields.get(name)))), None)


def _bare_id(value: Any) -> str | None:
    """Return an id that stands alone; None for a sentence or a status."""
    found = identifier(value)
    if not found or any(character.isspace() for character in found):
        return None
    return None if is_status(found) or _is(found, _FINE) else found


def _refusal(answer: Any) -> str | None:
    """Return the words of an answer that is an error; None for any other."""
    if not isinstance(answer, dict):
        return None
    code, word = answer.get("code"), status_word(answer)
    failed = isinstance(word, str) and word.strip().lower() in _FAILED
    if not _is(code, _FINE) or failed or answer.get("success") is False:
        return _words(answer) or f"the provider answered code {code}"
    error = answer.get("error")
    return message_of({"error": error}) or None if error else None


def _is_accepted(answer: dict[str, Any]) -> bool:
    """Return whether an answer with an id accepted the job although something in it looks wrong.

    There are three cases: its code says so; it has an unknown code and no word about an error; or
    it is a task object, even of a task that has failed already.
    """
    if answer.get("success") is False:
        return False
    if not _is(answer.get("code"), _FINE):
        return not _words(answer)
    return answer.get("code") is not None or bool(status_word(unwrap(Document(answer)).value))


def _words(answer: Any) -> str:
    """Return an error's text, from the answer or from what it wraps."""
    if not isinstance(answer, dict):
        return ""
    inner = answer.get("data")
    return message_of(answer) or (message_of(inner) if isinstance(inner, dict) else "")


def _is(code: Any, codes: frozenset[Any]) -> bool:
    if isinstance(code, str):
        code = code.strip().lower()
    return isinstance(code, str | int | float | None) and code in codes


def _report(body: bytes) -> Report | None:
    try:
        return read_report(body)
    except UnreadableError:
        return None


def _names_a_task(body: bytes, provider_id: str) -> bool:
    found = _report(body)
    return found is not None and bool(found.status or found.provider_id == provider_id)


def _is_about(body: bytes, provider_id: str) -> bool:
    found = _report(body)
    return found is not None and found.provider_id == provider_id


def _says_unknown(body: bytes) -> bool:
    """Return whether a failure without an id says that there is no such task."""
    found = _report(body)
    is_without_id = found is not None and found.provider_id is None
    return is_without_id and bool(_UNKNOWN_TASK.search(found.message if found else ""))


def _is_end_of(body: bytes, provider_id: str) -> bool:
    """Return whether an answer ends our task: by its id, or by moderation, which names no other."""
    found = _report(body)
    if found is None or found.outcome is Outcome.RUNNING:
        return False
    moderated = found.reason not in {None, Reason.PROVIDER_ERROR}
    return found.provider_id == provider_id or (found.provider_id is None and moderated)
