"""GRSAI's reports: every known spelling is read, and every failure keeps its reason."""

import json
from typing import Any

import pytest

from receiver.errors import UnreadableError
from receiver.model import Outcome, Reason, Report, Result
from receiver.providers.grsai.reports import MAX_RESULTS, read_picture, read_report

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
                b"{'id':1}",
            )
        ),
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
                b'{"id":"\xff"}',
                b'{"id":NaN}',
                b'{"id":"\\ud800"}',
            )
        ),
        *(
            (body, "damaged where it matters")
            for body in (
                b'{"id":"\xff","status":"succeeded"}',
                b'{"id":"\\ud800","status":"failed"}',
                b'{"id":"x","progress":NaN}',
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
            for word in (
                *("running", "processing", "queued", "pending", "submitted", "In Progress"),
                *("", "paused", "a new word"),
            )
        ),
        *(
            (word, Outcome.SUCCEEDED)
            for word in (
                *("succeeded", "success", "succeed", "completed", "done", "finished"),
                *("SUCCEEDED", " succeeded ", "Done"),
            )
        ),
        *(
            (word, Outcome.FAILED)
            for word in (
                *("failed", "failure", "fail", "error", "timeout", "canceled", "cancelled"),
                *("violation", "FAILED"),
            )
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
        ({"failure_reason": ["x"], "error": {"text": "y"}}, Reason.PROVIDER_ERROR, "x"),
        ({}, Reason.PROVIDER_ERROR, ""),
        ({"status": "violation", "error": "policy"}, Reason.VIOLATION, "policy"),
        (
            {"status": "VIOLATION", "failure_reason": "input_moderation"},
            Reason.VIOLATION,
            "input_moderation",
        ),
        ({"failureReason": "output_moderation"}, Reason.OUTPUT_MODERATION, "output_moderation"),
        ({"failure_reason": "Input-Moderation"}, Reason.INPUT_MODERATION, "Input-Moderation"),
        ({"error": {"message": "it broke"}}, Reason.PROVIDER_ERROR, "it broke"),
        (
            {"error": {"code": "input_moderation", "message": "no foxes"}},
            Reason.INPUT_MODERATION,
            "no foxes",
        ),
        ({"error": "output_moderation"}, Reason.OUTPUT_MODERATION, "output_moderation"),
        ({"failure_reason": "error", "msg": "try again"}, Reason.PROVIDER_ERROR, "try again"),
        # A moderated job must not be posted again, so its words count where it has no code.
        (
            {"failure_reason": "error", "error": "blocked by our moderation system"},
            Reason.VIOLATION,
            "blocked by our moderation system",
        ),
        ({"error": "内容违规"}, Reason.VIOLATION, "内容违规"),
        ({"error": ["moderation"]}, Reason.VIOLATION, "moderation"),
        ({"FailureReason": "output_moderation"}, Reason.OUTPUT_MODERATION, "output_moderation"),
        ({"fail_reason": "moderated"}, Reason.VIOLATION, "moderated"),
        ({"message": "flagged as NSFW"}, Reason.VIOLATION, "flagged as NSFW"),
        ({"errorMessage": "it broke"}, Reason.PROVIDER_ERROR, "it broke"),
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
        *(
            ({"results": [{name: URL}]}, [Result(URL)])
            for name in ("image_url", "videoUrl", "video_url")
        ),
        ({"results": [URL, URL + "2"]}, [Result(URL), Result(URL + "2")]),
        ({"results": URL}, [Result(URL)]),
        ({"results": {"url": URL, "width": 8, "height": 9}}, [Result(URL, 8, 9)]),
        ({"results": [{"url": [URL, URL + "2"]}]}, [Result(URL), Result(URL + "2")]),
        ({"results": [{"url": {"url": URL}}]}, [Result(URL)]),
        ({"results": json.dumps([{"url": URL}])}, [Result(URL)]),
        ({"result": {"url": URL}}, [Result(URL)]),
        ({"url": [URL]}, [Result(URL)]),
        ({"videoUrl": URL, "imageUrl": "https://a/cover.png"}, [Result(URL)]),
        ({"results": [{"url": "data:image/png;base64,QQ=="}]}, [Result("delivery:0")]),
        (
            {"results": [URL, "data:image/png;base64,QQ==", {"b64_json": "QQ=="}]},
            [Result(URL), Result("delivery:1"), Result("delivery:2")],
        ),
        ({"results": [{"url": "https://a/\ufffd.png"}, URL]}, [Result(URL)]),
        ({"results": [{"url": f"\n{URL}\t"}]}, [Result(URL)]),
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
        ("50", 50),
        (" 99.5 %", 99),
        ("many", 0),
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
    assert (len(found.status), len(found.results), found.left_out) == (2000, MAX_RESULTS, 744)
    assert len(report(status="failed", error="é" * 10_000).message) == 2000


def test_unknown_fields_are_accepted_and_the_last_of_a_repeated_one_counts() -> None:
    assert report(status="running", unheard_of={"a": [1]}, results=None).outcome is Outcome.RUNNING
    assert (
        read_report(b'{"id":"x","status":"failed","status":"running"}').outcome is Outcome.RUNNING
    )


@pytest.mark.parametrize(
    ("task", "outcome"),
    [
        ({"status": "ready", "progress": 100, "url": URL}, Outcome.SUCCEEDED),
        ({"status": "ready", "progress": "100", "results": [URL]}, Outcome.SUCCEEDED),
        ({"progress": 100, "url": URL}, Outcome.SUCCEEDED),
        ({"status": "ready", "progress": 99, "url": URL}, Outcome.RUNNING),
        ({"status": "ready", "progress": 100}, Outcome.RUNNING),
        ({"status": "running", "progress": 100, "url": URL}, Outcome.RUNNING),
    ],
)
def test_an_unknown_word_is_a_success_if_the_result_is_there(
    task: dict[str, Any], outcome: Outcome
) -> None:
    assert report(**task).outcome is outcome


@pytest.mark.parametrize(
    "address",
    [
        "data:image/png;base64,+/8=",
        "data:image/png;base64,-_8",
        "DATA:;BASE64,+/8=",
        "data:image/png;base64,%2B%2F8%3D",
        "data:image/png;base64,+/\n8=",
        "data:image/png,%FB%FF",
    ],
)
def test_a_picture_in_a_data_url_is_unpacked(address: str) -> None:
    body = raw({"id": "x", "status": "succeeded", "results": [URL, {"url": address}]})
    assert read_picture(body, "delivery:1") == "+/8="
    for other in ("delivery:0", "delivery:2", "delivery:", "delivery:x"):
        with pytest.raises(UnreadableError):
            read_picture(body, other)


def test_a_result_counts_even_if_the_id_beside_it_is_damaged() -> None:
    body = b'{"id":"\xff","status":"succeeded","results":["%s"]}' % URL.encode()
    found = read_report(body)
    assert (found.provider_id, found.results) == (None, (Result(URL),))
