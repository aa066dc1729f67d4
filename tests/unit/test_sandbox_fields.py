"""What the vendor would ignore: the sandbox's own table, and the receiver's requests against it."""

from itertools import product
from typing import Any

import pytest
from pydantic import ValidationError

from receiver.jobs.request import JobRequest
from receiver.model import Api, Mode
from receiver.providers.grsai.request import build_submit
from submitter.sandbox.fields import field_faults

A = "https://a.example/a.png"
MODELS = (
    "sora-image",
    "gpt-image-1.5",
    "gpt-image-2",
    "gpt-image-2-vip",
    "nano-banana",
    "Nano-Banana-Pro",
    "sora-2",
    "sora2-portrait",
    "sora-video",
    "veo3.1-fast",
    "flux-kontext-pro",
    "minimax-h3",
    "of-tomorrow",
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    *({"size": size} for size in ("1:1", "3:2", "16:9", "9:16", "auto", "portrait")),
    *({"size": size} for size in ("1024x1024", "2048x1024", "640x48", "1K", "4K")),
    *({"variants": count} for count in (1, 2, 4)),
    *({"images": [A] * count} for count in (1, 3, 4, 10)),
    {"size": "16:9", "images": [A], "params": {"quality": "high", "seed": 7}},
)


@pytest.mark.parametrize(("model", "api"), list(product(MODELS, [Api.DRAW, Api.NEWER])))
def test_what_the_receiver_does_not_refuse_the_vendor_takes(model: str, api: Api) -> None:
    taken = 0
    for options, mode in product(OPTIONS, [Mode.POLL, Mode.STREAM]):
        try:
            asked = JobRequest(prompt="a fox", model=model, api=api, mode=mode, **options)
        except ValidationError:
            continue
        request = build_submit(asked.submission(), "-1")
        assert request.body is not None
        assert field_faults(request.path, request.body) == [], (options, request)
        taken += 1
    assert taken or (model, api) == ("minimax-h3", Api.DRAW)


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        (
            "/v1/api/generate",
            {"model": "gpt-image-2", "urls": [A], "replyType": "async"},
            "urls is",
        ),
        ("/v1/api/generate", {"model": "gpt-image-2", "size": "1:1", "replyType": "x"}, "size is"),
        (
            "/v1/api/generate",
            {"model": "gpt-image-2", "imageSize": "4K", "replyType": "x"},
            "image",
        ),
        ("/v1/api/generate", {"model": "gpt-image-2"}, "replyType is missing"),
        ("/v1/draw/completions", {"model": "gpt-image-2", "size": "1:1"}, "size is ignored"),
        ("/v1/draw/completions", {"model": "gpt-image-2", "variants": 2}, "variants is ignored"),
        ("/v1/draw/completions", {"model": "gpt-image-1", "variants": 4}, "variants cannot be 4"),
        ("/v1/draw/completions", {"model": "gpt-image-1", "size": "64x64"}, "size cannot be"),
        ("/v1/draw/completions", {"model": "nano-banana"}, "belongs to /v1/draw/nano-banana"),
        ("/v1/video/sora-video", {"model": "sora-2", "urls": [A]}, "urls is ignored"),
        ("/v1/video/sora-video", {"model": "sora-2", "size": "16:9"}, "size cannot be"),
        ("/v1/video/veo", {"model": "veo3", "urls": [A] * 4}, "at most 3"),
        ("/v1/draw/completions", {"model": "minimax-h3"}, "not in the draw API"),
    ],
)
def test_what_the_vendor_would_ignore_is_named(path: str, body: dict[str, Any], fault: str) -> None:
    (found,) = field_faults(path, {"prompt": "a fox", **body})
    assert fault in found
