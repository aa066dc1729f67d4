"""A task is found in its body however it is packed, and what was repaired is said."""

import gzip
import json
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import shake_256
from itertools import product
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import UnreadableError
from receiver.model import Outcome
from receiver.providers.grsai.reports import read_report
from receiver.providers.grsai.streams import events

URL = "https://file1.aitohumanize.com/file/0123456789abcdef0123456789abcdef.png"
SUCCESS = {"id": "task-1", "status": "succeeded", "progress": 100, "results": [{"url": URL}]}
FAILURE = {
    "id": "task-1",
    "status": "failed",
    "failure_reason": "output_moderation",
    "error": "不行",
    "results": None,
}
MULTIPART = '--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n{}\r\n--b--\r\n'

# From text to text.
TEXTS: dict[str, Callable[[str], str]] = {
    "an envelope": '{{"code":0,"msg":"success","data":{}}}'.format,
    "an event": '{{"type":"task.done","data":{}}}'.format,
    "a list of one": "[{}]".format,
    "a JSON string": json.dumps,
    "a JSON string in an envelope": lambda text: json.dumps({"code": "0", "data": text}),
    "a form field": lambda text: "payload=" + quote(text),
    "a plain form field": "data={}".format,
    "the name of a form field": lambda text: quote(text) + "=",
    "a form of several fields": lambda text: urlencode({"sign": "x", "body": text}),
    "a multipart form": MULTIPART.format,
    "an event stream": "event: message\ndata: {}\n\ndata: [DONE]\n\n".format,
    "space around it": "\n\t {} \r\n".format,
    "bytes after it": "{}\x00;".format,
    "another object before it": '{{"id":"task-1","status":"running"}}\n{}'.format,
}
# From text to bytes.
BYTES: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16-LE": lambda text: text.encode("utf-16-le"),
    "UTF-16-BE": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "GBK": lambda text: text.encode("gbk"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "zlib": lambda text: zlib.compress(text.encode()),
    "raw deflate": lambda text: zlib.compress(text.encode(), wbits=-15),
    "gzip of GBK": lambda text: gzip.compress(text.encode("gbk")),
}
# Fields that are ignored, as bytes in the middle of the object.
DIRT: dict[str, bytes] = {
    "bad UTF-8": b'"content":"\xff\xfe\xc3",',
    "a lone surrogate": b'"content":"\\ud83d",',
    "NaN": b'"seed":NaN,"cost":-Infinity,',
    "control characters": b'"content":"one\ntwo\t\x01",',
    "a huge number": b'"cost":' + b"9" * 5000 + b",",
    "Latin-1": '"content":"é à la carte",'.encode("latin-1"),
}


def plain(task: dict[str, Any]) -> str:
    return json.dumps(task, ensure_ascii=False)


def same(body: bytes, task: dict[str, Any]) -> bool:
    """Return whether a body means the same as the plain task."""
    return replace(read_report(body), repaired="") == read_report(plain(task).encode())


@pytest.mark.parametrize("task", [SUCCESS, FAILURE], ids=["success", "failure"])
@pytest.mark.parametrize(("text", "form"), list(product(TEXTS, BYTES)))
def test_a_task_is_found_in_every_wrapping(text: str, form: str, task: dict[str, Any]) -> None:
    assert same(BYTES[form](TEXTS[text](plain(task))), task)


@pytest.mark.parametrize("task", [SUCCESS, FAILURE], ids=["success", "failure"])
@pytest.mark.parametrize("dirt", DIRT)
def test_a_field_without_a_meaning_hides_nothing(dirt: str, task: dict[str, Any]) -> None:
    body = b"{" + DIRT[dirt] + plain(task).encode()[1:]
    assert same(body, task)
    assert read_report(body).repaired


@given(
    st.sampled_from([SUCCESS, FAILURE]),
    st.lists(st.sampled_from([*TEXTS][:5]), max_size=3),
    st.sampled_from([*TEXTS]),
    st.sampled_from([*BYTES]),
)
def test_wrappings_can_be_nested(
    task: dict[str, Any], inner: list[str], outer: str, form: str
) -> None:
    text = plain(task)
    for name in (*inner, outer):
        text = TEXTS[name](text)
    assert same(BYTES[form](text), task)


@given(
    st.sampled_from([SUCCESS, FAILURE]),
    st.sampled_from([*DIRT, ""]),
    st.sampled_from(sorted(TEXTS)),
)
def test_dirt_and_wrapping_together_hide_nothing(
    task: dict[str, Any], dirt: str, wrapping: str
) -> None:
    inner = b"{" + DIRT.get(dirt, b"") + plain(task).encode()[1:]
    if wrapping in {"an envelope", "a list of one", "an event", "space around it"}:
        before, _, after = TEXTS[wrapping]("@").partition("@")
        inner = before.encode() + inner + after.encode()
    assert same(inner, task)


@pytest.mark.parametrize(
    ("body", "repaired"),
    [
        (plain(SUCCESS).encode(), ""),
        (b'{"code":0,"msg":"success","data":' + plain(SUCCESS).encode() + b"}", ""),
        (b"\xef\xbb\xbf" + plain(SUCCESS).encode(), "byte order mark"),
        (gzip.compress(b"[" + plain(SUCCESS).encode() + b"]"), "compressed, list of one"),
        (b'{"a":"\xff","b":NaN,' + plain(SUCCESS).encode()[1:], "not UTF-8, NaN"),
        (b'{"a":"\x01",' + plain(SUCCESS).encode()[1:], "control characters"),
        (b'{"a":"\\ud800",' + plain(SUCCESS).encode()[1:], "loose JSON"),
        (json.dumps(plain(SUCCESS)).encode(), "JSON in a string"),
        (b"data=" + plain(SUCCESS).encode(), "form"),
        (plain(SUCCESS).encode() + b"\n!", "bytes after the JSON"),
    ],
)
def test_what_was_repaired_is_said(body: bytes, repaired: str) -> None:
    assert read_report(body).repaired == repaired


@pytest.mark.parametrize(
    "body",
    [
        plain(SUCCESS).encode()[:-1],
        gzip.compress(plain(SUCCESS).encode())[:-9],
        gzip.compress(b" " * (17 * 1024 * 1024) + plain(SUCCESS).encode(), 1),
        json.dumps([SUCCESS, SUCCESS]).encode(),
        b"<html>" + plain(SUCCESS).encode(),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"error":' * 900 + b"1" + b"}" * 900,
        json.dumps({"data": {"data": {"data": {"data": {"data": {"data": {}}}}}}}).encode(),
        b"=" * 10_000,
        b"&=" * 10_000,
        b"data: {\n" * 20_000,
    ],
    ids=range(12),
)
def test_what_is_cut_too_large_or_ambiguous_stays_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_report(body)


def test_a_small_body_cannot_cause_much_work() -> None:
    events_packed = gzip.compress(b'data: {"a":1}\n\n' * (1 << 20))
    began = time.process_time()
    bombs = [
        gzip.compress(body * (15_000_000 // len(body)))
        for body in (b'["\xff",[],', b"a=%41%41%41&", b"1 ", b"--\n--")
    ]
    for body in (events_packed, b"data: {}}\n" * 100_000, b"data: {\n" * 100_000, *bombs):
        with pytest.raises(UnreadableError):
            read_report(body)
    assert time.process_time() - began < 2, (
        "19 s before the lines and bytes were limited, 0.5 since"
    )


def test_a_packed_body_may_have_many_results_or_large_pictures() -> None:
    many = {**SUCCESS, "results": [{"url": f"{URL}?{number}"} for number in range(1000)]}
    picture = b64encode(shake_256(b"picture").digest(2_000_000)).decode()
    large = {**SUCCESS, "results": [{"url": f"data:image/png;base64,{picture}"}]}
    for task in (many, large):
        assert same(gzip.compress(plain(task).encode()), task)


def test_a_form_may_have_json_in_one_of_its_fields() -> None:
    form = urlencode({**SUCCESS, "results": json.dumps(SUCCESS["results"]), "error": ""})
    assert same(form.encode(), SUCCESS)
    assert same((form + "&data=%7B%7D").encode(), SUCCESS)


@pytest.mark.parametrize("word", ["ok", "success", 200, True])
def test_an_envelope_with_an_id_and_a_status_of_its_own_hides_no_task(word: object) -> None:
    for task in (SUCCESS, FAILURE):
        assert same(json.dumps({"id": "request-1", "status": word, "data": task}).encode(), task)
    inside = {"id": "picture-1", "status": "ok"}
    assert same(json.dumps({**SUCCESS, "result": inside}).encode(), SUCCESS)


def test_a_message_keeps_its_characters_in_any_charset() -> None:
    for form, encode in BYTES.items():
        assert read_report(encode(plain(FAILURE))).message == "不行", form
    broken = plain(FAILURE | {"error": "太多了，不行。"}).encode()[:-30] + b'\xe4","a":1}'
    assert read_report(broken).outcome is Outcome.FAILED


# Streams.


def lines(*given: bytes) -> Iterator[bytes]:
    return iter(given)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([b"data: {}", b"", b"data: []", b"", b"data: [DONE]", b"data: {}"], [b"{}", b"[]"]),
        ([b"data: {}", b'data:{"a":1}', b"data: "], [b"{}", b'{"a":1}']),
        ([b": comment", b"event: x", b"id: 7", b"retry: 10"], []),
        ([b"data: ping", b"", b"data: {}"], [b"{}"]),
        ([b"{}", b"{}"], [b"{}", b"{}"]),
        ([b"\xef\xbb\xbfdata: {}\r", b"\r"], [b"{}"]),
        (
            [b"{", b'  "id": "x",', b"", b'  "a": {', b"  }", b"}"],
            [b'{\n  "id": "x",\n\n  "a": {\n  }\n}'],
        ),
        ([b"data: {", b'data:   "id": "x"', b"data: }"], [b'{\n  "id": "x"\n}']),
        ([b'data: {"id":"x","error":"one', b'two"}'], [b'{"id":"x","error":"one\ntwo"}']),
        ([b'data: {"id":', b"", b"data: {}"], [b'{"id":', b"{}"]),
        ([b'{"id":', b"{}"], [b'{"id":', b"{}"]),
        ([b'data: {"a":"\xff"}', b"data: {}"], [b'{"a":"\xff"}', b"{}"]),
        ([b'<p class="x">', b"no</p>"], [b'<p class="x">\nno</p>']),
        ([], []),
    ],
)
def test_the_events_of_a_stream_are_found_however_its_lines_are_broken(
    given: list[bytes], found: list[bytes]
) -> None:
    assert list(events(lines(*given))) == found


def test_an_event_is_yielded_before_the_next_line_is_read() -> None:
    def endless() -> Iterator[bytes]:
        yield b"data: {}"
        raise AssertionError("the next line was read too early")

    assert next(events(endless())) == b"{}"
