"""Answers and reports in the spellings that real clients of GRSAI have seen. No I/O."""

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from submitter.sandbox.script import Spelling

_JSON = "application/json"
_IN_STREAMS = frozenset({"plain", "envelope", "list", "string"})
_DIRT = {
    "bad_utf8": b'"note":"\xff\xfe\xc3",',
    "surrogate": b'"note":"\\ud83d",',
    "nan": b'"cost":NaN,',
    "control": b'"note":"one\x01two\tthree",',
}

# The bytes of the picture with this index.
Picture = Callable[[int], bytes]


def spelled(
    body: Mapping[str, Any], spelling: Spelling, picture: Picture, *, in_stream: bool = False
) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of a report or of a read, and their headers.

    ``body`` is a bare task object or one in its envelope.
    """
    inner = body.get("data")
    if isinstance(inner, dict):
        body = {**body, "data": _task(inner, spelling, picture)}
    else:
        body = _task(body, spelling, picture)
    text = json.dumps(body, ensure_ascii=False).encode()
    text = b"{" + _DIRT.get(spelling.dirt, b"") + text[1:]
    mode = spelling.mode if not in_stream or spelling.mode in _IN_STREAMS else "plain"
    return _wrapped(text, mode)


def _wrapped(text: bytes, mode: str) -> tuple[bytes, dict[str, str]]:
    headers = {"Content-Type": _JSON}
    match mode:
        case "envelope":
            text = b'{"code":"0","msg":"success","data":%b}' % text
        case "list":
            text = b"[%b]" % text
        case "string":
            text = json.dumps(text.decode("utf-8", "replace")).encode()
        case "form":
            text = urlencode({"payload": text}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
        case "multipart":
            disposition = b'Content-Disposition: form-data; name="payload"'
            text = b"--grsai\r\n%b\r\n\r\n%b\r\n--grsai--\r\n" % (disposition, text)
            headers = {"Content-Type": "multipart/form-data; boundary=grsai"}
        case "event":
            text = b"data: %b\n\ndata: [DONE]\n\n" % text
        case "mark":
            text = b"\xef\xbb\xbf" + text
        case "utf16" | "gbk":
            text = text.decode("utf-8", "replace").encode(mode, "replace")
            headers = {"Content-Type": f"{_JSON}; charset={mode}"}
        case "gzip":
            text = gzip.compress(text)
            headers["Content-Encoding"] = "gzip"
    return text, headers


def _task(task: Mapping[str, Any], spelling: Spelling, picture: Picture) -> dict[str, Any]:
    spelt = dict(task)
    if spelt.get("status") == "succeeded":
        spelt["status"] = spelling.status or "succeeded"
        if spelt.get("results"):
            spelt |= _results(spelt["results"], spelling.results, picture)
    elif spelt.get("status") in ("failed", "violation"):
        spelt |= _failure(spelt, spelling.failure)
        if spelling.failure == "camel":
            spelt.pop("failure_reason", None)
    return spelt


def _results(items: list[dict[str, Any]], form: str, picture: Picture) -> dict[str, Any]:
    urls = [item["url"] for item in items]
    match form:
        case "texts":
            return {"results": urls, "url": ""}
        case "object" if len(items) == 1:
            return {"results": items[0], "url": ""}
        case "url_list":
            return {"results": [{"url": urls}], "url": ""}
        case "image_url" | "video_url":
            return {"results": [{form: url} for url in urls], "url": ""}
        case "data_url":
            encoded = [base64.b64encode(picture(index)).decode() for index in range(len(items))]
            return {"results": [{"url": f"data:image/png;base64,{text}"} for text in encoded]} | {
                "url": ""
            }
        case _:
            return {"results": items}


def _failure(task: Mapping[str, Any], form: str) -> dict[str, Any]:
    reason, error = task.get("failure_reason", ""), task["error"]
    match form:
        case "camel":
            return {"failureReason": reason}
        case "upper":
            return {"failure_reason": reason.upper(), "status": task["status"].upper()}
        case "object":
            return {"error": {"code": reason, "message": error}}
        case _:
            return {}


def submit_answer(task_id: str, mode: str) -> tuple[bytes, bool]:
    """Return the body of the answer to an accepted submit, and whether it breaks off."""
    body: dict[str, Any] = {"code": 0, "msg": "success", "data": {"id": task_id}}
    match mode:
        case "code_text":
            body["code"] = "0"
        case "code_200":
            body["code"] = 200
        case "code_null":
            body["code"] = None
        case "bare_id":
            body = {"id": task_id}
        case "task_id":
            body["data"] = {"task_id": task_id}
        case "text":
            body["data"] = task_id
    text = json.dumps(body).encode()
    match mode:
        case "event":
            return b"data: " + text + b"\n\n", False
        case "mark":
            return b"\xef\xbb\xbf" + text, False
        case "unending":
            return text[:-1] + b',"msg2":"', True
    return text, False
