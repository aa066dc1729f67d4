"""The fault script: what the sandbox must do wrong for one job, in the request field ``sandbox``.

GRSAI's clients send unknown request fields unchanged, so ``--param 'sandbox={"callback": "lost"}'``
reaches the sandbox and has no effect on the real service. Every key is optional; an unknown one
refuses the submit, and the refusal names it. Times are in seconds, sizes in bytes. An object with a
``mode`` may be written as the mode alone: ``{"file": "slow"}`` is ``{"file": {"mode": "slow"}}``.

An example with most of the keys::

    {"delay": 0.5, "progress": 3, "format": "webp", "bytes": 2000000,
     "callback": {"mode": "duplicate", "times": 3, "together": true},
     "file": {"mode": "not_ready", "times": 2, "lifetime": 60},
     "result": {"mode": "gateway", "times": 2}}
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

LIFETIME = 7200.0  # of a URL in seconds, by the vendor's pages


class ScriptError(Exception):
    """The script is wrong; the text names every wrong key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Fault(_Strict):
    """A fault with a mode; the mode alone is the short form."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value


def _within_first(nth: int, times: int) -> bool:
    return not times or nth <= times


class RefuseFault(_Strict):
    """Refuse the submit. Short forms: a text (the message) or a number (the HTTP status)."""

    message: str = Field(
        default="refused by the script", description="text of `msg` (legacy) or `error` (newer)"
    )
    status: int | None = Field(
        default=None,
        ge=200,
        le=599,
        description="HTTP status; unset: 200 (legacy) or 400 (newer). "
        "From 500 on the body is a gateway's HTML page",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"message": value}
        return {"status": value} if isinstance(value, int) else value


class CallbackFault(_Fault):
    """Faults of the reports to the ``webHook`` URL."""

    mode: Literal[
        "once", "duplicate", "reorder", "late", "lost", "early", "forged", "contradiction"
    ] = Field(
        default="once",
        description="once; duplicate: the final report `times` times; reorder: a `running` after "
        "the final one; late: the final one `seconds` after the result can be read; lost: nothing "
        "is sent; early: sent before the submit is answered, without the `delay`; forged: first "
        "sent to the URL with its last character changed; contradiction: `failed` after the final "
        "one",
    )
    times: int = Field(
        default=2, ge=1, le=1000, description="for duplicate: how often the final report is sent"
    )
    together: bool = Field(
        default=True, description="for duplicate: all at once, or one after the other"
    )
    seconds: float = Field(
        default=5.0, ge=0, description="for late: how much later than the result"
    )
    retries: int = Field(
        default=0,
        ge=0,
        le=100,
        description="how many times a report is sent again if the answer is not 2xx",
    )
    pause: float = Field(default=0.2, ge=0, description="seconds before such a retry")


class SignatureFault(_Fault):
    """Faults of the signature of callbacks, for the providers that sign."""

    mode: Literal["ok", "none", "wrong", "stale", "foreign", "altered", "other_urls", "rotated"] = (
        Field(
            default="ok",
            description="none: not signed; wrong: with another key; stale: an hour old; foreign: "
            "genuine, but of another account; altered: the JSON is written again after it was "
            "signed; other_urls: the results are replaced after it was signed; rotated: with a new "
            "key, which can be fetched",
        )
    )


class AnswerFault(_Fault):
    """Faults and spellings of the answer to the submit; the job is accepted unless redirected."""

    mode: Literal[
        "ok",
        "slow",
        "lost",
        "redirect",
        "code_text",
        "code_200",
        "code_null",
        "bare_id",
        "task_id",
        "text",
        "event",
        "mark",
        "finished",
        "unending",
    ] = Field(
        default="ok",
        description="slow: after `seconds`; lost: the connection is cut instead; redirect: 302 to "
        "`to`, and nothing is accepted; code_text, code_200, code_null: another `code`; bare_id: "
        "the id at the top; task_id: `data.task_id`; text: `data` is the id itself; event: one "
        "`data: ` line; mark: a byte order mark before it; finished: the whole task after its end; "
        "unending: the connection breaks inside the JSON, after the id",
    )
    seconds: float = Field(default=2.0, ge=0, description="for slow")
    status: int = Field(default=200, ge=200, le=299, description="HTTP status of the answer")
    to: str = Field(default="https://grsaiapi.com", description="for redirect: where to")


class Spelling(_Fault):
    """How reports are spelled: in callbacks, reads of the result, and events of a stream.

    The short form is the ``mode``: what is wrapped around the task object.
    """

    mode: Literal[
        "plain",
        "envelope",
        "list",
        "string",
        "form",
        "multipart",
        "event",
        "mark",
        "utf16",
        "gbk",
        "gzip",
    ] = Field(
        default="plain",
        description="what is around the task object; in a stream only plain, envelope, list and "
        "string",
    )
    dirt: Literal["none", "bad_utf8", "surrogate", "nan", "control"] = Field(
        default="none", description="what an ignored field has in it"
    )
    results: Literal[
        "objects", "texts", "object", "url_list", "image_url", "video_url", "data_url"
    ] = Field(
        default="objects",
        description="how results are written; data_url: with the picture inside",
    )
    status: str | None = Field(default=None, description="word in place of `succeeded`")
    failure: Literal["plain", "camel", "upper", "object"] = Field(
        default="plain",
        description="how a failure is written: camel: `failureReason`; upper: in capitals; "
        "object: `error` is an object",
    )


class FileFault(_Fault):
    """Faults of the download of a result file."""

    mode: Literal[
        "ok",
        "slow",
        "truncated",
        "not_ready",
        "expired",
        "placeholder",
        "error",
        "reset",
        "empty",
        "wrong_length",
        "redirect",
        "odd",
        "private",
    ] = Field(
        default="ok",
        description="private: at an address of the provider's API that needs the key (only "
        "Replicate's); odd: the whole file as `coding`, `packed`, `status` and `last_chunk` say; "
        "slow: `rate` bytes a second; truncated: ends at `at` of the file; not_ready: 404; "
        "expired: the URL has expired from the start; placeholder: an HTML page with status "
        "200 and the picture's Content-Type; error: 500; reset: the connection is reset at `at`; "
        "empty: 200 without a body; wrong_length: Content-Length announces only `at` of the file; "
        "redirect: 302 to `to`",
    )
    times: int | None = Field(
        default=None,
        ge=0,
        description="how many GETs have the fault before the file is served whole, 0 = all; unset: "
        "1 for not_ready and error, else all. For expired: how many URLs of the file have expired "
        "(unset: 1), so that the next one is valid",
    )
    rate: int = Field(default=65536, ge=1, description="for slow: bytes per second")
    at: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="for truncated, reset, wrong_length: the part of the file, 0 to 1",
    )
    coding: str | None = Field(
        default=None, description="for odd: Content-Encoding to send, whatever the bytes are"
    )
    packed: Literal["gzip", "deflate"] | None = Field(
        default=None, description="for odd: really encode the file, with the matching header"
    )
    status: Literal[200, 203, 206] = Field(
        default=200, description="for odd: HTTP status; 206 with its Content-Range"
    )
    last_chunk: bool = Field(
        default=True,
        description="for odd: false if the file comes in chunks, and the last one is missing",
    )
    length: bool = Field(
        default=True,
        description="for truncated: whether there is a Content-Length, of the whole file",
    )
    to: str | None = Field(
        default=None, description="for redirect: where to; unset: the same file without the fault"
    )
    lifetime: float | None = Field(
        default=None,
        ge=0,
        description="lifetime of each URL in seconds; unset: that of the sandbox (7200)",
    )
    content_type: str | None = Field(
        default=None, description="Content-Type to send instead of the true one"
    )

    def applies_to(self, nth: int) -> bool:
        """Return whether the nth GET (for expired: the nth URL), from 1, has the fault."""
        usual = 1 if self.mode in ("not_ready", "error", "expired") else 0
        has_fault = self.mode not in ("ok", "private")
        return has_fault and _within_first(nth, usual if self.times is None else self.times)


class ResultFault(_Fault):
    """Faults of reading the result."""

    mode: Literal["ok", "gone", "gateway", "no_url", "bad_request"] = Field(
        default="ok",
        description="gone: -22; bad_request: HTTP 400 around the true task object; gateway: 502 "
        "and an HTML page; no_url: succeeded without any URL, in callbacks and streams too",
    )
    times: int | None = Field(
        default=None,
        ge=0,
        description="how many reads have the fault, 0 = all; unset: 1 for gateway, else all. "
        "Callbacks always have it",
    )
    refresh: bool = Field(
        default=True,
        description="whether a read after a URL has expired gives a new URL for the same bytes",
    )

    def applies_to(self, nth: int) -> bool:
        """Return whether the nth read, from 1, has the fault."""
        usual = 1 if self.mode == "gateway" else 0
        return self.mode != "ok" and _within_first(nth, usual if self.times is None else self.times)


class StreamFault(_Fault):
    """Faults of an answer by stream; the job itself ends as scripted and can be read."""

    mode: Literal[
        "ok",
        "no_done",
        "cut",
        "hang",
        "json_error",
        "error_event",
        "late_error",
        "task",
        "id",
        "lines",
        "comments",
    ] = Field(
        default="ok",
        description="error_event: one event with an error, and nothing is accepted; "
        "late_error: the same after a `running` event without an id; task: the "
        "finished task as plain JSON; id: the id alone as plain JSON; lines: JSON lines without "
        "`data:`; comments: with comments, event names and CRLF; no_done: without the closing "
        "[DONE]; cut: ends without a final event; hang: silent after the first event "
        "for `seconds`; json_error: the job is accepted, but the answer is a JSON error instead "
        "of events",
    )
    seconds: float = Field(default=60.0, ge=0, description="for hang")


class Script(_Strict):
    """All that one job may ask for; the defaults are a job that succeeds in 0.3 s."""

    delay: float = Field(default=0.3, ge=0, description="seconds from submit to result")
    progress: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="`running` reports before the final one, evenly spread over the delay",
    )
    format: Literal["png", "jpeg", "webp", "mp4"] | None = Field(
        default=None, description="unset: mp4 for the video models, else png"
    )
    bytes: int | None = Field(
        default=None,
        ge=1,
        le=512 * 2**20,
        description="size of each file, reached by padding; unset: 0.1 to 8 MB by dimensions",
    )
    fail: Literal["input_moderation", "output_moderation", "error", "violation"] | None = Field(
        default=None, description="how the job fails"
    )
    refuse: RefuseFault | None = Field(default=None, description="the submit is refused")
    strict: bool = Field(
        default=False,
        description="refuse a submit with fields that the vendor would ignore or reject; they are "
        "listed in the task's `field_faults` in any case",
    )
    callback: CallbackFault = CallbackFault()
    signature: SignatureFault = SignatureFault()
    answer: AnswerFault = AnswerFault()
    report: Spelling = Spelling()
    file: FileFault = FileFault()
    result: ResultFault = ResultFault()
    stream: StreamFault = StreamFault()

    @classmethod
    def read(cls, value: Any) -> Self:
        """Read the field ``sandbox`` (None: defaults); raise ScriptError with every wrong key."""
        try:
            return cls.model_validate({} if value is None else value)
        except ValidationError as error:
            wrong = [
                f"{'.'.join(['sandbox', *map(str, one['loc'])])}: {one['msg']}"
                for one in error.errors(include_url=False)
            ]
            raise ScriptError("; ".join(wrong)) from error
