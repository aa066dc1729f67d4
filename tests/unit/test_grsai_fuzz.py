"""GRSAI's dialect: no body whatever makes more trouble than the documented errors."""

import json

from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import (
    AnswerLostError,
    NoSuchTaskError,
    NotSentError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Api, Outcome
from receiver.providers.dialect import Head
from receiver.providers.grsai.answers import read_result, read_submit
from receiver.providers.grsai.reports import read_report
from receiver.providers.grsai.streams import events

URL = "https://file1.aitohumanize.com/file/0123456789abcdef0123456789abcdef.png"
SUBMIT_ERRORS = (RefusedError, NotSentError, AnswerLostError)
RESULT_ERRORS = (NoSuchTaskError, ProviderUnavailableError)
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "id",
    "taskId",
    "status",
    "progress",
    "results",
    "url",
    "imageUrl",
    "width",
    "height",
    "failure_reason",
    "error",
    "code",
    "msg",
    "data",
)
TASK = st.dictionaries(
    st.sampled_from(FIELDS), NESTED | st.sampled_from(["succeeded", "failed", 0, -1, -22, URL])
)
ANYTHING = (
    NESTED
    | TASK
    | st.fixed_dictionaries(
        {"code": st.sampled_from([0, -1, -22]), "msg": NESTED, "data": TASK | NESTED}
    )
)
BODIES = (
    st.binary()
    | st.text(st.characters(codec="utf-8")).map(str.encode)
    | ANYTHING.map(lambda value: json.dumps(value, ensure_ascii=True).encode())
)


@given(BODIES)
def test_any_body_is_a_bounded_report_or_unreadable(body: bytes) -> None:
    try:
        found = read_report(body)
    except UnreadableError:
        return
    assert found.provider_id is None or 0 < len(found.provider_id) <= 200
    assert 0 <= found.progress <= 100
    assert (found.reason is None) is (found.outcome is not Outcome.FAILED)
    assert all(0 < len(result.url) <= 8192 for result in found.results)
    assert "\0" not in f"{found}"


@given(st.integers(100, 599), BODIES)
def test_any_answer_to_a_submit_is_an_id_or_a_documented_error(status: int, body: bytes) -> None:
    try:
        assert 0 < len(read_submit(Head(status), body)) <= 200
    except SUBMIT_ERRORS:
        return
    assert not 300 <= status < 400


@given(st.sampled_from([Api.DRAW, Api.NEWER]), st.integers(100, 599), BODIES)
def test_any_answer_about_a_result_is_a_task_or_a_documented_error(
    api: Api, status: int, body: bytes
) -> None:
    try:
        read_result(api, Head(status), body, "x")
    except RESULT_ERRORS:
        return
    assert not 300 <= status < 400


@given(st.lists(BODIES | st.sampled_from([b"", b": ping", b"data: {", b"}", b"data: [DONE]"])))
def test_any_stream_ends_and_loses_no_object(lines: list[bytes]) -> None:
    found = b"\n".join(events(lines))
    assert len(found) <= sum(len(line) + 1 for line in lines)
