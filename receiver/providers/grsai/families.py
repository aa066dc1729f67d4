"""What each family of GRSAI's models takes: endpoint, fields and limits, per API.

The vendor ignores a field that a family does not have, and charges for the job. So every named
option is translated here, and what a family cannot express is refused before anything is posted.
Models appear every month, families rarely. A model of no known family gets the fields that most
families share, and no limits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from receiver.model import Api

_COMPLETIONS = "/v1/draw/completions"
_GENERATE = "/v1/api/generate"

_RESOLUTION = re.compile(r"[1-9][0-9]?K", re.IGNORECASE)
_RATIO = re.compile(r"auto|[1-9][0-9]{0,3}:[1-9][0-9]{0,3}", re.IGNORECASE)
_PIXELS = re.compile(r"([1-9][0-9]{0,5}) ?[x×*] ?([1-9][0-9]{0,5})", re.IGNORECASE)
# gpt-image-2: sides in pixels, and how many times as long as the other one a side may be.
_SIDE_STEP = 16
_LONGEST_SIDE = 3840
_MAX_ASPECT = 3


@dataclass(frozen=True, slots=True)
class Fields:
    """The vendor's fields for the named options in one API; None: there is no such field.

    ``ratios`` are the only ones allowed, by what callers write; empty means any. ``max_pictures``
    and ``max_references`` are per job; None means that no limit is known.
    """

    path: str
    ratio: str = "aspectRatio"
    pixels: str | None = None
    resolution: str | None = None  # 1K, 2K, 4K
    count: str | None = None
    references: str = "urls"
    ratios: tuple[str, ...] = ()
    any_word: bool = False  # other texts than ratios and pixels are passed on too
    pixels_of_ratios: bool = False  # pixels are allowed where they are those of a ratio
    max_pictures: int | None = 1
    max_references: int | None = None
    takes_one_reference: bool = False  # the field is a text, not a list
    has_pixel_rules: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """Models whose names begin the same; ``draw`` is None if only the newer API has them."""

    prefixes: tuple[str, ...]
    draw: Fields | None
    newer: Fields


_NEWER = Fields(_GENERATE, pixels="aspectRatio", references="images")
_VIDEO_RATIOS = ("9:16", "16:9")
# The only pixels that gpt-image-1 makes, by OpenAI's pages.
_RATIOS = {"1024x1024": "1:1", "1536x1024": "3:2", "1024x1536": "2:3"}
_ORIENTATIONS = {"16:9": "landscape", "9:16": "portrait"}

FAMILIES = (
    Family(
        ("sora-image", "gpt-image-1"),
        Fields(
            _COMPLETIONS,
            ratio="size",
            count="variants",
            ratios=("auto", "1:1", "3:2", "2:3"),
            pixels_of_ratios=True,
            max_pictures=2,
        ),
        _NEWER,
    ),
    Family(
        ("gpt-image-2",),
        Fields(_COMPLETIONS, pixels="aspectRatio", has_pixel_rules=True),
        replace(_NEWER, has_pixel_rules=True),
    ),
    Family(
        ("nano-banana",),
        Fields("/v1/draw/nano-banana", resolution="imageSize"),
        replace(_NEWER, resolution="imageSize"),
    ),
    Family(
        ("sora-2", "sora2", "sora-video"),
        Fields(
            "/v1/video/sora-video",
            references="url",
            ratios=_VIDEO_RATIOS,
            max_references=1,
            takes_one_reference=True,
        ),
        replace(_NEWER, ratios=_VIDEO_RATIOS, max_references=1),
    ),
    Family(("veo",), Fields("/v1/video/veo", max_references=3), replace(_NEWER, max_references=3)),
    Family(("flux",), Fields("/v1/draw/flux"), _NEWER),
    Family(
        ("minimax-h3",),
        None,
        replace(_NEWER, pixels=None, ratios=("portrait", "landscape"), max_references=9),
    ),
)
_UNKNOWN = Family(
    (),
    Fields(
        _COMPLETIONS,
        pixels="aspectRatio",
        resolution="imageSize",
        count="variants",
        any_word=True,
        max_pictures=None,
    ),
    replace(_NEWER, resolution="imageSize", any_word=True),
)


def fields_of(model: str, api: Api) -> Fields:
    """Return the fields of a model; raise ValueError if this API does not have the model."""
    name = model.strip().lower()
    family = next((one for one in FAMILIES if name.startswith(one.prefixes)), _UNKNOWN)
    fields = family.newer if api is Api.NEWER else family.draw
    if fields is None:
        raise ValueError(
            f"only the newer API has {model}: use --api api, with --mode poll or --mode stream"
        )
    return fields


def size_params(model: str, api: Api, size: str) -> dict[str, object]:
    """Return the vendor's field for a ratio (3:2), pixels (1024x1024), or 1K, 2K, 4K.

    Raise ValueError with the remedy if the model has none.
    """
    fields = fields_of(model, api)
    if _RESOLUTION.fullmatch(size):
        if fields.resolution is None:
            raise ValueError(f"{model} has no 1K, 2K or 4K: {_remedy(fields)}")
        return {fields.resolution: size.upper()}
    if pixels := _PIXELS.fullmatch(size):
        ratio = _RATIOS.get(f"{pixels[1]}x{pixels[2]}") if fields.pixels_of_ratios else None
        if ratio is not None:
            return {fields.ratio: ratio}
        if fields.pixels is None:
            raise ValueError(f"{model} does not take pixels: {_remedy(fields)}")
        width, height = int(pixels[1]), int(pixels[2])
        if fields.has_pixel_rules:
            _check_pixels(model, width, height)
        return {fields.pixels: f"{width}x{height}"}
    return {fields.ratio: _ratio(model, fields, size)}


def _ratio(model: str, fields: Fields, size: str) -> str:
    if not fields.ratios and (fields.any_word or _RATIO.fullmatch(size)):
        return size.lower() if size.lower() == "auto" else size
    for word in (size.lower(), _ORIENTATIONS.get(size)):
        if word in fields.ratios:
            return word
    raise ValueError(f"{model} does not take {size}: {_remedy(fields)}")


def _remedy(fields: Fields) -> str:
    ratios = f"one of {', '.join(fields.ratios)}" if fields.ratios else "a ratio such as 16:9"
    pixels = ", or pixels such as 2048x2048" if fields.pixels else ""
    return f"give {ratios}{pixels}; a param sends any other field unchanged"


def _check_pixels(model: str, width: int, height: int) -> None:
    shorter, longer = sorted((width, height))
    if width % _SIDE_STEP or height % _SIDE_STEP:
        raise ValueError(f"{model} takes sides that are multiples of {_SIDE_STEP} pixels")
    if longer > _LONGEST_SIDE or longer > _MAX_ASPECT * shorter:
        raise ValueError(
            f"{model} takes sides up to {_LONGEST_SIDE} pixels, "
            f"and no side more than {_MAX_ASPECT} times the other"
        )


def count_params(model: str, api: Api, pictures: int) -> dict[str, object]:
    """Return the vendor's field for the number of pictures; raise ValueError with the remedy."""
    fields = fields_of(model, api)
    if fields.max_pictures is not None and pictures > fields.max_pictures:
        most = "one picture" if fields.max_pictures == 1 else f"up to {fields.max_pictures}"
        raise ValueError(
            f"{model} makes {most} a job: submit {pictures} jobs, which --split does for you"
        )
    return {fields.count: pictures} if fields.count else {}


def reference_params(model: str, api: Api, pictures: Sequence[str]) -> dict[str, object]:
    """Return the vendor's field for reference pictures; raise ValueError with the remedy."""
    fields, count = fields_of(model, api), len(pictures)
    if not count:
        return {}
    if fields.max_references is not None and count > fields.max_references:
        most = (
            "one reference picture"
            if fields.max_references == 1
            else (f"up to {fields.max_references} reference pictures")
        )
        raise ValueError(f"{model} takes {most}, not {count}: leave out the others")
    value = pictures[0] if fields.takes_one_reference else list(pictures)
    return {fields.references: value}
