"""Answers about tasks and credits: only what is about our task changes its job."""

from collections.abc import Callable

import pytest
from grsai_answers import URL, envelope, raw

from receiver.errors import (
    NoSuchTaskError,
    ProviderError,
    ProviderUnavailableError,
    UnreadableError,
)
from receiver.model import Api, Outcome, Report, Result
from receiver.providers.dialect import Head
from receiver.providers.grsai.answers import (
    read_credits,
    read_result,
)
from receiver.providers.grsai.reports import read_report
from receiver.providers.grsai.request import GrsaiCall, build_result


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
    assert build_result(Api.DRAW, "14-a/b") == GrsaiCall("/v1/draw/result", {"id": "14-a/b"})
    assert build_result(Api.NEWER, "14-a/b?&") == GrsaiCall("/v1/api/result?id=14-a%2Fb%3F%26")


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
