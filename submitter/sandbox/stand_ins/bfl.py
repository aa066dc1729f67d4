"""The stand-in for BFL: tasks with a polling address, callbacks signed with the job's secret."""

import hmac
from collections.abc import Mapping
from typing import Any

from werkzeug.datastructures import Headers

from submitter.sandbox.request import RefusedError
from submitter.sandbox.stand_ins.stand_in import Asked, StandIn, is_path, new_secret, web_hook
from submitter.sandbox.tasks import Task

_STATUSES = {"running": "Pending", "succeeded": "Ready"}
_FAILURES = {"input_moderation": "Request Moderated", "error": "Error"}


class BflStandIn(StandIn):
    """BFL."""

    name = "bfl"
    lifetime = 600.0
    pauses = (1, 5, 30)

    def key(self, headers: Headers) -> str:
        """Return the API key of ``x-key``."""
        return headers.get("x-key", "").strip()

    def asked(self, path: str, query: Mapping[str, str], body: dict[str, Any]) -> Asked:  # noqa: ARG002 - a stand-in's method
        """Read a submit: the model is the path."""
        model = path.removeprefix("v1/")
        if not is_path(model):
            raise RefusedError("Not Found", 404)
        return Asked(model, body, web_hook(body.get("webhook_url")))

    def submitted(self, task: Task) -> dict[str, Any]:
        """Return the answer to a submit; that to one with a webhook has no polling address."""
        if task.request.webhook:
            return {"id": task.id, "status": "Pending", "webhook_url": task.request.webhook}
        return {"id": task.id, "polling_url": f"{self.url}/v1/get_result?id={task.id}"}

    def report(self, task: Task, status: str, urls: list[str]) -> dict[str, Any]:
        """Return the task."""
        word = _STATUSES.get(status) or _FAILURES.get(
            task.request.script.fail or "error", "Content Moderated"
        )
        result = {"sample": urls[0], "prompt": task.request.prompt, "seed": 42} if urls else None
        return {"id": task.id, "status": word, "result": result, "progress": None, "details": None}

    def sign(self, task: Task, data: bytes, at: int, fault: str) -> dict[str, str]:  # noqa: ARG002 - a stand-in's method
        """Sign the body; there is no time in it, so nothing can be stale but a wrong secret."""
        secret = str(task.body.get("webhook_secret", ""))
        if not secret:
            return {}
        if fault in {"wrong", "foreign", "stale"}:
            secret = new_secret()
        return {"X-BFL-Signature": f"sha256={hmac.digest(secret.encode(), data, 'sha256').hex()}"}
