"""Answers to our requests: no accepted job counts as refused, and no id is lost."""

import json

import pytest
from grsai_answers import URL, envelope, raw

from receiver.errors import (
    AnswerLostError,
    NotSentError,
    ProviderError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Api
from receiver.providers.dialect import Head
from receiver.providers.grsai.answers import (
    check_unnamed_event,
    read_credits,
    read_result,
    read_submit,
)

# Submits.


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        # GRSAI's answers, from the protocol notes.
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
        # Anything that is not an answer: the job may have been accepted and billed.
        (500, envelope(None, -1, "insufficient credits"), AnswerLostError, "HTTP 500"),
        (502, b"<html>502 Bad Gateway</html>", AnswerLostError, "HTTP 502"),
        (504, b"", AnswerLostError, "HTTP 504"),
        (204, b"", AnswerLostError, "HTTP 204"),
        (200, b"", AnswerLostError, "no answer"),
        (200, b"<html>", AnswerLostError, "no answer"),
        (200, b"[]", AnswerLostError, "no answer"),
        (200, b"\xff", AnswerLostError, "no answer"),
        *(
            (200, body, AnswerLostError, "no id")
            for body in (
                {},
                {"request": "x"},
                envelope("a sentence is no id"),
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
        read_submit(Head(status), raw(body))


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
        *((envelope({"id": "x"}, code), "x") for code in ("0", 200, "200", None, "success")),
        (envelope({"task_id": "x"}), "x"),
        (envelope([{"id": "x"}]), "x"),
        (envelope({"task": {"id": "x"}}), "x"),
        (envelope(None) | {"taskId": "x"}, "x"),
        ([envelope({"id": "x"})], "x"),
        (b"\xef\xbb\xbf" + raw(envelope({"id": "x"})), "x"),
        (b"data: " + raw(envelope({"id": "x"})) + b"\n\ndata: [DONE]\n", "x"),
        (b"\r\n " + raw(envelope({"id": "x"})) + b"\0", "x"),
        (json.dumps(json.dumps(envelope({"id": "x"}))).encode(), "x"),
        (b'{"code":0,"msg":"\xff","data":{"id":"x"},"cost":NaN}', "x"),
        ({"id": "x", "status": "succeeded", "results": [{"url": URL}]}, "x"),
        ({"id": "x", "status": "violation", "error": "no"}, "x"),
        (envelope({"id": "x" * 200}), "x" * 200),
    ],
)
def test_the_id_is_found_in_every_form_of_the_answer(body: object, task: str) -> None:
    assert read_submit(Head(200), raw(body)) == task


@pytest.mark.parametrize("status", [200, 201, 202, 206])
def test_every_success_of_http_may_have_the_id(status: int) -> None:
    assert read_submit(Head(status), raw(envelope({"id": "x"}))) == "x"


def test_an_id_in_an_error_page_that_is_no_error_is_kept() -> None:
    assert read_submit(Head(500), raw(envelope({"id": "x"}))) == "x"


@pytest.mark.parametrize(
    ("body", "task"),
    [
        (b'{"code":0,"data":{"id":"x"', "x"),
        (b'{"code":0,"data":{"id":"x","a":"', "x"),
        (b'\xef\xbb\xbf{"code":0,"data":{"id":"x"', "x"),
        (b'data: {"code":0,"data":{"id":"x"', "x"),
        (b'{"data":{"id":"x"},"msg":"\xff', "x"),
        (raw(envelope({"id": "x"})), "x"),
        (b'{"code":0,"data":{"id":12', None),
        (b'{"code":0,"data":{"id":"x', None),
        (b'{"code":0,"da', None),
        (b"", None),
    ],
)
def test_an_answer_that_was_cut_short_may_have_the_id(body: bytes, task: str | None) -> None:
    if task is None:
        with pytest.raises(AnswerLostError):
            read_submit(Head(200), body)
    else:
        assert read_submit(Head(200), body) == task


@pytest.mark.parametrize(
    "body",
    [
        # A code that we do not know, without a word about an error.
        *(envelope({"id": "x-1"}, code) for code in (1, "1", True, "0000", 20000)),
        {"code": 1, "data": {"id": "x-1"}},
        # A field for errors that has something else in it.
        {**envelope({"id": "x-1"}), "error": "0"},
        {**envelope({"id": "x-1"}), "error": "no error"},
        # The id inside a text, deeper, in other fields, or with capitals.
        envelope('{"id":"x-1"}'),
        envelope('{"id": "x-1"}'),
        envelope('"x-1"'),
        envelope([{"id": "x-1"}, {"id": "x-2"}]),
        envelope({"data": {"data": {"data": {"id": "x-1"}}}}),
        envelope({"ID": "x-1"}),
        {"code": 0, "Data": {"Task_ID": "x-1"}},
        {"code": 0, "payload": {"id": "x-1"}},
        b'"x-1"',
        # Other text around the answer.
        b": ping\n\n" + raw({"id": "x-1"}),
        b"data: \xef\xbb\xbf" + raw({"id": "x-1"}),
        b"Warning: notice in line 3\n" + raw(envelope({"id": "x-1"})),
        b"callback(" + raw(envelope({"id": "x-1"})) + b")",
    ],
)
def test_the_id_is_found_in_answers_of_unknown_shapes(body: object) -> None:
    assert read_submit(Head(200), raw(body)) == "x-1"


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, {"code": -1, "data": "InsufficientCredits"}, None),
        (200, {"success": False, "data": {"id": "x"}}, "x"),
        (401, {"id": "request-1", "message": "invalid apikey"}, "request-1"),
    ],
)
def test_an_error_beside_something_like_an_id_is_a_refusal(
    status: int, body: object, found: str | None
) -> None:
    with pytest.raises(RefusedError) as refused:
        read_submit(Head(status), raw(body))
    assert refused.value.provider_id == found


@pytest.mark.parametrize("word", ["error", "ok", "success", "running", "0"])
def test_a_status_in_place_of_the_id_is_no_id(word: str) -> None:
    with pytest.raises(AnswerLostError, match="no id"):
        read_submit(Head(200), raw(envelope(word)))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_accepted_nothing_and_names_its_target(status: int) -> None:
    head = Head(status, "https://user:pass@grsaiapi.com/v1/draw/completions?key=1")
    with pytest.raises(RefusedError) as refused:
        read_submit(head, raw(envelope({"id": "x"})))
    assert str(refused.value) == (
        "the provider redirects to https://grsaiapi.com/v1/draw/completions: "
        "set GRSAI_BASE_URL to https://grsaiapi.com"
    )
    with pytest.raises(ProviderUnavailableError, match=r"redirects to https://grsaiapi\.com"):
        read_result(Api.DRAW, head, b"", "x")
    with pytest.raises(UnreadableError, match=r"redirects to https://grsaiapi\.com"):
        read_credits(head, b"")
    with pytest.raises(RefusedError, match=r"redirects to /other$"):
        read_submit(Head(status, "/other"), b"")
    with pytest.raises(RefusedError, match=r"redirects to nowhere$"):
        read_submit(Head(status), b"")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, {"code": -1, "message": "no credits"}, "no credits"),
        (200, {"error": {"message": "no such model"}}, "no such model"),
        (400, {"error": {"message": "no such model"}}, "no such model"),
        (400, {"detail": "bad"}, "bad"),
        (200, {"success": False, "data": None, "msg": "no"}, "no"),
        (200, {"code": 0, "error": "no"}, "no"),
    ],
)
def test_a_refusal_keeps_the_providers_words(status: int, body: object, said: str) -> None:
    with pytest.raises(RefusedError, match=rf"^{said}$"):
        read_submit(Head(status), raw(body))


def test_a_refusal_with_an_id_keeps_the_id() -> None:
    with pytest.raises(RefusedError, match=r"^later$") as refused:
        read_submit(Head(200), raw(envelope({"id": "x"}, -1, "later")))
    assert refused.value.provider_id == "x"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"code": -1, "msg": "insufficient credits"}, None),
        ({"status": "failed", "error": "insufficient credits"}, None),
        ({"error": {"message": "insufficient credits"}}, None),
        ({"status": "violation", "error": "no foxes"}, False),
        ({"status": "running"}, False),
        (b"<html>", False),
        ({"id": "x", "status": "failed", "error": "broke"}, True),
        ({"id": "x", "status": "running"}, True),
        (envelope({"id": "x"}), True),
        (envelope("x"), True),
    ],
)
def test_an_error_before_an_event_names_the_task_is_a_refusal(
    body: object, *, named: bool | None
) -> None:
    if named is None:
        with pytest.raises(RefusedError, match="insufficient credits"):
            check_unnamed_event(raw(body))
    else:
        assert check_unnamed_event(raw(body)) is named
