"""GRSAI's protocol: every known shape is read, and each response has the right meaning."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from receiver.errors import (
    AnswerLostError,
    NoSuchTaskError,
    NotSentError,
    ProviderError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Api, Mode, Outcome, Reason, Report, Result, Submission
from receiver.providers.grsai.protocol import (
    NO_WEBHOOK,
    Request,
    build_result,
    build_submit,
    read_report,
    read_result,
    read_submit,
    size_params,
    stream_events,
)

URL = "https://file1.aitohumanize.com/file/0123456789abcdef0123456789abcdef.png"
NOTHINGS: list[object] = [
    None,
    [],
    {},
    "x",
    7,
    [None, "x", 7, []],
    [{}],
    [{"url": None}],
    [{"url": ["x"]}],
]


def raw(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()


def envelope(data: object, code: int = 0, msg: str = "success") -> dict[str, object]:
    return {"code": code, "msg": msg, "data": data}


def report(**task: Any) -> Report:
    return read_report(raw({"id": "x", **task}))


# Submits.


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("sora-image", "/v1/draw/completions"),
        ("gpt-image-1.5", "/v1/draw/completions"),
        ("gpt-image-2", "/v1/draw/completions"),
        ("a-model-of-next-month", "/v1/draw/completions"),
        ("nano-banana", "/v1/draw/nano-banana"),
        ("nano-banana-pro-4k", "/v1/draw/nano-banana"),
        ("sora-2", "/v1/video/sora-video"),
        ("sora-video", "/v1/video/sora-video"),
        ("veo3.1-fast", "/v1/video/veo"),
    ],
)
def test_each_family_of_models_has_its_door_and_fields_pass_through(model: str, path: str) -> None:
    params: dict[str, object] = {
        "variants": 2,
        "urls": ["data:image/png;base64,AA"],
        "unheard-of": {"a": None},
    }
    request = build_submit(Submission("a fox", model, params), NO_WEBHOOK)
    assert request.path == path
    assert request.body == {**params, "model": model, "prompt": "a fox", "webHook": "-1"}


@pytest.mark.parametrize(
    ("api", "mode", "path", "says"),
    [
        (Api.DRAW, Mode.WEBHOOK, "/v1/draw/completions", {"webHook": URL}),
        (Api.DRAW, Mode.STREAM, "/v1/draw/completions", {}),
        (Api.NEWER, Mode.POLL, "/v1/api/generate", {"replyType": "async"}),
        (Api.NEWER, Mode.STREAM, "/v1/api/generate", {"replyType": "stream"}),
    ],
)
def test_each_generation_has_its_own_way_to_ask_for_the_reply(
    api: Api, mode: Mode, path: str, says: dict[str, object]
) -> None:
    request = build_submit(Submission("a fox", "gpt-image-1.5", {}, mode, api=api), URL)
    assert request == Request(path, {"model": "gpt-image-1.5", "prompt": "a fox", **says})


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
    ("model", "size", "params"),
    [
        ("gpt-image-1.5", "3:2", {"size": "3:2"}),
        ("sora-image", "auto", {"size": "auto"}),
        ("gpt-image-2", "1024x1024", {"aspectRatio": "1024x1024"}),
        ("nano-banana", "16:9", {"aspectRatio": "16:9"}),
        ("nano-banana-pro", "4k", {"imageSize": "4K"}),
        ("veo3.1", "9:16", {"aspectRatio": "9:16"}),
    ],
)
def test_a_size_goes_into_the_field_of_its_family(
    model: str, size: str, params: dict[str, object]
) -> None:
    assert size_params(model, size) == params


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        # What GRSAI says, by the protocol notes.
        (200, envelope(None, -1, "insufficient credits"), RefusedError, "^insufficient credits$"),
        (
            200,
            envelope(None, -1, "apikey credits not enough"),
            RefusedError,
            "^apikey credits not enough$",
        ),
        (
            200,
            envelope(None, -1, "不存在该模型: veo3.1-fast"),
            RefusedError,
            "^不存在该模型: veo3.1-fast$",
        ),
        (200, envelope(None, -1, "invalid apikey"), RefusedError, "^invalid apikey$"),
        (200, envelope(None, -1, ""), RefusedError, "code -1"),
        (
            400,
            {"status": "failed", "error": "apikey credits not enough"},
            RefusedError,
            "^apikey credits not enough$",
        ),
        (
            400,
            {"status": "failed", "error": "load is too high, try again later"},
            RefusedError,
            "^load is too high",
        ),
        (200, {"status": "failed", "error": "no"}, RefusedError, "^no$"),
        (401, {"message": "bad key"}, RefusedError, "^bad key$"),
        (401, b"", RefusedError, "HTTP 401"),
        (404, b"<html>Not Found</html>", RefusedError, "HTTP 404"),
        (429, b"", NotSentError, "429"),
        (429, envelope(None, -1, "slow down"), NotSentError, "429"),
        # Whatever is no answer: the job may have been accepted and billed.
        (500, envelope(None, -1, "insufficient credits"), AnswerLostError, "HTTP 500"),
        (502, b"<html>502 Bad Gateway</html>", AnswerLostError, "HTTP 502"),
        (504, b"", AnswerLostError, "HTTP 504"),
        (302, b"", AnswerLostError, "HTTP 302"),
        (204, b"", AnswerLostError, "HTTP 204"),
        (200, b"", AnswerLostError, "no answer"),
        (200, b"<html>", AnswerLostError, "no answer"),
        (200, b"[]", AnswerLostError, "no answer"),
        (200, b"\xff", AnswerLostError, "no answer"),
        *(
            (200, body, AnswerLostError, "no id")
            for body in (
                {},
                envelope(None),
                envelope({}),
                envelope([]),
                envelope(""),
                {"id": ["x"]},
            )
        ),
        (200, envelope({"id": "x" * 201}), AnswerLostError, "no id"),
    ],
)
def test_a_submit_that_gave_no_job_is_told_apart_by_what_it_costs(
    status: int, body: object, error: type[ProviderError], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_submit(status, raw(body))


@pytest.mark.parametrize(
    ("body", "task"),
    [
        (envelope({"id": "f44bcf50-4a4e"}), "f44bcf50-4a4e"),
        (envelope({"id": "14-5f3cf761"}, msg=""), "14-5f3cf761"),
        (envelope({"taskId": "abc"}), "abc"),
        (envelope("a-bare-string"), "a-bare-string"),
        (envelope({"id": 12345}), "12345"),
        (envelope(12345), "12345"),
        ({"data": {"id": "x"}}, "x"),
        (
            {"id": "newer", "status": "running", "progress": 0, "results": None, "error": ""},
            "newer",
        ),
        ({"id": " padded\u0000 ", "status": "running"}, "padded"),
        (envelope({"id": "x" * 200}), "x" * 200),
    ],
)
def test_the_id_is_found_in_every_form_of_the_answer(body: object, task: str) -> None:
    assert read_submit(200, raw(body)) == task


# Results.


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (200, envelope(None, -22, "task not found"), NoSuchTaskError, "^task not found$"),
        (200, {"code": -22}, NoSuchTaskError, "does not know this task"),
        (200, envelope(None, -1, "something else"), ProviderUnavailableError, "^something else$"),
        (200, envelope(None, 7, ""), ProviderUnavailableError, "code 7"),
        (200, envelope("text"), ProviderUnavailableError, "success"),
        (200, envelope(None), ProviderUnavailableError, "success"),
        (200, b"<html>", ProviderUnavailableError, "HTTP 200"),
        (200, b"[]", ProviderUnavailableError, "HTTP 200"),
        *(
            (code, b"<html>Bad Gateway</html>", ProviderUnavailableError, f"HTTP {code}")
            for code in (301, 400, 401, 429, 500, 502, 504)
        ),
    ],
)
def test_an_answer_that_says_nothing_of_the_task_is_an_error(
    status: int, body: object, error: type[ProviderError], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_result(Api.DRAW, status, raw(body))


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (400, {"status": "failed", "error": "task not found"}, NoSuchTaskError, "^task not found$"),
        (404, {}, NoSuchTaskError, "does not know this task"),
        (404, b"<html>Not Found</html>", ProviderUnavailableError, "HTTP 404"),
        (
            401,
            {"status": "failed", "error": "invalid apikey"},
            ProviderUnavailableError,
            "HTTP 401",
        ),
        (502, b"<html>Bad Gateway</html>", ProviderUnavailableError, "HTTP 502"),
    ],
)
def test_the_newer_api_says_in_its_own_way_that_there_is_no_such_task(
    status: int, body: object, error: type[ProviderError], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_result(Api.NEWER, status, raw(body))


@pytest.mark.parametrize(
    ("api", "wrap"),
    [(Api.DRAW, envelope), (Api.DRAW, lambda task: {"data": task}), (Api.NEWER, lambda task: task)],
    ids=["legacy", "without code", "newer"],
)
def test_a_result_is_the_same_report_in_its_envelope_or_bare(
    api: Api, wrap: Callable[[object], object]
) -> None:
    task = {
        "id": "x",
        "status": "succeeded",
        "progress": 100,
        "results": [{"url": URL, "width": 1024, "height": 768}],
    }
    body = raw(wrap(task))
    read_result(api, 200, body)
    expected = Report(Outcome.SUCCEEDED, "x", "succeeded", 100, (Result(URL, 1024, 768),))
    assert read_report(body) == read_report(raw(task)) == expected


def test_a_result_is_asked_for_where_the_job_was_posted() -> None:
    assert build_result(Api.DRAW, "14-a/b") == Request("/v1/draw/result", {"id": "14-a/b"})
    assert build_result(Api.NEWER, "14-a/b?&") == Request("/v1/api/result?id=14-a%2Fb%3F%26")


# Streams.


@pytest.mark.parametrize(
    ("lines", "events"),
    [
        ([b"data: {1}", b"", b"data: {2}", b"", b"data: [DONE]", b"data: {3}"], [b"{1}", b"{2}"]),
        ([b"data: {1}", b"data:{2}", b"data: "], [b"{1}", b"{2}"]),
        ([b": comment", b"event: x", b"id: 7", b"{1}"], []),
        ([], []),
    ],
)
def test_a_stream_is_its_data_lines_up_to_the_end_mark(
    lines: list[bytes], events: list[bytes]
) -> None:
    assert list(stream_events(lines)) == events


# Reports.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        *(
            (body, "not JSON")
            for body in (
                b"",
                b"{",
                b"<html>",
                b"\xff\xfe",
                b'{"id":"\xff"}',
                b'{"id":NaN}',
                b'{"id":1}x',
                b"{'id':1}",
            )
        ),
        (b'{"id":"\\ud800"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id":' * 100_000 + b"1" + b"}" * 100_000, "not JSON"),
        *((body, "no object") for body in (b"[]", b'"x"', b"1", b"null", b"true")),
        *(
            (body, "neither an id nor a status")
            for body in (
                b"{}",
                b'{"id":"","status":""}',
                b'{"id":null}',
                b'{"data":{}}',
                b'{"id":true}',
            )
        ),
        (raw({"id": "x" * 201}), "neither an id nor a status"),
        (raw({"id": 2**63}), "neither an id nor a status"),
        (raw(envelope(None)), "neither an id nor a status"),
    ],
)
def test_a_body_that_is_no_report_is_unreadable(body: bytes, said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        read_report(body)


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        *(
            (word, Outcome.RUNNING)
            for word in ("running", "processing", "queued", "pending", "", "paused", "a new word")
        ),
        *(
            (word, Outcome.SUCCEEDED)
            for word in ("succeeded", "success", "completed", "SUCCEEDED", " succeeded ")
        ),
        *(
            (word, Outcome.FAILED)
            for word in ("failed", "error", "canceled", "cancelled", "violation")
        ),
    ],
)
def test_every_status_word_means_one_outcome_and_is_kept(word: str, outcome: Outcome) -> None:
    found = report(status=word)
    assert (found.outcome, found.status) == (outcome, word.strip())


@pytest.mark.parametrize(
    ("task", "reason", "message"),
    [
        ({"failure_reason": "input_moderation", "error": "no"}, Reason.INPUT_MODERATION, "no"),
        (
            {"failure_reason": "output_moderation", "error": ""},
            Reason.OUTPUT_MODERATION,
            "output_moderation",
        ),
        ({"failure_reason": "error", "error": None}, Reason.PROVIDER_ERROR, "error"),
        ({"failure_reason": "", "error": "broke"}, Reason.PROVIDER_ERROR, "broke"),
        ({"failure_reason": "a new word"}, Reason.PROVIDER_ERROR, "a new word"),
        ({"failure_reason": ["x"], "error": {"text": "x"}}, Reason.PROVIDER_ERROR, ""),
        ({}, Reason.PROVIDER_ERROR, ""),
        ({"status": "violation", "error": "policy"}, Reason.VIOLATION, "policy"),
        (
            {"status": "VIOLATION", "failure_reason": "input_moderation"},
            Reason.VIOLATION,
            "input_moderation",
        ),
    ],
)
def test_a_failure_has_one_of_our_reasons_and_the_providers_words(
    task: dict[str, Any], reason: Reason, message: str
) -> None:
    found = report(**{"status": "failed", **task})
    assert (found.reason, found.message) == (reason, message)


@pytest.mark.parametrize("status", ["succeeded", "running"])
def test_only_a_failure_has_a_reason(status: str) -> None:
    found = report(status=status, failure_reason="error", error="left over")
    assert (found.reason, found.message) == (None, "")


@pytest.mark.parametrize(
    ("task", "results"),
    [
        (
            {"results": [{"url": URL, "width": 1024, "height": 768}], "url": URL},
            [Result(URL, 1024, 768)],
        ),
        ({"results": [{"url": URL, "content": "Here it is"}]}, [Result(URL)]),
        ({"results": [{"url": URL, "removeWatermark": True, "pid": "s_1"}]}, [Result(URL)]),
        ({"results": [{"imageUrl": URL}]}, [Result(URL)]),
        ({"results": [{"url": "", "imageUrl": URL}]}, [Result(URL)]),
        (
            {"results": [{"url": URL + "1"}, {"url": URL + "2"}]},
            [Result(URL + "1"), Result(URL + "2")],
        ),
        ({"url": URL}, [Result(URL)]),  # Veo
        ({"url": URL, "width": 1280, "height": 720, "results": None}, [Result(URL, 1280, 720)]),
        ({"url": URL, "results": []}, [Result(URL)]),
        ({"url": URL, "results": [{"url": ""}]}, [Result(URL)]),
        *(({"results": nothing}, []) for nothing in NOTHINGS),
        ({"url": "", "width": 0, "height": 0}, []),
        ({"results": [{"url": URL, "width": -1, "height": 1e300}]}, [Result(URL)]),
        ({"results": [{"url": URL, "width": "1024", "height": None}]}, [Result(URL)]),
        ({"results": [{"url": URL, "width": 1024.0, "height": 768.9}]}, [Result(URL, 1024, 768)]),
        ({"results": [{"url": "x" * 8193}]}, []),
        ({"results": [{"url": "x" * 8192}]}, [Result("x" * 8192)]),
        ({"results": [{"url": "http://a/\u0000b"}]}, [Result("http://a/b")]),
    ],
)
def test_results_are_found_in_every_form(task: dict[str, Any], results: list[Result]) -> None:
    assert list(report(status="succeeded", **task).results) == results


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (0, 0),
        (42, 42),
        (99.9, 99),
        (100, 100),
        (-5, 0),
        (101, 100),
        (10**400, 100),
        (1e300, 100),
        (None, 0),
        ("50", 0),
        ([], 0),
    ],
)
def test_progress_is_a_number_from_0_to_100(said: object, meant: int) -> None:
    assert report(status="running", progress=said).progress == meant


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5000, b"-0.0", b"1E+2"])
def test_extreme_numbers_do_no_harm(number: bytes) -> None:
    body = (
        b'{"id":"x","status":"running","progress":%b,"results":[{"url":"u","width":%b,"height":%b}]}'
        % (number, number, number)
    )
    try:
        found = read_report(body)
    except UnreadableError:
        return
    assert 0 <= found.progress <= 100


def test_what_a_body_can_make_us_keep_is_bounded() -> None:
    found = report(
        status="failed" + "x" * 10_000, error="é" * 10_000, results=[{"url": URL}] * 1000
    )
    assert (len(found.status), len(found.results)) == (2000, 32)
    assert len(report(status="failed", error="é" * 10_000).message) == 2000


def test_unknown_fields_are_accepted_and_the_last_of_a_repeated_one_counts() -> None:
    assert report(status="running", unheard_of={"a": [1]}, results=None).outcome is Outcome.RUNNING
    assert (
        read_report(b'{"id":"x","status":"failed","status":"running"}').outcome is Outcome.RUNNING
    )
