"""The stand-in for Replicate: predictions, and callbacks signed by Standard Webhooks."""

import base64
import hmac
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from submitter.sandbox.request import RefusedError
from submitter.sandbox.stand_ins.stand_in import Asked, StandIn, is_path, part, web_hook
from submitter.sandbox.tasks import Task

_STATUSES = {"running": "processing", "succeeded": "succeeded", "failed": "failed"}
_ERRORS = {"error": "prediction failed", "violation": "flagged as sensitive (E005)"}


class ReplicateStandIn(StandIn):
    """Replicate."""

    name = "replicate"
    lifetime = 3600.0
    pauses = (5, 10, 20, 25)  # about a minute
    answers_with = 201

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._secret = secrets.token_bytes(24)

    @property
    def secret(self) -> str:
        """The secret of the account's callbacks."""
        return f"whsec_{base64.b64encode(self._secret).decode()}"

    def asked(self, path: str, query: Mapping[str, str], body: dict[str, Any]) -> Asked:  # noqa: ARG002 - a stand-in's method
        """Read a submit: the model is in the path, or a version in the body."""
        model = path.removeprefix("v1/").removeprefix("models/").removesuffix("/predictions")
        model = str(body.get("version", "")) if path == "v1/predictions" else model
        if not is_path(model):
            raise RefusedError("version is required", 422)
        return Asked(model, part(body, "input"), web_hook(body.get("webhook")))

    def submitted(self, task: Task) -> dict[str, Any]:
        """Return the new prediction."""
        return self._prediction(task, "starting", None)

    def report(self, task: Task, status: str, urls: list[str]) -> dict[str, Any]:
        """Return the prediction."""
        script = task.request.script
        if script.file.mode == "private" and script.report.results != "data_url":
            urls = [f"{self.url}/v1/files/{url.rpartition('/')[2]}" for url in urls]
        return self._prediction(task, _STATUSES[status], urls or None)

    def _prediction(self, task: Task, status: str, output: list[str] | None) -> dict[str, Any]:
        done = datetime.fromtimestamp(task.finished_at, UTC) if task.finished_at else None
        fail = task.request.script.fail
        return {
            "id": task.id,
            "model": task.request.model,
            "status": status,
            "output": output,
            "error": _ERRORS.get(fail or "", "NSFW content detected") if fail and done else None,
            "completed_at": done.isoformat().replace("+00:00", "Z") if done else None,
            "metrics": {"predict_time": 0.3} if done else {},
            "urls": {"get": f"{self.url}/v1/predictions/{task.id}"},
        }

    def sign(self, task: Task, data: bytes, at: int, fault: str) -> dict[str, str]:
        """Sign id, time and body."""
        key = secrets.token_bytes(24) if fault in {"wrong", "foreign"} else self._secret
        message = f"msg_{task.id}.{at}.".encode() + data
        signature = base64.b64encode(hmac.digest(key, message, "sha256")).decode()
        return {
            "webhook-id": f"msg_{task.id}",
            "webhook-timestamp": str(at),
            "webhook-signature": f"v1,{signature}",
        }

    def rotate(self) -> None:
        """Sign with a new secret, which is fetched as the first one was."""
        self._secret = secrets.token_bytes(24)
