"""The fault script: what one job asks the sandbox to get wrong, in the extra request field ``sandbox``.

GRSAI's clients pass unknown request fields through, so ``--param 'sandbox={"callback": "lost"}'`` reaches the sandbox and means nothing
to the real service. Every key is optional; an unknown one refuses the submit and the refusal names it. Times are seconds, sizes bytes.
Wherever an object with a ``mode`` is expected, the mode alone may be written: ``{"file": "slow"}`` is ``{"file": {"mode": "slow"}}``.

An example with most of the keys::

    {"delay": 0.5, "progress": 3, "format": "webp", "bytes": 2000000,
     "callback": {"mode": "duplicate", "times": 3, "together": true},
     "file": {"mode": "not_ready", "times": 2, "lifetime": 60},
     "result": {"mode": "gateway", "times": 2}}
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

LIFETIME = 7200.0  # seconds a URL lives, by the vendor's pages


class ScriptError(Exception):
    """The script cannot be read; the text names every wrong key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Mode(_Strict):
    """A fault with a mode; the mode alone is its short form."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value


def _among(nth: int, times: int) -> bool:
    return not times or nth <= times


class Refuse(_Strict):
    """Say no to the submit. Short forms: a text (the message) or a number (the HTTP status)."""

    message: str = Field(
        default="refused by the script", description="what `msg` (legacy) or `error` (newer) says"
    )
    status: int | None = Field(
        default=None,
        ge=200,
        le=599,
        description="HTTP status; unset: 200 (legacy) or 400 (newer). From 500 on the body is a gateway's HTML page",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"message": value}
        return {"status": value} if isinstance(value, int) else value


class Callback(_Mode):
    """How the reports to the ``webHook`` URL behave."""

    mode: Literal[
        "once", "duplicate", "reorder", "late", "lost", "early", "forged", "contradiction"
    ] = Field(
        default="once",
        description="once; duplicate: the final report `times` times; reorder: a `running` after the final one; late: the final one "
        "`seconds` after the result can be read; lost: nothing is ever sent; early: sent before the submit is answered, `delay` does "
        "not count; forged: first sent to the URL with its last character altered; contradiction: `failed` after the final one",
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
        description="how often a report is sent again that was not answered 2xx",
    )
    pause: float = Field(default=0.2, ge=0, description="seconds before such a retry")


class Answer(_Mode):
    """How the answer to the submit itself behaves; the job is accepted in every case."""

    mode: Literal["ok", "slow", "lost"] = Field(
        default="ok", description="slow: after `seconds`; lost: the connection is cut instead"
    )
    seconds: float = Field(default=2.0, ge=0, description="for slow")


class File(_Mode):
    """How the result file behaves when it is fetched."""

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
    ] = Field(
        default="ok",
        description="slow: `rate` bytes a second; truncated: ends at `at` of the file; not_ready: 404; expired: the URL is dead from the "
        "start; placeholder: an HTML page with status 200 and the picture's Content-Type; error: 500; reset: the connection is reset at "
        "`at`; empty: 200 and no byte; wrong_length: Content-Length announces only `at` of the file; redirect: 302 to `to`",
    )
    times: int | None = Field(
        default=None,
        ge=0,
        description="how many GETs suffer before the file is served whole, 0 = every one; unset: 1 for not_ready and error, else every "
        "one. For expired: how many URLs of the file are dead (unset: 1), so that a fresh one lives",
    )
    rate: int = Field(default=65536, ge=1, description="for slow: bytes per second")
    at: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="for truncated, reset, wrong_length: the part of the file, 0 to 1",
    )
    length: bool = Field(
        default=True,
        description="for truncated: whether Content-Length announces the whole file or is absent",
    )
    to: str | None = Field(
        default=None, description="for redirect: where to; unset: the same file without the fault"
    )
    lifetime: float | None = Field(
        default=None,
        ge=0,
        description="seconds each URL of the file lives; unset: the sandbox's own (7200)",
    )
    content_type: str | None = Field(
        default=None, description="Content-Type instead of the true one"
    )

    def suffers(self, nth: int) -> bool:
        """Whether the nth GET (for expired: the nth URL), counted from 1, gets the fault."""
        usual = 1 if self.mode in ("not_ready", "error", "expired") else 0
        return self.mode != "ok" and _among(nth, usual if self.times is None else self.times)


class Result(_Mode):
    """How reading the result back behaves."""

    mode: Literal["ok", "gone", "gateway", "no_url"] = Field(
        default="ok",
        description="gone: -22; gateway: 502 and an HTML page; no_url: succeeded without any URL, in callbacks and streams too",
    )
    times: int | None = Field(
        default=None,
        ge=0,
        description="how many readings suffer, 0 = every one; unset: 1 for gateway, else every one. Callbacks suffer always",
    )
    refresh: bool = Field(
        default=True,
        description="whether reading after a URL's end gives a fresh URL for the same bytes",
    )

    def suffers(self, nth: int) -> bool:
        """Whether the nth reading, counted from 1, gets the fault."""
        usual = 1 if self.mode == "gateway" else 0
        return self.mode != "ok" and _among(nth, usual if self.times is None else self.times)


class Stream(_Mode):
    """How an answer by stream behaves; the job itself ends as scripted and can be read back."""

    mode: Literal["ok", "no_done", "cut", "hang", "json_error"] = Field(
        default="ok",
        description="no_done: without the closing [DONE]; cut: ends without a final event; hang: silent after the first event until "
        "`seconds` are over; json_error: accepted, but answered by a JSON error instead of events",
    )
    seconds: float = Field(default=60.0, ge=0, description="for hang")


class Script(_Strict):
    """Everything one job may ask for; the defaults are a job that goes well in 0.3 s."""

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
        description="size of each file, reached by padding; unset: 0.1 to 8 MB by the picture's dimensions",
    )
    fail: Literal["input_moderation", "output_moderation", "error", "violation"] | None = Field(
        default=None, description="the job fails so"
    )
    refuse: Refuse | None = Field(default=None, description="the submit is refused")
    callback: Callback = Callback()
    answer: Answer = Answer()
    file: File = File()
    result: Result = Result()
    stream: Stream = Stream()

    @classmethod
    def read(cls, value: Any) -> Self:
        """Read the field ``sandbox`` (None: all defaults); raises ScriptError naming every wrong key with its path."""
        try:
            return cls.model_validate({} if value is None else value)
        except ValidationError as error:
            wrong = [
                f"{'.'.join(['sandbox', *map(str, one['loc'])])}: {one['msg']}"
                for one in error.errors(include_url=False)
            ]
            raise ScriptError("; ".join(wrong)) from error
