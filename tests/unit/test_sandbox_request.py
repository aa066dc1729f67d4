"""What a submit asks the sandbox for: dimensions, reply, faults, and the texts of refusals."""

from typing import Any

import pytest
from pydantic import BaseModel

from submitter.sandbox import script
from submitter.sandbox.callbacks import forge, progress_reports
from submitter.sandbox.request import Kind, RefusedError, Reply, dimensions, read_request
from submitter.sandbox.script import Script

BODY = {"model": "gpt-image-1.5", "prompt": "a fox"}


def test_sizes_are_honoured_within_reason() -> None:
    assert dimensions({"size": "3:2"}) == (1248, 832)
    assert dimensions({"aspectRatio": "512x768"}) == (512, 768)
    assert dimensions({"aspectRatio": "16:9", "imageSize": "4K"}) == (5456, 3072)
    assert dimensions({"size": "1x99999"}) == (16, 8192)
    assert dimensions({"size": "as large as possible"}) == (1024, 1024)


def test_a_video_is_landscape_or_portrait() -> None:
    assert dimensions({}, video=True) == (1280, 720)
    assert dimensions({"aspectRatio": "9:16"}, video=True) == (720, 1280)


def test_the_reply_is_chosen_as_each_generation_does() -> None:
    url = "https://us.example/x"
    cases: list[tuple[Kind | None, dict[str, Any], Reply, str | None]] = [
        (Kind.IMAGE, {}, Reply.STREAM, None),
        (Kind.IMAGE, {"webHook": "-1"}, Reply.ID, None),
        (Kind.IMAGE, {"webHook": url}, Reply.CALLBACK, url),
        (None, {}, Reply.JSON, None),
        (None, {"replyType": "async", "webHook": url}, Reply.ID, None),
    ]
    for kind, extra, reply, webhook in cases:
        request = read_request(kind, BODY | extra, {})
        assert (request.newer, request.reply, request.webhook) == (kind is None, reply, webhook)


def test_the_newer_api_derives_the_form_of_the_result_from_the_model() -> None:
    models = {"gpt-image-2": "png", "nano-banana-pro": "png", "sora-2": "mp4", "veo3.1": "mp4"}
    assert {m: read_request(None, BODY | {"model": m}, {}).form for m in models} == models


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, "not a JSON object"),
        ({"model": "m", "prompt": " "}, "prompt is required"),
        (BODY | {"variants": 3}, "variants must be 1 or 2, not 3"),
        (BODY | {"webHook": "ftp://us.example"}, "webHook is not a URL"),
        (
            BODY | {"sandbox": {"delay": -1, "callback": {"time": 2}}},
            "sandbox.delay: Input should be greater than or equal to 0; sandbox.callback.time: ",
        ),
    ],
)
def test_a_wrong_request_is_refused_and_every_wrong_field_named(body: Any, text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_request(Kind.IMAGE, body, {})
    assert text in str(caught.value)


def test_a_jobs_own_script_has_priority_over_the_sandboxs() -> None:
    own = BODY | {"sandbox": {"delay": 1}}
    request = read_request(Kind.IMAGE, own, {"delay": 9, "progress": 7})
    assert (request.script.delay, request.script.progress) == (1, 7)


def test_a_mode_alone_a_text_alone_and_a_number_alone_are_short_forms() -> None:
    short = Script.read({"file": "slow", "refuse": "no"})
    assert short == Script.read({"file": {"mode": "slow"}, "refuse": {"message": "no"}})
    assert Script.read({"refuse": 429}) == Script.read({"refuse": {"status": 429}})


def test_every_key_of_the_script_has_a_description() -> None:
    models = [one for one in vars(script).values() if isinstance(one, type)]
    for model in models:
        if issubclass(model, BaseModel):
            fields = model.model_fields.items()
            nested = {name for name, field in fields if isinstance(field.default, BaseModel)}
            missing = {name for name, field in fields if not field.description}
            assert missing == nested


def test_progress_is_spread_over_the_delay() -> None:
    reports = progress_reports(Script.read({"delay": 4, "progress": 3}), no_progress=False)
    found = [(due, report.kind, report.progress) for due, report in reports]
    assert found == [(1, "running", 25), (2, "running", 50), (3, "running", 75)]


def test_a_forged_url_differs_in_bits_that_count() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for last in "AZafgz059-_":
        forged = forge(f"https://us.example/callback/x{last}")
        assert forged[:-1] == "https://us.example/callback/x"
        assert (alphabet.index(forged[-1]) ^ alphabet.index(last)) & 0b100000
