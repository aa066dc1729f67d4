"""Answers to our requests: no accepted job counts as refused, and no id is lost."""

import json
from collections.abc import Callable

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
from receiver.model import Api, Outcome, Report, Result
from receiver.providers.grsai.answers import (
    Head,
    check_unnamed_event,
    read_credits,
    read_result,
    read_submit,
)
from receiver.providers.grsai.reports import read_report
from receiver.providers.grsai.request import Request, build_result

URL = "https://file1.aitohumanize.com/file/0123456789abcdef0123456789abcdef.png"


def raw(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()


def envelope(data: object, code: object = 0, msg: str = "success") -> dict[str, object]:
    return {"code": code, "msg": msg, "data": data}


# Submits.


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
        (raw(envelope({"id": "x"})), "x"),
        (b'{"code":0,"data":{"id":"x', None),
        (b'{"code":0,"da', None),
        (b"", None),
    ],
)
def test_an_answer_that_was_cut_short_may_have_the_id(body: bytes, task: str | None) -> None:
    if task is None:
        with pytest.raises(AnswerLostError):
            read_submit(Head(200), body, cut_short=True)
    else:
        assert read_submit(Head(200), body, cut_short=True) == task


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


# Results.


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (200, envelope(None, -22, "task not found"), NoSuchTaskError, "^task not found$"),
        (200, {"code": -22}, NoSuchTaskError, "does not know this task"),
        (200, envelope(None, -1, "something else"), ProviderUnavailableError, "^something else$"),
        (200, envelope(None, 7, ""), ProviderUnavailableError, "code 7"),
        (200, envelope("text"), ProviderUnavailableError, "code 0"),
        (200, envelope(None), ProviderUnavailableError, "code 0"),
        (200, {}, ProviderUnavailableError, "without a task"),
        (200, envelope(None, "-22", "task not found"), NoSuchTaskError, "^task not found$"),
        *(
            (code, b"<html>Bad Gateway</html>", ProviderUnavailableError, f"HTTP {code}")
            for code in (400, 401, 429, 500, 502, 504)
        ),
    ],
)
def test_an_answer_that_says_nothing_of_the_task_is_an_error(
    status: int, body: object, error: type[ProviderError], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_result(Api.DRAW, Head(status), raw(body), "x")


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
        read_result(Api.NEWER, Head(status), raw(body), "x")


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
    read_result(api, Head(200), body, "x")
    expected = Report(Outcome.SUCCEEDED, "x", "succeeded", 100, (Result(URL, 1024, 768),))
    assert read_report(body) == read_report(raw(task)) == expected


def test_a_result_is_asked_for_where_the_job_was_posted() -> None:
    assert build_result(Api.DRAW, "14-a/b") == Request("/v1/draw/result", {"id": "14-a/b"})
    assert build_result(Api.NEWER, "14-a/b?&") == Request("/v1/api/result?id=14-a%2Fb%3F%26")


@pytest.mark.parametrize("status", [200, 400, 404, 500])
@pytest.mark.parametrize("api", [Api.DRAW, Api.NEWER])
@pytest.mark.parametrize(
    "task",
    [
        {"id": "x", "status": "violation", "error": "no"},
        {"id": "x", "status": "failed", "error": "broke"},
        {"id": "x", "status": "succeeded", "results": [URL]},
        {"status": "violation", "error": "no"},
        envelope({"id": "x", "status": "failed", "failureReason": "error"}, -1, "broke"),
    ],
)
def test_the_end_of_our_task_counts_whatever_the_status(
    api: Api, status: int, task: dict[str, object]
) -> None:
    read_result(api, Head(status), raw(task), "x")


@pytest.mark.parametrize(
    "task",
    [
        {"id": "y", "status": "failed", "error": "broke"},
        {"status": "failed", "error": "task not found"},
    ],
)
def test_an_error_about_another_task_or_none_does_not_end_ours(task: dict[str, object]) -> None:
    with pytest.raises(NoSuchTaskError):
        read_result(Api.NEWER, Head(400), raw(task), "x")
    with pytest.raises(ProviderUnavailableError):
        read_result(Api.DRAW, Head(500), raw(task), "x")


def test_an_error_about_our_running_task_does_not_mean_that_it_is_gone() -> None:
    for api in (Api.DRAW, Api.NEWER):
        with pytest.raises(ProviderUnavailableError):
            read_result(api, Head(400), raw({"id": "x", "status": "running"}), "x")


@pytest.mark.parametrize("said", ["task not found", "Task does not exist", "任务不存在"])
def test_a_failure_without_an_id_that_knows_no_such_task_does_not_end_ours(said: str) -> None:
    with pytest.raises(NoSuchTaskError, match=said):
        read_result(Api.NEWER, Head(200), raw({"status": "failed", "error": said}), "x")
    read_result(Api.NEWER, Head(200), raw({"id": "x", "status": "failed", "error": said}), "x")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id":'])
def test_a_success_that_cannot_be_read_is_passed_on_to_be_stored(body: bytes) -> None:
    read_result(Api.DRAW, Head(200), body, "x")


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (envelope({"credits": 12}), 12),
        (envelope({"credits": 1.5}, "0"), 1.5),
        ({"credits": 7}, 7),
        (b"\xef\xbb\xbf" + raw(envelope({"credits": 12}, 200)), 12),
    ],
)
def test_the_credits_left_are_read(body: object, left: float) -> None:
    assert read_credits(Head(200), raw(body)) == left


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, envelope(None, -1, "invalid apikey"), "^invalid apikey$"),
        (200, envelope({"credits": "12"}), "without credits"),
        (200, envelope({"credits": True}), "without credits"),
        (500, envelope({"credits": 12}), "HTTP 500"),
        (200, b"<html>", "not JSON"),
    ],
)
def test_an_answer_without_credits_says_why(status: int, body: object, said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        read_credits(Head(status), raw(body))
