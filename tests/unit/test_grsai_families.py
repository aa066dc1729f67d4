"""Requests: each named option becomes the field that the family and the API really have."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from receiver.jobs.request import GrsaiRequest, JobRequest, mistakes
from receiver.model import Api, Mode, Provider, Submission
from receiver.providers.grsai.families import FAMILIES
from receiver.providers.grsai.request import NO_WEBHOOK, GrsaiCall, build_submit

URL = "https://pictures.example.com/callback/ticket"
A, B = "https://a.example/a.png", "https://a.example/b.png"
COMPLETIONS, NANO = "/v1/draw/completions", "/v1/draw/nano-banana"
SORA, VEO, FLUX = "/v1/video/sora-video", "/v1/video/veo", "/v1/draw/flux"


def posted(model: str, api: Api = Api.DRAW, **options: Any) -> tuple[str, dict[str, object]]:
    """Return the path of a job's POST, and what it says beyond model, prompt and reply."""
    asked = JobRequest(prompt="a fox", model=model, api=api, mode=Mode.POLL, **options)
    request = build_submit(asked.submission(), NO_WEBHOOK)
    body = dict(request.body or {})
    reply = body.pop("webHook", None) or body.pop("replyType")
    assert (body.pop("model"), body.pop("prompt")) == (model, "a fox")
    assert reply == {Api.DRAW: NO_WEBHOOK, Api.NEWER: "async"}[api]
    return request.path, body


def refusal(model: str, api: Api = Api.DRAW, **options: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        posted(model, api, **options)
    (found,) = mistakes(refused.value)
    return found


@pytest.mark.parametrize(
    ("model", "options", "path", "fields"),
    [
        ("sora-image", {"size": "auto"}, COMPLETIONS, {"size": "auto"}),
        (
            "gpt-image-1.5",
            {"size": "3:2", "variants": 2},
            COMPLETIONS,
            {"size": "3:2", "variants": 2},
        ),
        ("gpt-image-1.5", {"size": "1536x1024"}, COMPLETIONS, {"size": "3:2"}),
        ("GPT-Image-1", {"images": [A, B]}, COMPLETIONS, {"urls": [A, B]}),
        ("gpt-image-2", {"size": "16:9"}, COMPLETIONS, {"aspectRatio": "16:9"}),
        ("gpt-image-2-vip", {"size": "3840x2160"}, COMPLETIONS, {"aspectRatio": "3840x2160"}),
        ("gpt-image-2.5", {"size": "1024×1024"}, COMPLETIONS, {"aspectRatio": "1024x1024"}),
        ("gpt-image-2", {"variants": 1, "images": [A]}, COMPLETIONS, {"urls": [A]}),
        ("nano-banana", {"size": "16:9"}, NANO, {"aspectRatio": "16:9"}),
        ("Nano-Banana-Pro", {"size": "4k", "images": [A]}, NANO, {"imageSize": "4K", "urls": [A]}),
        ("sora-2", {"size": "16:9", "images": [A]}, SORA, {"aspectRatio": "16:9", "url": A}),
        ("sora2-portrait", {"size": "9:16"}, SORA, {"aspectRatio": "9:16"}),
        ("sora-video", {}, SORA, {}),
        (
            "veo3.1-fast",
            {"size": "9:16", "images": [A, B]},
            VEO,
            {"aspectRatio": "9:16", "urls": [A, B]},
        ),
        (
            "flux-kontext-pro",
            {"size": "21:9", "images": [A]},
            FLUX,
            {"aspectRatio": "21:9", "urls": [A]},
        ),
        # An unknown family gets what most have, without limits.
        (
            "of-tomorrow",
            {"size": "3:2", "variants": 4},
            COMPLETIONS,
            {"aspectRatio": "3:2", "variants": 4},
        ),
        (
            "of-tomorrow",
            {"size": "64x48", "images": [A]},
            COMPLETIONS,
            {"aspectRatio": "64x48", "urls": [A]},
        ),
        ("of-tomorrow", {"size": "8K"}, COMPLETIONS, {"imageSize": "8K"}),
    ],
)
def test_the_draw_api_gets_the_fields_of_the_family(
    model: str, options: dict[str, Any], path: str, fields: dict[str, object]
) -> None:
    assert posted(model, **options) == (path, fields)


@pytest.mark.parametrize(
    ("model", "options", "fields"),
    [
        ("gpt-image-1.5", {"size": "3:2", "images": [A]}, {"aspectRatio": "3:2", "images": [A]}),
        ("gpt-image-2", {"size": "1024x1024"}, {"aspectRatio": "1024x1024"}),
        ("nano-banana-pro", {"size": "2K"}, {"imageSize": "2K"}),
        ("sora-2", {"size": "9:16", "images": [A]}, {"aspectRatio": "9:16", "images": [A]}),
        ("veo3.1", {"images": [A]}, {"images": [A]}),
        ("minimax-h3", {"size": "portrait"}, {"aspectRatio": "portrait"}),
        ("MiniMax-H3", {"size": "16:9"}, {"aspectRatio": "landscape"}),
        ("minimax-h3", {"images": [A] * 9, "variants": 1}, {"images": [A] * 9}),
        ("of-tomorrow", {"size": "3:2", "images": [A]}, {"aspectRatio": "3:2", "images": [A]}),
    ],
)
def test_the_newer_api_gets_its_own_fields(
    model: str, options: dict[str, Any], fields: dict[str, object]
) -> None:
    assert posted(model, Api.NEWER, **options) == ("/v1/api/generate", fields)


@pytest.mark.parametrize(
    ("model", "api", "options", "field", "remedy"),
    [
        (
            "gpt-image-2",
            "draw",
            {"size": "4K"},
            "size",
            "no 1K, 2K or 4K: give a ratio .*, or pixels",
        ),
        (
            "gpt-image-1.5",
            "draw",
            {"size": "4K"},
            "size",
            "one of auto, 1:1, 3:2, 2:3; a param sends",
        ),
        (
            "gpt-image-1.5",
            "draw",
            {"size": "1024x768"},
            "size",
            "does not take pixels: give one of auto",
        ),
        (
            "sora-image",
            "draw",
            {"size": "16:9"},
            "size",
            "does not take 16:9: give one of auto, 1:1",
        ),
        (
            "nano-banana",
            "draw",
            {"size": "1024x1024"},
            "size",
            "does not take pixels: give a ratio",
        ),
        ("gpt-image-2", "draw", {"size": "1000x1000"}, "size", "multiples of 16"),
        ("gpt-image-2", "api", {"size": "4096x2048"}, "size", "up to 3840 pixels"),
        ("gpt-image-2", "draw", {"size": "3200x1024"}, "size", "more than 3 times"),
        ("gpt-image-2", "api", {"size": "2K"}, "size", "no 1K, 2K or 4K"),
        (
            "nano-banana",
            "draw",
            {"size": "portrait"},
            "size",
            "does not take portrait: give a ratio",
        ),
        ("sora-2", "draw", {"size": "1:1"}, "size", "one of 9:16, 16:9"),
        ("sora-2", "draw", {"size": "large"}, "size", "a param sends any other field"),
        ("minimax-h3", "api", {"size": "1:1"}, "size", "one of portrait, landscape"),
        ("minimax-h3", "api", {"size": "64x64"}, "size", "does not take pixels"),
        ("minimax-h3", "draw", {}, "api", "only the newer API has minimax-h3: use --api api"),
        (
            "gpt-image-1.5",
            "draw",
            {"variants": 3},
            "variants",
            "up to 2 a job: submit 3 jobs, which --split",
        ),
        (
            "nano-banana",
            "draw",
            {"variants": 4},
            "variants",
            "one picture a job: submit 4 jobs, which --split",
        ),
        ("veo3", "draw", {"variants": 2}, "variants", "one picture a job"),
        ("gpt-image-1.5", "api", {"variants": 2}, "variants", "one picture a job"),
        ("of-tomorrow", "api", {"variants": 2}, "variants", "one picture a job"),
        ("sora-2", "draw", {"images": [A, B]}, "images", "one reference picture, not 2"),
        ("veo3", "draw", {"images": [A] * 4}, "images", "up to 3 reference pictures, not 4"),
        ("minimax-h3", "api", {"images": [A] * 10}, "images", "up to 9 reference pictures"),
    ],
)
def test_what_a_family_cannot_express_is_refused_with_the_remedy(
    model: str, api: str, options: dict[str, Any], field: str, remedy: str
) -> None:
    found = refusal(model, Api(api), **options)
    assert found.startswith(f"{field}: {model} ") or field == "api"
    assert re.search(remedy, found)
    with pytest.raises(ValidationError):
        GrsaiRequest.model_validate({"prompt": "a fox", "model": model, "api": api, **options})


def test_a_param_overrides_a_named_option_and_passes_what_we_do_not_know() -> None:
    params = {"size": "16:9", "variants": 9, "of-tomorrow": {"a": None}}
    assert posted("sora-image", size="3:2", params=params)[1] == params
    assert posted("nano-banana", size="16:9", params={"imageSize": "4K"})[1] == {
        "aspectRatio": "16:9",
        "imageSize": "4K",
    }


def test_another_provider_has_its_own_fields() -> None:
    asked = JobRequest(
        prompt="a fox", model="gpt-image-2", provider=Provider.OPENAI, size="64x64", variants=4
    )
    assert asked.submission().params == {"size": "64x64", "variants": 4}


@pytest.mark.parametrize(
    ("api", "mode", "path", "says"),
    [
        (Api.DRAW, Mode.WEBHOOK, COMPLETIONS, {"webHook": URL}),
        (Api.DRAW, Mode.STREAM, COMPLETIONS, {}),
        (Api.NEWER, Mode.POLL, "/v1/api/generate", {"replyType": "async"}),
        (Api.NEWER, Mode.STREAM, "/v1/api/generate", {"replyType": "stream"}),
    ],
)
def test_each_api_has_its_own_way_to_ask_for_the_reply(
    api: Api, mode: Mode, path: str, says: dict[str, object]
) -> None:
    request = build_submit(Submission("a fox", "gpt-image-1.5", {}, mode, api=api), URL)
    assert request == GrsaiCall(path, {"model": "gpt-image-1.5", "prompt": "a fox", **says})


def test_params_cannot_replace_what_the_service_itself_says() -> None:
    params: dict[str, object] = {
        "webHook": "https://elsewhere",
        "model": "other",
        "prompt": "other",
    }
    assert build_submit(Submission("a fox", "m", params), URL).body == {
        "model": "m",
        "prompt": "a fox",
        "webHook": URL,
    }
    assert params["webHook"] == "https://elsewhere", "the caller's dict is left alone"


@pytest.mark.parametrize(
    ("params", "requested"),
    [({"variants": 2}, 2), ({"n": 3, "variants": 2}, 3), ({}, None), ({"n": True}, None)]
    + [({"variants": odd}, None) for odd in ("2", 0, -1, 1.5, 10**9, None)],
)
def test_a_submission_knows_how_many_pictures_it_asks_for(
    params: dict[str, object], requested: int | None
) -> None:
    assert Submission("a fox", "m", params).requested == requested


def test_no_model_belongs_to_two_families() -> None:
    prefixes = [prefix for family in FAMILIES for prefix in family.prefixes]
    assert [
        (one, other)
        for one in prefixes
        for other in prefixes
        if one is not other and one.startswith(other)
    ] == []
