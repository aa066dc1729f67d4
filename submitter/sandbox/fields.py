"""Which fields of a submit the vendor would ignore or reject, by API and family of models.

It is written from the vendor's pages and public clients, and not from the receiver's own table. So
a wrong reading cannot be in both.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Fields of every family; ``sandbox`` is ours.
_DRAW = {"model", "prompt", "webHook", "shutProgress", "sandbox"}
_NEWER = {"model", "prompt", "images", "aspectRatio", "replyType", "sandbox"}
# Fields that some models have and that have no further documentation.
_EXTRAS = {"quality", "mask", "background", "duration", "resolution", "seed"}
_MOST_IMAGES = 9  # of minimax-h3


@dataclass(frozen=True)
class Rule:
    """What a family takes at its endpoint of the draw API: field names and patterns of values."""

    models: str
    endpoint: str
    fields: Mapping[str, str]  # a pattern for the value, "" if any is fine
    most_urls: int | None = None


_RATIO = r"auto|\d+:\d+"
_RULES = (
    Rule(
        r"sora-image|gpt-image-1",
        "/v1/draw/completions",
        {"size": r"auto|1:1|3:2|2:3", "variants": r"[12]", "urls": ""},
    ),
    Rule(
        r"gpt-image-2",
        "/v1/draw/completions",
        {"aspectRatio": rf"{_RATIO}|\d+x\d+", "urls": ""},
    ),
    Rule(
        r"nano-banana",
        "/v1/draw/nano-banana",
        {"aspectRatio": _RATIO, "imageSize": r"1K|2K|4K", "urls": ""},
    ),
    Rule(
        r"sora-2|sora2-|sora-video",
        "/v1/video/sora-video",
        {"aspectRatio": r"9:16|16:9", "size": r"small|large", "url": r".+"},
    ),
    Rule(
        r"veo",
        "/v1/video/veo",
        {"aspectRatio": _RATIO, "urls": "", "firstFrameUrl": "", "lastFrameUrl": ""},
        most_urls=3,
    ),
    Rule(r"flux", "/v1/draw/flux", {"aspectRatio": _RATIO, "urls": ""}),
    Rule(r"minimax-h3", "", {}),
)


def field_faults(path: str, body: Mapping[str, Any]) -> list[str]:
    """Return what the vendor would ignore or reject in a submit, a sentence each.

    Models of no known family are not checked in the draw API.
    """
    model = str(body.get("model", "")).lower()
    rule = next((rule for rule in _RULES if re.match(rule.models, model)), None)
    if path == "/v1/api/generate":
        return _newer_faults(body, model)
    if rule is None:
        return []
    if not rule.endpoint:
        return [f"{model} is not in the draw API"]
    faults = [f"{model} belongs to {rule.endpoint}"] if rule.endpoint != path else []
    for name, value in body.items():
        if name in _DRAW | _EXTRAS:
            continue
        if name not in rule.fields:
            faults.append(f"{name} is ignored: {model} does not have it")
        elif (pattern := rule.fields[name]) and not re.fullmatch(pattern, str(value)):
            faults.append(f"{name} cannot be {value!r:.80}")
    return faults + _too_many(body.get("urls"), rule.most_urls)


def _newer_faults(body: Mapping[str, Any], model: str) -> list[str]:
    known = _NEWER | _EXTRAS | ({"imageSize"} if model.startswith("nano-banana") else set())
    if not re.match("|".join(rule.models for rule in _RULES), model):
        known |= {"imageSize"}
    faults = [f"{name} is ignored by the newer API" for name in body if name not in known]
    if "replyType" not in body:
        faults.append("replyType is missing: the connection waits for the result")
    ratio = str(body.get("aspectRatio", "auto"))
    if model.startswith("minimax-h3") and ratio not in {"auto", "portrait", "landscape"}:
        faults.append(f"aspectRatio cannot be {ratio!r:.80}")
    most = _MOST_IMAGES if model.startswith("minimax-h3") else None
    return faults + _too_many(body.get("images"), most)


def _too_many(pictures: Any, most: int | None) -> list[str]:
    if pictures is None:
        return []
    if not isinstance(pictures, list):
        return ["reference pictures are a list"]
    if most is not None and len(pictures) > most:
        return [f"at most {most} reference pictures are used"]
    return []
