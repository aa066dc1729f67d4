"""GRSAI's protocol, without I/O: build requests, read responses and callbacks.

Bytes in, a typed value or a typed error out. The vendor's words stop here. Unknown fields are
ignored, an unknown status means "still running", and texts are cut to a maximum length, so that no
body can cause unlimited work in the rest of the service.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic_core import from_json

from receiver.errors import (
    AnswerLostError,
    NoSuchTaskError,
    NotSentError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Api, Mode, Outcome, Reason, Report, Result, Submission

CREDITS_PATH = "/client/openapi/getAPIKeyCredits"
_DRAW_RESULT_PATH = "/v1/draw/result"
_API_RESULT_PATH = "/v1/api/result"
_API_PATH = "/v1/api/generate"
# Instead of a callback URL: the provider answers with the id only, and we ask for the result.
NO_WEBHOOK = "-1"

# Limits on what is kept of a body, in items, characters and pixels.
_MAX_RESULTS = 32
_MAX_ID = 200
_MAX_URL = 8192
_MAX_TEXT = 2000
_MAX_SIDE = 1_000_000

# The path for a family of models. Models change every month, families rarely. All other models use
# the default path.
_PATHS = (
    ("nano-banana", "/v1/draw/nano-banana"),
    ("sora-2", "/v1/video/sora-video"),
    ("sora-video", "/v1/video/sora-video"),
    ("veo", "/v1/video/veo"),
)
_DEFAULT_PATH = "/v1/draw/completions"

_OUTCOMES = {
    "succeeded": Outcome.SUCCEEDED,
    "success": Outcome.SUCCEEDED,
    "completed": Outcome.SUCCEEDED,
    "failed": Outcome.FAILED,
    "error": Outcome.FAILED,
    "canceled": Outcome.FAILED,
    "cancelled": Outcome.FAILED,
    "violation": Outcome.FAILED,
}
_REASONS = {
    "input_moderation": Reason.INPUT_MODERATION,
    "output_moderation": Reason.OUTPUT_MODERATION,
}
_NO_SUCH_TASK = -22
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True)
class Request:
    """A request: the path below the base URL, and the JSON body of a POST (None means GET)."""

    path: str
    body: dict[str, object] | None = None


def build_submit(submission: Submission, web_hook: str) -> Request:
    """Return the POST of a submit. ``web_hook`` is a callback URL or ``NO_WEBHOOK``.

    Params are passed on unchanged, except those that choose how the result is delivered.
    """
    passed = {
        name: value
        for name, value in submission.params.items()
        if name not in {"webHook", "replyType"}
    }
    body: dict[str, object] = {**passed, "model": submission.model, "prompt": submission.prompt}
    streams = submission.mode is Mode.STREAM
    if submission.api is Api.NEWER:
        return Request(_API_PATH, {**body, "replyType": "stream" if streams else "async"})
    path = next(
        (model_path for family, model_path in _PATHS if submission.model.startswith(family)),
        _DEFAULT_PATH,
    )
    return Request(path, body if streams else {**body, "webHook": web_hook})


def build_result(api: Api, provider_id: str) -> Request:
    """Return the request that asks for a task."""
    if api is Api.NEWER:
        return Request(f"{_API_RESULT_PATH}?id={quote(provider_id, safe='')}")
    return Request(_DRAW_RESULT_PATH, {"id": provider_id})


def size_params(model: str, size: str) -> dict[str, object]:
    """Return the vendor's parameter for a ``size``: a ratio, pixels (1024x1024), or 1K, 2K, 4K.

    Its name depends on the family of models.
    """
    if size.upper() in {"1K", "2K", "4K"}:
        return {"imageSize": size.upper()}
    takes_size = model.startswith(("sora", "gpt-image-1"))
    return {"size": size} if takes_size else {"aspectRatio": size}


def read_submit(status: int, body: bytes) -> str:
    """Return the provider's id from the response to a submit.

    Raise RefusedError (no job was started), NotSentError (rate limit) or AnswerLostError (unknown
    whether a job was started).
    """
    if status == _TOO_MANY_REQUESTS:
        raise NotSentError("the provider answered 429: too many requests")
    answer = _object_or_none(body)
    # A 408 comes from a gateway after a timeout. It may have passed the request on before.
    if 400 <= status < 500 and status != 408:  # noqa: PLR2004 - HTTP's client errors
        raise RefusedError(_error_message(answer) or f"the provider answered HTTP {status}")
    if status != 200 or answer is None:  # noqa: PLR2004 - HTTP's "OK"
        raise AnswerLostError(f"the provider answered HTTP {status} with a body that is no answer")
    if answer.get("code", 0) != 0 or answer.get("status") == "failed":
        raise RefusedError(
            _error_message(answer) or f"the provider answered code {answer.get('code')}"
        )
    task = _identifier(_task_id(answer))
    if task is None:
        raise AnswerLostError("the provider's answer has no id")
    return task


def read_result(api: Api, status: int, body: bytes) -> None:
    """Check the envelope of a result. Its body is then read by ``read_report``.

    Raise NoSuchTaskError, or ProviderUnavailableError if the response is not about the task.
    """
    answer = _object_or_none(body)
    # The newer API answers an unknown id with an error status and a body that looks like a failed
    # job. It says nothing about the job.
    if api is Api.NEWER and status in {400, 404} and answer is not None:
        raise NoSuchTaskError(_error_message(answer) or "the provider does not know this task")
    if status != 200 or answer is None:  # noqa: PLR2004 - HTTP's "OK"
        raise ProviderUnavailableError(f"asked for a result, the provider answered HTTP {status}")
    code = answer.get("code", 0)
    if code == _NO_SUCH_TASK:
        raise NoSuchTaskError(_error_message(answer) or "the provider does not know this task")
    if code != 0 or not isinstance(answer.get("data", {}), dict):
        raise ProviderUnavailableError(
            _error_message(answer) or f"asked for a result, the provider answered code {code}"
        )


def read_credits(status: int, body: bytes) -> float:
    """Return the credits that the key has left. Raise UnreadableError if the response has none."""
    answer = _object(body)
    data = answer.get("data")
    left = data.get("credits") if isinstance(data, dict) else None
    if status != 200 or answer.get("code", 0) != 0 or not isinstance(left, int | float):  # noqa: PLR2004 - HTTP's "OK"
        raise UnreadableError(_error_message(answer) or f"HTTP {status} without credits")
    return float(left)


def stream_events(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bodies of a stream's events, up to ``[DONE]`` or the end. Skip all other lines."""
    for line in lines:
        body = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if body == b"[DONE]":
            return
        if body:
            yield body


def read_report(body: bytes) -> Report:
    """Read a task object, bare (callback, stream) or in its envelope (result).

    Raise UnreadableError if it is none.
    """
    task = _object(body)
    if isinstance(task.get("data"), dict) and "status" not in task:
        task = task["data"]
    identifier, status = _identifier(task.get("id")), _text(task.get("status"))
    if identifier is None and not status:
        raise UnreadableError("the body has neither an id nor a status")
    outcome = _OUTCOMES.get(status.lower(), Outcome.RUNNING)
    return Report(
        outcome=outcome,
        provider_id=identifier,
        status=status,
        progress=_progress(task.get("progress")),
        results=_results(task),
        reason=_reason(task, status) if outcome is Outcome.FAILED else None,
        message=(_text(task.get("error")) or _text(task.get("failure_reason")))
        if outcome is Outcome.FAILED
        else "",
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise UnreadableError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnreadableError("the body is JSON, but no object")
    return value


def _object_or_none(body: bytes) -> dict[str, Any] | None:
    try:
        return _object(body)
    except UnreadableError:
        return None


def _error_message(answer: dict[str, Any] | None) -> str:
    answer = answer or {}
    return _text(answer.get("msg")) or _text(answer.get("error")) or _text(answer.get("message"))


def _task_id(answer: dict[str, Any]) -> object:
    """Return the id: in ``data``, ``data`` itself, or beside the status (newer API)."""
    data = answer.get("data")
    if isinstance(data, dict):
        return data.get("id") or data.get("taskId")
    return data or answer.get("id")


def _reason(task: dict[str, Any], status: str) -> Reason:
    if status.lower() == "violation":
        return Reason.VIOLATION
    return _REASONS.get(_text(task.get("failure_reason")), Reason.PROVIDER_ERROR)


def _results(task: dict[str, Any]) -> tuple[Result, ...]:
    """Return the results. Veo has a single one, at the top level."""
    listed = task.get("results")
    items = [_result(item) for item in (listed if isinstance(listed, list) else [])[:_MAX_RESULTS]]
    return tuple(item for item in items if item) or tuple(item for item in [_result(task)] if item)


def _result(item: object) -> Result | None:
    if not isinstance(item, dict):
        return None
    url = _text(item.get("url") or item.get("imageUrl"), _MAX_URL + 1)
    return (
        Result(url, _side(item.get("width")), _side(item.get("height")))
        if 0 < len(url) <= _MAX_URL
        else None
    )


def _text(value: object, max_length: int = _MAX_TEXT) -> str:
    """Return a text cut to ``max_length``, without NUL (PostgreSQL cannot store it), or ""."""
    return value[:max_length].replace("\x00", "").strip() if isinstance(value, str) else ""


def _identifier(value: object) -> str | None:
    text = (
        str(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        else _text(value, _MAX_ID + 1)
    )
    return text if 0 < len(text) <= _MAX_ID else None


def _progress(value: object) -> int:
    return int(min(100, max(0, value))) if isinstance(value, int | float) else 0


def _side(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and 1 <= value <= _MAX_SIDE else None
