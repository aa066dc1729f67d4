"""What a request of OpenAI's Images API becomes, and what of it is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from receiver.jobs.images_api import ImagesRequest
from receiver.jobs.request import DEFAULT_MODEL, GrsaiRequest
from receiver.model import Mode


def jobs(**body: Any) -> list[GrsaiRequest]:
    return ImagesRequest.model_validate({"prompt": "a fox", **body}).job_requests(Mode.WEBHOOK)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"model": DEFAULT_MODEL, "size": None, "params": {}, "mode": "webhook"}),
        (
            {"model": None, "n": None, "size": "auto", "quality": "auto"},
            {"size": None, "params": {}},
        ),
        ({"model": "grsai/nano-banana"}, {"provider": "grsai", "model": "nano-banana"}),
        ({"model": "black-forest-labs/flux"}, {"model": "black-forest-labs/flux"}),
        ({"model": "nano-banana", "size": "1536x1024"}, {"size": "3:2"}),
        ({"model": "nano-banana", "size": "1792x1024"}, {"size": "16:9"}),
        ({"model": "nano-banana", "size": "4K"}, {"size": "4K"}),
        ({"model": "gpt-image-2", "size": "2048x2048"}, {"size": "2048x2048"}),
        ({"quality": "hd"}, {"params": {"quality": "high"}}),
        ({"quality": "standard"}, {"params": {}}),
        (
            {"background": "transparent", "moderation": "low", "style": None},
            {"params": {"background": "transparent", "moderation": "low"}},
        ),
        (
            {"output_format": "webp", "output_compression": 0},
            {"params": {"output_format": "webp", "output_compression": 0}},
        ),
        (
            {"user": "u1", "metadata": {"order": 7}},
            {"metadata": {"user": "u1", "order": 7}, "params": {}},
        ),
        (
            {"images": ["https://x.test/a.png"], "mode": "poll", "folder": "shop"},
            {"images": ("https://x.test/a.png",), "mode": "poll", "folder": "shop"},
        ),
        ({"model": "minimax-h3"}, {"api": "api", "mode": "poll"}),
        (
            {"provider": "fal", "model": "fal/fal-ai/flux/dev"},
            {"provider": "fal", "model": "fal-ai/flux/dev"},
        ),
        (
            {"provider": "replicate", "model": "openai/gpt-image-1"},
            {"provider": "replicate", "model": "openai/gpt-image-1"},
        ),
        (
            {"params": {"seed": 7, "quality": "low"}, "quality": "hd", "style": "flat"},
            {"params": {"seed": 7, "quality": "low", "style": "flat"}},
        ),
        ({"key": "mine", "variants": 2, "n": None}, {"key": "mine", "variants": 2}),
        ({"n": 2}, {"variants": 2}),
    ],
)
def test_a_field_is_passed_on_or_translated(body: Any, expected: dict[str, Any]) -> None:
    (job,) = jobs(**body)
    assert {name: getattr(job, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("model", "n", "count"), [("nano-banana", 3, 3), (DEFAULT_MODEL, 2, 1), (DEFAULT_MODEL, 3, 3)]
)
def test_several_pictures_become_several_jobs_if_the_model_makes_fewer(
    model: str, n: int, count: int
) -> None:
    assert len(jobs(model=model, n=n)) == count


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({"n": 11}, "n"),
        ({"stream": True}, "pictures are not streamed"),
        ({"partial_images": 2}, "pictures are not streamed"),
        ({"output_format": "svg"}, "output_format: "),
        ({"svg": {"reasoning": "high"}}, "output_format: "),
        ({"response_format": "base64"}, "response_format"),
        ({"size": "333x777", "model": "nano-banana"}, "does not take pixels"),
        ({"images": ["/etc/passwd"]}, "neither a URL nor a picture"),
        ({"folder": "../up"}, "folder"),
        ({"metadata": "x"}, "metadata"),
        ({"params": "x"}, "params"),
        ({"provider": "nobody"}, "provider"),
        ({"provider": ["fal"]}, "provider"),
        ({"provider": "openai"}, "this API does not post to OpenAI"),
        ({"n": 2, "variants": 3}, "variants: it differs from n"),
        ({"key": 7}, "key"),
    ],
)
def test_what_cannot_be_given_is_refused_before_it_is_paid_for(body: Any, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        jobs(**body)
