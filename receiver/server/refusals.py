"""Responses that the main loop sends by itself, without a thread and without Flask.

They have the form of Flask's responses: JSON for senders of callbacks, a problem for clients of the
API, a page for people.
"""

import json
import socket
from contextlib import suppress
from typing import Any

from receiver.jobs.schemas import ProblemView

_TITLE = "URI Too Long"
_DETAIL = "the URL is longer than 8190 bytes, the most that is read; shorten its values"
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>The address is too long</title>
<h1>The address is too long</h1>
<p>An address may have 8190 bytes. Shorten the texts of the filters, then search again.</p>
<p><a href="/">Dashboard</a></p>
<section lang="zh-Hans"><h2>网址过长</h2>
<p>网址最多 8190 字节。请缩短筛选条件中的文字，然后重新搜索。</p>
<p><a href="/">返回首页</a></p></section></html>
"""


def _response(status: str, form: str, body: str, *headers: str) -> bytes:
    data = body.encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {form}",
        f"Content-Length: {len(data)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + data


def _as_json(**content: object) -> str:
    return f"{json.dumps(content, separators=(',', ':'))}\n"


# The system cannot start more threads.
NO_THREAD = _response(
    "503 Service Unavailable",
    "application/json",
    _as_json(ok=False, error="no thread can be started for this request now, try again later"),
    "Retry-After: 5",
)
_TOO_LONG = f"414 {_TITLE}"
_FAULT = {"message": _DETAIL, "type": "invalid_request_error", "param": None, "code": "too_long"}
_PROBLEM = ProblemView(title=_TITLE, status=414, detail=_DETAIL).model_dump_json()
# Keyed by the beginning of the path; the last one is for all other paths.
_BY_PATH = (
    # No ticket of ours is that long.
    (
        b"/callback",
        "404 Not Found",
        "application/json",
        _as_json(ok=False, error="no such callback"),
    ),
    (b"/api/", _TOO_LONG, "application/problem+json", _PROBLEM),
    (b"/v1/", _TOO_LONG, "application/json", _as_json(error=_FAULT)),
    (b"", _TOO_LONG, "text/html; charset=utf-8", _PAGE),
)


def too_long(request: bytes) -> bytes:
    """Return the response to a request whose first line is too long, by how it begins."""
    target = request[:100].partition(b" ")[2]
    start, status, form, body = next(one for one in _BY_PATH if target.startswith(one[0]))
    if start == b"/callback":
        # gunicorn's configuration imports this module, and metrics are created after ``share``.
        from receiver.telemetry.metrics import CALLBACKS  # noqa: PLC0415 - see above

        CALLBACKS.labels("forged").inc()
    return _response(status, form, body)


def send(conn: Any, response: bytes) -> None:
    """Send a response as far as that is possible without waiting."""
    with suppress(OSError, ValueError):  # ValueError: with TLS it may be necessary to wait
        conn.sock.send(response, socket.MSG_DONTWAIT)
