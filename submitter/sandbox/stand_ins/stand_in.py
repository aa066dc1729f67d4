"""What a stand-in for a provider implements, and what all of them share."""

import base64
import json
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from werkzeug.datastructures import Headers

from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.request import (
    Kind,
    RefusedError,
    Reply,
    TaskRequest,
    dimensions,
    read_script,
    required_text,
)
from submitter.sandbox.tasks import Task

_MOST_PICTURES = 4
# Age of a stale signature, in seconds.
_STALE = 3600
# In place of the true URLs, in a callback that was altered after it was signed.
FOREIGN_URL = "https://foreign.example/not-the-picture.png"


@dataclass(frozen=True, slots=True)
class Asked:
    """A submit as a stand-in reads it: the model, the fields of the job, and where callbacks go."""

    model: str
    fields: Mapping[str, Any]
    webhook: str | None


class StandIn(ABC):
    """A provider. ``url`` is where it is served; ``lifetime`` is that of its URLs, in seconds.

    ``pauses`` are the seconds before each repetition of a callback that was not answered 2xx.
    """

    name: ClassVar[str]
    lifetime: ClassVar[float]
    pauses: ClassVar[tuple[float, ...]]
    answers_with: ClassVar[int] = 200  # the HTTP status of an accepted submit

    def __init__(self, url: str) -> None:
        self.url = f"{url}/{self.name}"

    def key(self, headers: Headers) -> str:
        """Return the API key in the headers of a request, "" if there is none."""
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        return key.strip() if scheme == "Bearer" else ""

    @abstractmethod
    def asked(self, path: str, query: Mapping[str, str], body: dict[str, Any]) -> Asked:
        """Read a submit; raise RefusedError."""

    @abstractmethod
    def submitted(self, task: Task) -> dict[str, Any]:
        """Return the answer to an accepted submit."""

    @abstractmethod
    def report(self, task: Task, status: str, urls: list[str]) -> dict[str, Any]:
        """Return the body of a callback about a task with this status and these results."""

    def polled(self, task: Task, urls: list[str]) -> dict[str, Any]:
        """Return the answer to a poll of a task."""
        return self.report(task, task.status, urls)

    @abstractmethod
    def sign(self, task: Task, data: bytes, at: int, fault: str) -> dict[str, str]:
        """Return the headers that sign a callback; a fault is one of SignatureFault's modes."""

    def of_another_account(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a callback's body, changed as if it were about a task of another account."""
        return body

    def rotate(self) -> None:  # noqa: B027 - most have no key of their own
        """Sign with a new key from now on, if the key is the provider's."""

    # For the routes and the runner.

    def read(
        self, path: str, query: Mapping[str, str], body: Any, script: Mapping[str, Any]
    ) -> TaskRequest:
        """Read a submit; raise RefusedError."""
        if not isinstance(body, dict):
            raise RefusedError("the body is not a JSON object", 422)
        asked = self.asked(path, query, body)
        own = read_script(asked.fields, script)
        if own.refuse:
            raise RefusedError(own.refuse.message, own.refuse.status or 422)
        width, height = _size(asked.fields)
        return TaskRequest(
            newer=False,
            kind=Kind.IMAGE,
            reply=Reply.CALLBACK if asked.webhook else Reply.ID,
            webhook=asked.webhook,
            no_progress=True,
            model=asked.model,
            prompt=required_text(asked.fields, "prompt"),
            variants=_count(asked.fields),
            width=width,
            height=height,
            script=own,
            stand_in=self,
        )

    def callback(self, task: Task, files: Files, kind: str) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a callback, as the task's script spells and signs it."""
        fault = task.request.script.signature.mode
        status = "failed" if kind == "contradiction" else task.status
        if kind == "running":
            status = "running"
        body = self.report(task, status, urls_of(task, files))
        if fault == "foreign":
            body = self.of_another_account(body)
        data = json.dumps(body).encode()
        at = int(time.time()) - (_STALE if fault == "stale" else 0)
        if fault == "rotated":
            self.rotate()
        headers = {"Content-Type": "application/json"}
        if fault != "none":
            headers |= self.sign(task, data, at, fault)
        if fault == "altered":
            data = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
        if fault == "other_urls":
            data = json.dumps(self.report(task, status, [FOREIGN_URL])).encode()
        return data, headers


def urls_of(task: Task, files: Files) -> list[str]:
    """Return the URLs of a task's results; none if it did not succeed or its script has none.

    If its script says so, they are ``data:`` URLs, with the pictures inside.
    """
    script = task.request.script
    if task.status != "succeeded" or script.result.mode == "no_url":
        return []
    if script.report.results == "data_url":
        return [_data_url(file, files) for file in task.files]
    return [files.url(file) for file in task.files]


def _data_url(file: ResultFile, files: Files) -> str:
    with files.open(file) as opened:
        encoded = base64.b64encode(opened.read()).decode()
    return f"data:{file.content_type};base64,{encoded}"


def new_secret() -> str:
    """Return a random secret."""
    return secrets.token_hex(16)


def web_hook(value: object) -> str | None:
    """Return the address for callbacks; raise RefusedError if it is not a URL."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise RefusedError("the webhook is not a URL", 422)
    return value


def part(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object in a field; raise RefusedError if it holds anything else."""
    value = body.get(name)
    if not isinstance(value, dict):
        raise RefusedError(f"{name} is required", 422)
    return value


def is_path(text: str) -> bool:
    """Return whether a model's name has the form of one."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]*", text))


def _count(fields: Mapping[str, Any]) -> int:
    value = fields.get("num_images", fields.get("num_outputs", 1))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_PICTURES:
        raise RefusedError(f"the number of pictures is 1 to {_MOST_PICTURES}, not {value!r}", 422)
    return value


def _size(fields: Mapping[str, Any]) -> tuple[int, int]:
    size = fields.get("image_size")
    sides = size if isinstance(size, dict) else fields
    width, height = sides.get("width"), sides.get("height")
    if isinstance(width, int) and isinstance(height, int):
        return dimensions({"size": f"{width}x{height}"})
    return dimensions({"aspectRatio": fields.get("aspect_ratio", "1:1")})
