"""What a submit asks the sandbox for: dimensions, reply, faults, and the words in which it is refused."""

from typing import Any

import pytest
from pydantic import BaseModel

from submitter.sandbox.callbacks import final_reports, forge, progress_reports
from submitter.sandbox.request import Kind, RefusedError, Reply, dimensions, read_request
from submitter.sandbox.script import (
    AnswerFault,
    CallbackFault,
    FileFault,
    RefuseFault,
    ResultFault,
    Script,
    ScriptError,
    StreamFault,
)

BODY = {"model": "gpt-image-1.5", "prompt": "a fox"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (1024, 1024)),
        ({"size": "auto"}, (1024, 1024)),
        ({"size": "1:1"}, (1024, 1024)),
        ({"size": "3:2"}, (1248, 832)),
        ({"size": "2:3"}, (832, 1248)),
        ({"size": "1536x1024"}, (1536, 1024)),
        ({"aspectRatio": "512x768"}, (512, 768)),
        ({"aspectRatio": "16:9"}, (1360, 768)),
        ({"aspectRatio": "16:9", "imageSize": "4K"}, (5456, 3072)),
        ({"imageSize": "1K"}, (1024, 1024)),
        ({"imageSize": "2k"}, (2048, 2048)),
        ({"imageSize": "4K"}, (4096, 4096)),
        ({"aspectRatio": "99:1"}, (2048, 512)),
        ({"size": "1x99999"}, (16, 8192)),
        ({"size": "0:0"}, (1024, 1024)),
        ({"size": "as large as possible"}, (1024, 1024)),
    ],
)
def test_sizes_are_honoured_within_reason(asked: dict[str, Any], expected: tuple[int, int]) -> None:
    assert dimensions(asked) == expected


def test_a_video_lies_or_stands() -> None:
    assert (
        dimensions({"aspectRatio": "16:9"}, video=True) == dimensions({}, video=True) == (1280, 720)
    )
    assert dimensions({"aspectRatio": "9:16"}, video=True) == (720, 1280)


@pytest.mark.parametrize(
    ("kind", "extra", "reply", "webhook"),
    [
        (Kind.IMAGE, {}, Reply.STREAM, None),
        (Kind.IMAGE, {"webHook": ""}, Reply.STREAM, None),
        (Kind.IMAGE, {"webHook": "-1"}, Reply.ID, None),
        (
            Kind.IMAGE,
            {"webHook": "https://us.example/callback/x"},
            Reply.CALLBACK,
            "https://us.example/callback/x",
        ),
        (None, {}, Reply.JSON, None),
        (None, {"replyType": "json"}, Reply.JSON, None),
        (None, {"replyType": "stream"}, Reply.STREAM, None),
        (None, {"replyType": "async", "webHook": "https://us.example/ignored"}, Reply.ID, None),
    ],
)
def test_the_reply_is_chosen_as_each_generation_does(
    kind: Kind | None, extra: dict[str, Any], reply: Reply, webhook: str | None
) -> None:
    order = read_request(kind, BODY | extra, {})
    assert (order.newer, order.reply, order.webhook) == (kind is None, reply, webhook)


@pytest.mark.parametrize(
    ("model", "kind", "form"),
    [
        ("gpt-image-2", Kind.IMAGE, "png"),
        ("a-model-of-next-month", Kind.IMAGE, "png"),
        ("nano-banana-pro", Kind.CAPTIONED, "png"),
        ("sora-2", Kind.SORA, "mp4"),
        ("sora-image", Kind.IMAGE, "png"),
        ("veo3.1-fast", Kind.VEO, "mp4"),
    ],
)
def test_the_newer_api_tells_the_kind_of_result_by_the_model(
    model: str, kind: Kind, form: str
) -> None:
    order = read_request(None, BODY | {"model": model}, {})
    assert (order.kind, order.form) == (kind, form)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, "not a JSON object"),
        (["a fox"], "not a JSON object"),
        ({"prompt": "a fox"}, "model is required"),
        ({"model": "m", "prompt": " "}, "prompt is required"),
        ({"model": 7, "prompt": "a fox"}, "model is required"),
        (BODY | {"variants": 3}, "variants must be 1 or 2, not 3"),
        (BODY | {"variants": True}, "variants must be 1 or 2"),
        (BODY | {"webHook": "ftp://us.example"}, "webHook is not a URL"),
        (BODY | {"webHook": 1}, "webHook is not a URL"),
        (BODY | {"sandbox": {"dealy": 1}}, "sandbox.dealy: Extra inputs"),
        (
            BODY | {"sandbox": {"callback": {"mode": "duplicate", "time": 2}}},
            "sandbox.callback.time: Extra inputs",
        ),
        (BODY | {"sandbox": {"file": "eaten"}}, "sandbox.file.mode: Input should be 'ok'"),
        (
            BODY | {"sandbox": {"delay": -1, "bytes": 0}},
            "sandbox.delay: Input should be greater than or equal to 0; sandbox.bytes:",
        ),
        (BODY | {"sandbox": "lost"}, "sandbox: Input should be"),
        (BODY | {"sandbox": {"refuse": "insufficient credits"}}, "insufficient credits"),
    ],
)
def test_what_cannot_be_served_is_refused_and_the_wrong_field_named(body: Any, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_request(Kind.IMAGE, body, {})
    assert said in str(caught.value)


def test_the_newer_api_knows_three_kinds_of_reply() -> None:
    with pytest.raises(RefusedError, match="replyType must be one of json, stream, async"):
        read_request(None, BODY | {"replyType": "pigeon"}, {})


def test_a_jobs_own_script_lies_over_the_sandboxs() -> None:
    order = read_request(Kind.IMAGE, BODY | {"sandbox": {"delay": 1}}, {"delay": 9, "progress": 7})
    assert (order.script.delay, order.script.progress) == (1, 7)


def test_a_mode_alone_a_text_alone_and_a_number_alone_are_short_forms() -> None:
    short = Script.read({"file": "slow", "callback": "lost", "refuse": "no"})
    assert short == Script.read(
        {"file": {"mode": "slow"}, "callback": {"mode": "lost"}, "refuse": {"message": "no"}}
    )
    refuse = Script.read({"refuse": 429}).refuse
    assert refuse is not None
    assert refuse.status == 429


def test_every_key_of_the_script_says_what_it_means() -> None:
    for model in (
        Script,
        RefuseFault,
        CallbackFault,
        AnswerFault,
        FileFault,
        ResultFault,
        StreamFault,
    ):
        nested = {
            name
            for name, field in model.model_fields.items()
            if isinstance(field.default, BaseModel)
        }
        assert [
            name
            for name, field in model.model_fields.items()
            if not field.description and name not in nested
        ] == []
        assert model.__doc__


def test_a_wrong_script_names_every_mistake_at_once() -> None:
    with pytest.raises(ScriptError) as caught:
        Script.read({"fial": 1, "stream": {"mode": "hung"}, "result": {"times": "often"}})
    assert [part.split(":")[0] for part in str(caught.value).split("; ")] == [
        "sandbox.result.times",
        "sandbox.stream.mode",
        "sandbox.fial",
    ]


@pytest.mark.parametrize(
    ("fault", "suffering"),
    [
        ({"mode": "ok"}, []),
        ({"mode": "not_ready"}, [1]),
        ({"mode": "error", "times": 3}, [1, 2, 3]),
        ({"mode": "error", "times": 0}, [1, 2, 3, 4]),
        ({"mode": "placeholder"}, [1, 2, 3, 4]),
        ({"mode": "truncated", "times": 2}, [1, 2]),
        ({"mode": "expired"}, [1]),
    ],
)
def test_a_fault_of_a_file_lasts_as_long_as_it_is_told_to(
    fault: dict[str, Any], suffering: list[int]
) -> None:
    file = Script.read({"file": fault}).file
    assert [nth for nth in range(1, 5) if file.applies_to(nth)] == suffering


def test_progress_is_spread_over_the_delay() -> None:
    reports = progress_reports(Script.read({"delay": 4, "progress": 3}), no_progress=False)
    assert [(due, report.kind, report.progress) for due, report in reports] == [
        (1, "running", 25),
        (2, "running", 50),
        (3, "running", 75),
    ]


@pytest.mark.parametrize(
    ("callback", "reports"),
    [
        ("once", ["final"]),
        ("late", ["final"]),
        ({"mode": "duplicate", "times": 3}, ["final", "final", "final"]),
        ("reorder", ["final", "running"]),
        ("lost", []),
        ("contradiction", ["final", "contradiction"]),
        ("forged", ["final", "final"]),
    ],
)
def test_the_reports_after_the_end_are_those_of_the_script(
    callback: object, reports: list[str]
) -> None:
    assert [report.kind for report in final_reports(Script.read({"callback": callback}))] == reports


@pytest.mark.parametrize("last", "AZafgz059-_")
def test_a_forged_url_differs_in_bits_that_count(last: str) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    forged = forge(f"https://us.example/callback/x{last}")
    assert forged[:-1] == "https://us.example/callback/x"
    assert (alphabet.index(forged[-1]) ^ alphabet.index(last)) & 0b100000
