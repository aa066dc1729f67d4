"""OpenAI's protocol: the request, the meaning of a response, and ``delivery:<index>``."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.archive.base64_images import BASE64_CHUNK, decode_base64_image
from receiver.errors import (
    AnswerLostError,
    ConfigurationError,
    NotSentError,
    NotThePictureError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Api, Mode, Outcome, Provider, Reason, Report, Submission
from receiver.providers.openai.protocol import (
    build_arguments,
    check_answer,
    max_response_size,
    read_picture,
    read_report,
)

MIB = 1024 * 1024


def submission(**params: object) -> Submission:
    return Submission("a fox", "gpt-image-1.5", params, Mode.SYNC, Provider.OPENAI, Api.IMAGES)


def error(code: object = None, message: object = "no", **more: object) -> bytes:
    return json.dumps(
        {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": code,
                **more,
            }
        }
    ).encode()


def answer(*items: Any) -> bytes:
    return json.dumps({"created": 1, "data": list(items)}).encode()


# What is asked.


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        ({}, {}),
        ({"n": 3}, {"n": 3}),
        ({"variants": 3}, {"n": 3}),
        ({"variants": 3, "n": 2}, {"n": 2}),
        (
            {"size": "1024x1024", "quality": "high", "style": "vivid"},
            {"size": "1024x1024", "quality": "high", "style": "vivid"},
        ),
        (
            {"of_tomorrow": {"a": 1}, "timeout": 1, "extra_headers": {}},
            {"of_tomorrow": {"a": 1}, "timeout": 1, "extra_headers": {}},
        ),
        ({"model": "another", "prompt": "another"}, {}),
        ({"urls": [], "stream": False}, {"urls": [], "stream": False}),
    ],
)
def test_params_pass_through_whatever_their_names(
    params: dict[str, object], sent: dict[str, object]
) -> None:
    assert build_arguments(submission(**params)) == {
        "model": "gpt-image-1.5",
        "prompt": "a fox",
        "extra_body": sent,
    }


def test_what_this_api_does_not_do_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_arguments(submission(urls=["https://a/b.png"], stream=True))
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == [
        "--image",
        "--param stream",
    ]


@pytest.mark.parametrize(
    ("asked", "pictures"),
    [
        ({}, 1),
        ({"n": 1}, 1),
        ({"n": 3}, 3),
        ({"n": "3"}, 1),
        ({"n": 0}, 1),
        ({"n": -5}, 1),
        ({"n": None}, 1),
    ],
)
def test_an_answer_has_room_for_as_many_pictures_as_were_asked_for(
    asked: dict[str, object], pictures: int
) -> None:
    room = max_response_size(build_arguments(submission(**asked)), 3 * MIB)
    assert pictures * 4 * MIB < room < pictures * 4 * MIB + 100_000


def test_an_answer_is_never_longer_than_a_database_can_hold() -> None:
    assert max_response_size(build_arguments(submission(n=10**9)), 2**40) == 256 * MIB


# What an answer means.


@pytest.mark.parametrize(
    ("status", "body", "raised", "said"),
    [
        (400, error("invalid_value", "Invalid size"), RefusedError, "^Invalid size$"),
        (
            400,
            error("billing_hard_limit_reached", "Billing hard limit"),
            RefusedError,
            "Billing hard limit",
        ),
        (400, error(7, "a number for a code"), RefusedError, "a number"),
        (400, error(None, None), RefusedError, "HTTP 400"),
        (400, b'{"error": "a bare text"}', RefusedError, "HTTP 400"),
        (401, error("invalid_api_key", "Incorrect API key"), RefusedError, "Incorrect API key"),
        (403, error(None, "Your organization must be verified"), RefusedError, "must be verified"),
        (404, error("model_not_found", "no such model"), RefusedError, "no such model"),
        (404, b"<html>", RefusedError, "HTTP 404"),
        (409, error(), RefusedError, "no"),
        (
            429,
            error("rate_limit_exceeded", "Rate limit reached"),
            NotSentError,
            "Rate limit reached",
        ),
        (429, b"slow down", NotSentError, "HTTP 429"),
        (
            429,
            error("insufficient_quota", "exceeded your quota"),
            RefusedError,
            "exceeded your quota",
        ),
        (
            429,
            error(None, "exceeded your quota", type="insufficient_quota"),
            RefusedError,
            "exceeded your quota",
        ),
        (408, error(None, "timed out"), AnswerLostError, "HTTP 408: timed out"),
        (
            500,
            error("server_error", "The server had an error"),
            AnswerLostError,
            "HTTP 500: The server",
        ),
        (500, error("moderation_blocked"), AnswerLostError, "HTTP 500"),
        (502, b"<html>Bad gateway</html>", AnswerLostError, "HTTP 502$"),
        (307, b"", AnswerLostError, "HTTP 307"),
        (204, b"", AnswerLostError, "HTTP 204"),
    ],
)
def test_every_answer_that_is_no_report_says_whether_it_was_paid(
    status: int, body: bytes, raised: type[Exception], said: str
) -> None:
    with pytest.raises(raised, match=said):
        check_answer(status, body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (error("moderation_blocked", "the safety system"), Reason.INPUT_MODERATION),
        (error("content_policy_violation"), Reason.INPUT_MODERATION),
        (error("moderation_blocked", moderation_details=None), Reason.INPUT_MODERATION),
        (
            error("moderation_blocked", moderation_details={"moderation_stage": "input"}),
            Reason.INPUT_MODERATION,
        ),
        (
            error(
                "moderation_blocked",
                moderation_details={"moderation_stage": "output", "categories": []},
            ),
            Reason.OUTPUT_MODERATION,
        ),
        (error("server_error"), Reason.PROVIDER_ERROR),
        (answer(), Reason.NO_RESULT),
        (
            answer({}, {"url": ""}, {"b64_json": None}, {"url": "https://a/" + "b" * 9000}),
            Reason.NO_RESULT,
        ),
    ],
)
def test_a_report_without_a_picture_ends_the_job_with_its_reason(
    body: bytes, reason: Reason
) -> None:
    report = read_report(body)
    assert (report.outcome, report.reason, report.provider_id, report.results) == (
        Outcome.FAILED,
        reason,
        None,
        (),
    )
    assert report.message


def test_what_was_moderated_is_a_report_and_no_refusal() -> None:
    check_answer(400, error("moderation_blocked"))


def test_pictures_and_urls_become_results_by_their_places() -> None:
    body = answer(
        {"b64_json": "QQ=="},
        {"revised_prompt": "?"},
        {"url": " https://a/2.png "},
        {"url": "https://a/3.png", "b64_json": "QQ=="},
    )
    assert [result.url for result in read_report(body).results] == [
        "delivery:0",
        "https://a/2.png",
        "delivery:3",
    ]


def test_a_body_cannot_make_more_than_so_many_assets() -> None:
    assert len(read_report(answer(*[{"url": "https://a/0.png"}] * 1000)).results) == 32


def test_words_are_cut_and_freed_of_what_a_database_cannot_hold() -> None:
    assert len(read_report(error("server_error", "a" * 5000)).message) == 2000
    assert read_report(error("server_error", " a\x00b ")).message == "ab"
    assert read_report(answer({"url": "https://a/\x00b"})).results[0].url == "https://a/b"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"data": 1}',
        b'{"data": [1]}',
        b'{"data": [{"url": 1}]}',
        b"[" * 9000,
        b"\xff",
    ],
)
def test_what_is_no_answer_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableError, match=r"^the answer "):
        read_report(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ITEMS = st.lists(st.fixed_dictionaries({}, optional={"url": JSON, "b64_json": JSON}) | JSON)


@given(
    st.fixed_dictionaries({}, optional={"data": ITEMS | JSON, "error": JSON}).map(
        lambda value: json.dumps(value).encode()
    )
    | st.binary()
)
def test_any_body_is_a_report_or_unreadable(body: bytes) -> None:
    try:
        report = read_report(body)
    except UnreadableError:
        return
    assert isinstance(report, Report)
    assert (report.outcome is Outcome.SUCCEEDED) == bool(report.results)


# Which picture it is.


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        2,
        3,
        BASE64_CHUNK // 4 * 3 - 1,
        BASE64_CHUNK // 4 * 3,
        BASE64_CHUNK // 4 * 3 + 1,
        MIB,
    ],
)
def test_a_picture_is_unpacked_byte_for_byte(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    body = answer(
        {"url": "https://a"}, {"b64_json": base64.b64encode(content[: size + 1]).decode()}
    )
    fetched = decode_base64_image(read_picture(body, "delivery:1"), "delivery:1", tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == content[: size + 1]
    assert (fetched.size, fetched.sha256) == (
        size + 1,
        hashlib.sha256(content[: size + 1]).hexdigest(),
    )


@pytest.mark.parametrize(
    "text", ["rubbish!", "QQ", "QQ==QQ==", "Q Q=", "QQ==\n", "ключ", "data:image/png;base64,QQ=="]
)
def test_what_is_no_base64_is_not_the_picture(text: str, tmp_path: Path) -> None:
    with pytest.raises(NotThePictureError, match="is not base64"):
        decode_base64_image(text, "delivery:0", tmp_path / "it")


@pytest.mark.parametrize(
    "url",
    [
        "delivery:",
        "delivery:1",
        "delivery:2",
        "delivery:-1",
        "delivery:x",
        "delivery:²",
        "delivery:0x0",
    ],
)
def test_an_index_without_a_picture_is_an_error(url: str) -> None:
    with pytest.raises(UnreadableError, match="the answer brought no picture"):
        read_picture(answer({"b64_json": "QQ=="}, {"url": "https://a"}), url)
