"""A local server with OpenAI's Images API: scripted responses, and a record of the calls."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from http_server import HttpServer

from submitter.sandbox.pictures import picture

Script = Callable[[BaseHTTPRequestHandler], None]

PATH = "/v1/images/generations"
PNGS = tuple(picture(f"picture {idx}", "png", 64, 48, 4_000 + idx) for idx in range(3))


@dataclass(frozen=True, slots=True)
class Call:
    """One POST as it came."""

    path: str
    authorization: str
    body: dict[str, Any]


class OpenAIServer(HttpServer):
    """Plays one script for each POST and repeats the last one; it serves its files to anybody."""

    def __init__(self, *scripts: Script, files: Mapping[str, bytes] | None = None) -> None:
        self.calls: list[Call] = []
        self.fetched: list[str] = []
        self._scripts = scripts
        self._files = files or {}

    @property
    def url(self) -> str:
        """The OPENAI_BASE_URL of this server."""
        return f"http://{self.address}/v1"

    def handle_post(self, request: BaseHTTPRequestHandler) -> None:
        """Answer the next POST as its script says."""
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.calls.append(Call(request.path, request.headers["Authorization"], body))
        self._scripts[min(len(self.calls), len(self._scripts)) - 1](request)

    def handle_get(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET with the file of that name."""
        self.fetched.append(request.path)
        _respond(
            request, 200, self._files[request.path.removeprefix("/")], {"Content-Type": "image/png"}
        )


def _respond(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]
) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


# What a test has it answer.


def answered(body: object, status: int = 200, **headers: str) -> Script:
    """Script: answer with JSON, or with these bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: _respond(request, status, raw, headers)


def with_pictures(*files: bytes) -> Script:
    """Script: answer with these files in base64."""
    return answered(
        {
            "created": 1,
            "data": [{"b64_json": base64.b64encode(file).decode()} for file in files],
            "usage": {"total_tokens": 9},
        }
    )


def with_urls(*names: str) -> Script:
    """Script: answer with the URLs of these files of the server."""

    def play(request: BaseHTTPRequestHandler) -> None:
        data = [
            {"url": f"http://{request.headers['Host']}/{name}", "revised_prompt": "a fox"}
            for name in names
        ]
        answered({"created": 1, "data": data})(request)

    return play


def wrong(status: int, code: str | None, message: str, **more: object) -> Script:
    """Script: answer with an error in OpenAI's shape."""
    return answered(
        {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": code,
                **more,
            }
        },
        status,
    )


def cut_off(request: BaseHTTPRequestHandler) -> None:
    """Script: hang up without an answer."""
    request.close_connection = True


def cut_short(request: BaseHTTPRequestHandler) -> None:
    """Script: hang up in the middle of the answer."""
    _respond(request, 200, b'{"data": [', {"Content-Length": "1000"})


def silence(request: BaseHTTPRequestHandler) -> None:
    """Script: say nothing until the client gives up."""
    request.connection.recv(1)


class Endless:
    """Script: answer without end; ``sent`` is how many bytes the client took before it hung up."""

    def __init__(self) -> None:
        self.sent = 0

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        """Play it."""
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b'{"data":[{"b64_json":"')
        while True:
            self.sent += request.wfile.write(b"A" * 65536)


BLOCKED = wrong(
    400,
    "moderation_blocked",
    "Your request was rejected by the safety system.",
    type="image_generation_user_error",
)
