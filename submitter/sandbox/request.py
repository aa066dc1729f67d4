"""The request of a submit, read from its JSON body; a wrong body is refused with GRSAI's texts.

Specification: the request fields of both generations in GRSAI's pages. Unknown fields are ignored.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from submitter.sandbox.pictures import Format, default_size
from submitter.sandbox.script import Script, ScriptError

_SIDES = {"1K": 1024, "2K": 2048, "4K": 4096}
_SMALLEST, _LARGEST = 16, 8192
_MOST_VARIANTS = 2


class Kind(StrEnum):
    """The form of a result item; it depends on the endpoint, in the newer API on the model."""

    IMAGE = "image"  # url, width, height
    CAPTIONED = "captioned"  # nano-banana: url, content
    SORA = "sora"  # url, removeWatermark, pid
    VEO = "veo"  # no items, only a url at the top level


class Reply(StrEnum):
    """How the result is returned."""

    STREAM = "stream"  # server-sent events
    CALLBACK = "callback"  # legacy: the id at once, reports to the webHook
    ID = "id"  # legacy webHook "-1", newer "async": the id at once, nothing else
    JSON = "json"  # newer: the connection waits for the result


class RefusedError(Exception):
    """The submit is refused; the text becomes ``msg`` or ``error``.

    ``status`` is the HTTP status if it is not the usual one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OtherProvider(Protocol):
    """A stand-in for another provider, as tasks know it: ``StandIn`` in ``stand_ins``."""

    lifetime: ClassVar[float]  # of its URLs, in seconds
    pauses: ClassVar[tuple[float, ...]]  # seconds before each repetition of a callback

    def callback(self, task: Any, files: Any, kind: str) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a callback."""


@dataclass(frozen=True)
class TaskRequest:
    """One job as asked for; ``webhook`` is None unless Reply.CALLBACK, dimensions are pixels."""

    newer: bool
    kind: Kind
    reply: Reply
    webhook: str | None
    no_progress: bool  # shutProgress: no running reports
    model: str
    prompt: str
    variants: int
    width: int
    height: int
    script: Script
    stand_in: OtherProvider | None = None  # the other provider that it was posted to; None: GRSAI

    @property
    def form(self) -> Format:
        """The format of the result files."""
        return self.script.format or ("mp4" if self.kind in (Kind.SORA, Kind.VEO) else "png")

    def file_size(self, seed: str) -> int:
        """Return the size in bytes of the file made from this seed."""
        return self.script.bytes or default_size(seed, self.form, self.width, self.height)


def read_request(kind: Kind | None, body: Any, script: Mapping[str, Any]) -> TaskRequest:
    """Read the body of a submit.

    ``kind`` is None for the newer API; ``script`` holds the defaults of the job's own script. Raise
    RefusedError for a wrong body, and if its script asks for a refusal.
    """
    if not isinstance(body, dict):
        raise RefusedError("the body is not a JSON object")
    model, prompt = required_text(body, "model"), required_text(body, "prompt")
    own = read_script(body, script)
    if own.refuse:
        raise RefusedError(own.refuse.message, own.refuse.status)
    found = kind or _kind_of_model(model)
    reply, webhook = _newer_reply(body) if kind is None else _legacy_reply(body)
    width, height = dimensions(body, video=found in (Kind.SORA, Kind.VEO))
    return TaskRequest(
        kind is None,
        found,
        reply,
        webhook,
        bool(body.get("shutProgress")),
        model,
        prompt,
        _variants(body),
        width,
        height,
        own,
    )


def required_text(body: Mapping[str, Any], field: str) -> str:
    """Return the text of a required field; raise RefusedError."""
    value = body.get(field)
    if not isinstance(value, str) or not value.strip():
        raise RefusedError(f"{field} is required")
    return value


def read_script(body: Mapping[str, Any], script: Mapping[str, Any]) -> Script:
    """Return the script of a job: its own over the defaults; raise RefusedError."""
    asked = body.get("sandbox") or {}
    try:
        return Script.read({**script, **asked} if isinstance(asked, dict) else asked)
    except ScriptError as error:
        raise RefusedError(str(error)) from error


def _variants(body: dict[str, Any]) -> int:
    value = body.get("variants", 1)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_VARIANTS:
        raise RefusedError(f"variants must be 1 or 2, not {value!r}")
    return value


def _legacy_reply(body: dict[str, Any]) -> tuple[Reply, str | None]:
    webhook = body.get("webHook")
    if not webhook:
        return Reply.STREAM, None
    if webhook == "-1":
        return Reply.ID, None
    if not isinstance(webhook, str) or not webhook.startswith(("http://", "https://")):
        raise RefusedError("webHook is not a URL")
    return Reply.CALLBACK, webhook


def _newer_reply(body: dict[str, Any]) -> tuple[Reply, None]:
    words = {"json": Reply.JSON, "stream": Reply.STREAM, "async": Reply.ID}
    asked = body.get("replyType", "json")
    if asked not in words:
        raise RefusedError(f"replyType must be one of {', '.join(words)}")
    return words[asked], None


def _kind_of_model(model: str) -> Kind:
    """Return the form of a model's results; an unknown model makes images."""
    model = model.lower()
    if model.startswith("veo"):
        return Kind.VEO
    if model.startswith(("sora-2", "sora2", "sora-video")):
        return Kind.SORA
    return Kind.CAPTIONED if model.startswith("nano-banana") else Kind.IMAGE


def dimensions(body: Mapping[str, Any], *, video: bool = False) -> tuple[int, int]:
    """Return width and height in pixels for ``size``, ``aspectRatio`` and ``imageSize``.

    A value that cannot be read counts as ``auto``. A ratio keeps the area of the square (1K: 1024 x
    1024) and is rounded to 16; videos are 1280 x 720, or upright if the ratio is.
    """
    words = [str(body[field]) for field in ("size", "aspectRatio") if body.get(field)]
    ratio = 16 / 9 if video else 1.0
    for word in words:
        if pixels := re.fullmatch(r"(\d{1,5})[x×*](\d{1,5})", word):
            return _within(int(pixels[1])), _within(int(pixels[2]))
        if (
            (parts := re.fullmatch(r"(\d{1,3}):(\d{1,3})", word))
            and int(parts[1])
            and int(parts[2])
        ):
            ratio = min(4.0, max(0.25, int(parts[1]) / int(parts[2])))
    if video:
        return (1280, 720) if ratio >= 1 else (720, 1280)
    side = _SIDES.get(str(body.get("imageSize", "1K")).upper(), 1024)
    return _within(16 * round(side * math.sqrt(ratio) / 16)), _within(
        16 * round(side / math.sqrt(ratio) / 16)
    )


def _within(pixels: int) -> int:
    return min(_LARGEST, max(_SMALLEST, pixels))
