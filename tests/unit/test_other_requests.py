"""What a caller asks of other providers than GRSAI: translated, or refused before the POST."""

from typing import Any

import pytest
from pydantic import ValidationError

from receiver.jobs.request import GrsaiRequest, JobRequest, mistakes, takes_variants
from receiver.model import Api, Mode, Provider

MODELS = {
    Provider.FAL: "fal-ai/flux/dev",
    Provider.REPLICATE: "black-forest-labs/flux-schnell",
    Provider.BFL: "flux-2-pro",
    Provider.KIE: "google/nano-banana",
}


def asked(provider: Provider, **fields: Any) -> JobRequest:
    return JobRequest.model_validate(
        {"prompt": "a fox", "model": MODELS[provider], "provider": provider, **fields}
    )


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("mode", [Mode.WEBHOOK, Mode.POLL])
def test_a_request_is_a_submission_to_its_provider(provider: Provider, mode: Mode) -> None:
    found = asked(provider, size="16:9", params={"seed": 7}, mode=mode).submission()
    assert (found.provider, found.api, found.mode) == (provider, Api.QUEUE, mode)
    assert (found.model, found.params) == (MODELS[provider], {"aspect_ratio": "16:9", "seed": 7})


def test_a_param_wins_over_a_named_option_and_says_how_many_pictures_are_asked_for() -> None:
    found = asked(Provider.FAL, variants=2, params={"num_images": 3}).submission()
    assert (found.params, found.requested) == ({"num_images": 3}, 3)
    assert asked(Provider.REPLICATE, variants=4).submission().requested == 4


REFUSED = [
    (
        {"model": "gpt-image-1.5"},
        "provider: fal has no model gpt-image-1.5; name one, such as fal-ai/flux/dev",
    ),
    ({"size": "2K"}, "size: fal has no size 2K: give pixels (1024x768) or a ratio"),
    ({"mode": "stream"}, "mode: fal has no streams; use webhook or poll"),
    ({"images": ["https://x.example/0.png"]}, "images: the field for reference pictures depends"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_what_fal_cannot_do_is_refused_by_its_field(fields: dict[str, Any], words: str) -> None:
    for model in (JobRequest, GrsaiRequest):
        with pytest.raises(ValidationError) as refused:
            model.model_validate(
                {"prompt": "a fox", "model": "fal-ai/flux/dev", "provider": "fal", **fields}
            )
        assert any(one.startswith(words) for one in mistakes(refused.value))


def test_several_pictures_of_one_job_are_refused_where_a_job_makes_one() -> None:
    for provider, most in (
        (Provider.FAL, 4),
        (Provider.REPLICATE, 4),
        (Provider.BFL, 1),
        (Provider.KIE, 1),
    ):
        assert takes_variants(provider, MODELS[provider], Api.DRAW, most)
        assert takes_variants(provider, MODELS[provider], Api.DRAW, most + 1) is (most > 1)
    with pytest.raises(ValidationError, match="--split"):
        asked(Provider.BFL, variants=2)
