"""OpenAI's Images API, without I/O: build the arguments of a call, read its response.

Bytes in, a typed value or a typed error out, as in ``grsai``. The response is the result itself:
there is no task, no id and nothing to poll.
https://platform.openai.com/docs/api-reference/images/create
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from receiver.errors import (
    AnswerLostError,
    ConfigurationError,
    NotSentError,
    RefusedError,
    UnreadableError,
)
from receiver.model import INLINE, Outcome, Reason, Report, Result, Submission

# Advice for a call whose response was lost.
ANSWER_LOST = (
    "OpenAI keeps no result to ask for, and it may have been billed: "
    "look at the usage there before you submit it again"
)

# Limits on what is kept of a response, in items and characters.
_MAX_RESULTS = 32
_MAX_URL = 8192
_MAX_TEXT = 2000
# Bytes of a response: for all that is not pictures, and in total. Both databases, and the memory of
# a small machine, can take the total.
_MAX_METADATA = 64 * 1024
_MAX_RESPONSE = 256 * 1024 * 1024

# Error codes that mean the content was moderated.
_MODERATED = frozenset({"moderation_blocked", "content_policy_violation"})
# Error codes of a 429 that mean there is no credit left; waiting does not help.
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS = 408, 429


class _Picture(BaseModel):
    url: str | None = None
    b64_json: str | None = None


class _Moderation(BaseModel):
    moderation_stage: str | None = None  # "input" or "output"; not always there


class _Error(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    message: str | None = None
    type: str | None = None
    code: str | None = None
    moderation_details: _Moderation | None = None


class _OpenAIResponse(BaseModel):
    data: list[_Picture] | None = None
    error: _Error | None = None


def build_arguments(submission: Submission) -> dict[str, Any]:
    """Return the arguments of ``images.generate``.

    Params are passed on unchanged, except that ``variants`` becomes ``n``. Raise ConfigurationError
    for params that this API does not support.
    """
    params = {
        name: value for name, value in submission.params.items() if name not in {"model", "prompt"}
    }
    if "variants" in params:
        variants = params.pop("variants")
        params.setdefault("n", variants)
    mistakes = []
    if params.get("urls"):
        mistakes.append(
            "--image: OpenAI makes pictures from words only here; "
            "use --provider grsai for reference pictures"
        )
    if params.get("stream"):
        mistakes.append("--param stream: OpenAI's answer is taken whole; leave it out")
    if mistakes:
        raise ConfigurationError(mistakes)
    # In ``extra_body`` a param need not be in the package's signature, and cannot be mistaken for
    # one of its options.
    return {"model": submission.model, "prompt": submission.prompt, "extra_body": params}


def max_response_size(arguments: dict[str, Any], max_picture_size: int) -> int:
    """Return how many bytes of a response to read.

    It must hold the requested number of pictures of ``max_picture_size`` bytes each, in base64.
    """
    asked = arguments["extra_body"].get("n")
    pictures = min(max(asked, 1), _MAX_RESULTS) if isinstance(asked, int) else 1
    return min(pictures * (max_picture_size * 4 // 3 + 4) + _MAX_METADATA, _MAX_RESPONSE)


def check_answer(status: int, body: bytes) -> None:
    """Return if the response is a report for ``read_report``: pictures, or a moderation error.

    Raise RefusedError (no picture was made), NotSentError (rate limit) or AnswerLostError (unknown
    whether pictures were made).
    """
    error = _error(body)
    message = _text(error.message) or f"OpenAI answered HTTP {status}"
    refused = 400 <= status < 500 and status != _REQUEST_TIMEOUT  # noqa: PLR2004 - HTTP's client errors
    if status == 200 or (refused and error.code in _MODERATED):  # noqa: PLR2004 - HTTP's "OK"
        return
    if status == _TOO_MANY_REQUESTS and not {error.code, error.type} & _NO_CREDIT:
        raise NotSentError(message)
    if refused:
        raise RefusedError(message)
    raise AnswerLostError(f"OpenAI answered HTTP {status}: {message}" if error.message else message)


def read_report(body: bytes) -> Report:
    """Read a response that passed ``check_answer``; raise UnreadableError for any other body."""
    answer = _read(body)
    if answer.error is not None:
        return _failure(_reason(answer.error), _text(answer.error.message))
    if answer.data is None:
        raise UnreadableError("the answer has neither data nor an error")
    results = tuple(
        result
        for idx, item in enumerate(answer.data[:_MAX_RESULTS])
        if (result := _result(idx, item))
    )
    if not results:  # final, because the result cannot be asked for again
        return _failure(Reason.NO_RESULT, "OpenAI reports success, but no picture")
    return Report(Outcome.SUCCEEDED, None, "succeeded", 100, results)


def read_picture(body: bytes, url: str) -> str:
    """Return the base64 text of the picture that ``url`` (``delivery:<index>``) names.

    Raise UnreadableError if there is none.
    """
    data, index = _read(body).data or [], url.removeprefix(INLINE)
    found = data[int(index)].b64_json if index.isdecimal() and int(index) < len(data) else None
    if not found:
        raise UnreadableError(f"the answer brought no picture {index[:40]!r}")
    return found


def _read(body: bytes) -> _OpenAIResponse:
    try:
        return _OpenAIResponse.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise UnreadableError(
            f"the answer cannot be read: {'.'.join(map(str, first['loc']))} {first['msg']}"
        ) from error


def _error(body: bytes) -> _Error:
    """Return the error of a response; an empty one for a body that is not OpenAI's."""
    try:
        return _read(body).error or _Error()
    except UnreadableError:
        return _Error()


def _failure(reason: Reason, message: str) -> Report:
    return Report(Outcome.FAILED, None, "failed", reason=reason, message=message)


def _reason(error: _Error) -> Reason:
    if error.code not in _MODERATED:
        return Reason.PROVIDER_ERROR
    is_about_picture = (
        error.moderation_details is not None
        and error.moderation_details.moderation_stage == "output"
    )
    return Reason.OUTPUT_MODERATION if is_about_picture else Reason.INPUT_MODERATION


def _result(idx: int, item: _Picture) -> Result | None:
    if item.b64_json:
        return Result(f"{INLINE}{idx}")
    url = (item.url or "").replace("\x00", "").strip()
    return Result(url) if 0 < len(url) <= _MAX_URL else None


def _text(value: str | None) -> str:
    """Return a text cut to a maximum length, without NUL, which PostgreSQL cannot store."""
    return (value or "")[:_MAX_TEXT].replace("\x00", "").strip()
