"""fal, Replicate, BFL and kie.ai: how reports are read, and that no body breaks the reader."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signing import PICTURE, TASK_ID, body_of

from receiver.errors import ProviderError, UnreadableError
from receiver.model import Api, Outcome, Provider, Reason, Report, Result
from receiver.providers.dialect import Account, Head, Task
from receiver.providers.registry import DIALECTS

OTHERS = [one for one in DIALECTS if one is not Provider.GRSAI]
ACCOUNT = Account("a-key", "https://api.example", "https://keys.example/jwks.json")


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("provider", OTHERS)
def test_a_success_brings_its_pictures_and_the_task_s_id(provider: Provider) -> None:
    found = DIALECTS[provider].read_report(body_of(provider))
    assert (found.outcome, found.provider_id, found.progress) == (Outcome.SUCCEEDED, TASK_ID, 100)
    assert [result.url for result in found.results] == [PICTURE]


REPORTS: list[tuple[Provider, Any, Outcome, Reason | None, list[str]]] = [
    # fal: the status of a request, bare results, and failures.
    (Provider.FAL, {"status": "IN_QUEUE", "queue_position": 3}, Outcome.RUNNING, None, []),
    (Provider.FAL, {"status": "IN_PROGRESS", "logs": None}, Outcome.RUNNING, None, []),
    (Provider.FAL, {"image": {"url": PICTURE}}, Outcome.SUCCEEDED, None, [PICTURE]),
    (Provider.FAL, {"video": {"url": PICTURE}, "seed": 1}, Outcome.SUCCEEDED, None, [PICTURE]),
    (Provider.FAL, {"images": [PICTURE]}, Outcome.SUCCEEDED, None, [PICTURE]),
    (
        Provider.FAL,
        {"request_id": "t", "status": "OK", "payload": {"images": []}},
        Outcome.SUCCEEDED,
        None,
        [],
    ),
    (
        Provider.FAL,
        {
            "request_id": "t",
            "status": "ERROR",
            "error": "Invalid status code: 422",
            "payload": {"detail": [{"msg": "field required", "type": "value_error.missing"}]},
        },
        Outcome.FAILED,
        Reason.PROVIDER_ERROR,
        [],
    ),
    (
        Provider.FAL,
        {"detail": [{"msg": "not allowed", "type": "content_policy_violation"}]},
        Outcome.FAILED,
        Reason.INPUT_MODERATION,
        [],
    ),
    (
        Provider.FAL,
        {"request_id": "t", "status": "OK", "payload": None, "payload_error": "not serializable"},
        Outcome.SUCCEEDED,
        None,
        [],
    ),
    # Replicate: outputs of every shape.
    (Provider.REPLICATE, {"id": "t", "status": "processing"}, Outcome.RUNNING, None, []),
    (Provider.REPLICATE, {"id": "t", "status": "a-new-word"}, Outcome.RUNNING, None, []),
    (
        Provider.REPLICATE,
        {"id": "t", "status": "succeeded", "output": PICTURE},
        Outcome.SUCCEEDED,
        None,
        [PICTURE],
    ),
    (
        Provider.REPLICATE,
        {"id": "t", "status": "succeeded", "output": {"image": PICTURE, "seed": 3}},
        Outcome.SUCCEEDED,
        None,
        [PICTURE],
    ),
    (
        Provider.REPLICATE,
        {"id": "t", "status": "succeeded", "output": None, "data_removed": True},
        Outcome.SUCCEEDED,
        None,
        [],
    ),
    (
        Provider.REPLICATE,
        {"id": "t", "status": "failed", "error": "NSFW content detected"},
        Outcome.FAILED,
        Reason.OUTPUT_MODERATION,
        [],
    ),
    (
        Provider.REPLICATE,
        {"id": "t", "status": "canceled", "error": None},
        Outcome.FAILED,
        Reason.PROVIDER_ERROR,
        [],
    ),
    # BFL.
    (Provider.BFL, {"id": "t", "status": "Pending", "progress": 0.5}, Outcome.RUNNING, None, []),
    (
        Provider.BFL,
        {"task_id": "t", "status": "SUCCESS", "result": {"sample": PICTURE}},
        Outcome.SUCCEEDED,
        None,
        [PICTURE],
    ),
    (
        Provider.BFL,
        {"id": "t", "status": "Request Moderated"},
        Outcome.FAILED,
        Reason.INPUT_MODERATION,
        [],
    ),
    (
        Provider.BFL,
        {"id": "t", "status": "Content Moderated"},
        Outcome.FAILED,
        Reason.OUTPUT_MODERATION,
        [],
    ),
    (
        Provider.BFL,
        {"id": "t", "status": "Error", "details": {"message": "oops"}},
        Outcome.FAILED,
        Reason.PROVIDER_ERROR,
        [],
    ),
    # kie.ai: both shapes of a callback.
    (
        Provider.KIE,
        {"code": 200, "data": {"taskId": "t", "state": "generating"}},
        Outcome.RUNNING,
        None,
        [],
    ),
    (
        Provider.KIE,
        {"code": 200, "msg": "success", "data": {"taskId": "t", "info": {"resultUrls": [PICTURE]}}},
        Outcome.SUCCEEDED,
        None,
        [PICTURE],
    ),
    (
        Provider.KIE,
        {"code": 200, "data": {"task_id": "t", "info": {"resultImageUrl": PICTURE}}},
        Outcome.SUCCEEDED,
        None,
        [PICTURE],
    ),
    (
        Provider.KIE,
        {"code": 501, "msg": "x", "data": {"taskId": "t", "state": "fail", "failMsg": "oops"}},
        Outcome.FAILED,
        Reason.PROVIDER_ERROR,
        [],
    ),
    (
        Provider.KIE,
        {"code": 400, "msg": "Your content was flagged", "data": {"taskId": "t"}},
        Outcome.FAILED,
        Reason.INPUT_MODERATION,
        [],
    ),
    (
        Provider.KIE,
        {"code": 200, "data": {"taskId": "t", "state": "success", "resultJson": "{"}},
        Outcome.SUCCEEDED,
        None,
        [],
    ),
]


@pytest.mark.parametrize(("provider", "body", "outcome", "reason", "urls"), REPORTS)
def test_reports_are_read_into_one_shape(
    provider: Provider, body: Any, outcome: Outcome, reason: Reason | None, urls: list[str]
) -> None:
    found = DIALECTS[provider].read_report(raw(body))
    assert (found.outcome, found.reason) == (outcome, reason)
    assert [result.url for result in found.results] == urls
    assert (found.message == "") is (reason is None)


INSIDE = "data:image/png;base64,QUJD"


@pytest.mark.parametrize("provider", OTHERS)
def test_a_picture_inside_a_report_is_named_by_its_place_and_found_again(
    provider: Provider,
) -> None:
    body = body_of(provider, urls=(INSIDE,))
    dialect = DIALECTS[provider]
    assert [result.url for result in dialect.read_report(body).results] == ["delivery:0"]
    assert dialect.read_picture(body, "delivery:0") == "QUJD"
    for wrong in ("delivery:1", "delivery:", "delivery:x", "delivery:²"):
        with pytest.raises(UnreadableError):
            dialect.read_picture(body, wrong)
    with pytest.raises(UnreadableError):
        dialect.read_picture(body_of(provider), "delivery:0")  # it has an address


SPELLINGS: list[tuple[Any, str | None]] = [
    (INSIDE, "QUJD"),
    ("  DATA:image/png;Base64,QUJD\n", "QUJD"),
    ("data:;base64,QUI", "QUI="),  # without its padding
    ("data:;base64,-_8=", "+/8="),  # base64url
    ("data:image/svg+xml,%3Csvg%2F%3E", "PHN2Zy8+"),
    ({"url": INSIDE, "width": 3}, "QUJD"),
    ({"url": None, "file_data": "QUJD"}, "QUJD"),  # fal's files have it where sync_mode is on
    ({"b64_json": "QUJD"}, "QUJD"),
    ({"base64": INSIDE}, "QUJD"),
    ([[INSIDE]], "QUJD"),
    ("data:QUJD", None),
    ({"b64_json": 7}, None),
    ({"base64": ""}, None),
]


@pytest.mark.parametrize(("output", "text"), SPELLINGS)
def test_a_picture_inside_a_report_may_be_spelled_in_many_ways(
    output: Any, text: str | None
) -> None:
    dialect = DIALECTS[Provider.REPLICATE]
    body = raw({"id": "t", "status": "succeeded", "output": [PICTURE, output]})
    found = [result.url for result in dialect.read_report(body).results]
    assert found == [PICTURE, *([] if text is None else ["delivery:1"])]
    if text:
        assert dialect.read_picture(body, "delivery:1") == text


def test_dimensions_and_times_are_taken_where_they_are_told() -> None:
    fal = DIALECTS[Provider.FAL].read_report(body_of(Provider.FAL))
    assert fal.results == (Result(PICTURE, 64, 48),)
    replicate = DIALECTS[Provider.REPLICATE].read_report(body_of(Provider.REPLICATE))
    assert replicate.made_at == 1_799_999_940.0
    kie = {"code": 200, "data": {"taskId": "t", "state": "success", "completeTime": 1755599644000}}
    assert DIALECTS[Provider.KIE].read_report(raw(kie)).made_at == 1755599644.0


@pytest.mark.parametrize("provider", OTHERS)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'"x"', b"\xff", b"{" * 100_000])
def test_a_body_that_is_no_report_is_unreadable(provider: Provider, body: bytes) -> None:
    with pytest.raises(UnreadableError):
        DIALECTS[provider].read_report(body)


def test_what_no_database_can_store_is_left_out() -> None:
    body = {"id": "t", "status": "failed", "error": "a\0b" + "x" * 5000}
    found = DIALECTS[Provider.REPLICATE].read_report(raw(body))
    assert "\0" not in found.message
    assert len(found.message) <= 2000
    many = {"id": "t", "status": "succeeded", "output": [PICTURE] * 300}
    found = DIALECTS[Provider.REPLICATE].read_report(raw(many))
    assert (len(found.results), found.left_out) == (256, 44)
    odd = {"id": "t", "status": "succeeded", "output": ["file:///etc/passwd", "data:x", 7, None]}
    assert DIALECTS[Provider.REPLICATE].read_report(raw(odd)).results == ()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 400])
def test_a_number_that_is_none_is_left_out(number: str) -> None:
    bfl = '{"id": "t", "status": "Pending", "progress": %s}' % number  # noqa: UP031 - braces in it
    assert DIALECTS[Provider.BFL].read_report(bfl.encode()).progress == 0
    kie = '{"data": {"taskId": "t", "state": "success", "completeTime": %s}}' % number  # noqa: UP031 - as above
    assert DIALECTS[Provider.KIE].read_report(kie.encode()).made_at is None


OTHER = "https://files.example/1.png"
PLACES: list[tuple[Provider, Any, list[str]]] = [
    # fal: files by any name of a field, beside values that are not results.
    (Provider.FAL, {"output": {"url": PICTURE}, "timings": {"inference": 1.5}}, [PICTURE]),
    (Provider.FAL, {"outputs": [{"url": PICTURE}, {"url": OTHER}], "seed": 7}, [PICTURE, OTHER]),
    (Provider.FAL, {"result": [PICTURE], "response_url": OTHER}, [PICTURE]),
    (Provider.FAL, {"image": {"url": PICTURE}, "mask_image": {"url": OTHER}}, [PICTURE]),
    (Provider.FAL, {"timings": {}, "has_nsfw_concepts": [False], "prompt": PICTURE}, []),
    # The same results in several places are archived once.
    (
        Provider.KIE,
        {
            "resultJson": json.dumps({"resultUrls": [PICTURE, OTHER]}),
            "info": {"resultUrls": [PICTURE, OTHER], "resultImageUrl": PICTURE},
        },
        [PICTURE, OTHER],
    ),
    (Provider.KIE, {"resultJson": "{}", "response": {"resultUrls": [OTHER]}}, [OTHER]),
    (Provider.KIE, {"resultJson": {"resultUrls": []}, "info": {"result_urls": [OTHER]}}, [OTHER]),
    (Provider.BFL, {"sample": PICTURE, "samples": [PICTURE, OTHER]}, [PICTURE, OTHER]),
    (Provider.BFL, {"sample": PICTURE, "samples": None}, [PICTURE]),
]


@pytest.mark.parametrize(("provider", "result", "urls"), PLACES)
def test_results_are_found_wherever_they_stand_and_once(
    provider: Provider, result: Any, urls: list[str]
) -> None:
    body = {
        Provider.FAL: {"request_id": "t", "status": "OK", "payload": result},
        Provider.KIE: {"code": 200, "data": {"taskId": "t", "state": "success", **result}},
        Provider.BFL: {"id": "t", "status": "Ready", "result": result},
    }[provider]
    found = DIALECTS[provider].read_report(raw(body))
    assert [one.url for one in found.results] == urls


def test_a_model_of_fal_may_have_a_field_called_status() -> None:
    bare = {"images": [{"url": PICTURE}], "status": "done"}
    assert DIALECTS[Provider.FAL].read_report(raw(bare)).outcome is Outcome.SUCCEEDED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("id", "request_id", "taskId", "status", "state", "code", "data", "payload", "progress")
NAMED = st.dictionaries(
    st.sampled_from((*FIELDS, "images", "output", "result", "detail", "error", "resultJson")), JSON
)


@pytest.mark.parametrize("provider", OTHERS)
@given(
    body=NAMED | NAMED.map(lambda inner: {"data": inner, "payload": inner}),
    status=st.integers(200, 599),
)
def test_no_answer_raises_anything_but_our_own_errors(
    provider: Provider, body: Any, status: int
) -> None:
    dialect, data = DIALECTS[provider], raw(body)
    asked = Task(provider, "t/1", ACCOUNT.base_url, Api.QUEUE, "a/b")
    with suppress(UnreadableError):
        assert isinstance(dialect.read_report(data), Report)
    for read in (
        lambda: dialect.read_submit(Head(status, "https://[no-address"), data),
        lambda: dialect.read_poll(ACCOUNT, asked, Head(status), data),
    ):
        with suppress(ProviderError):
            read()
