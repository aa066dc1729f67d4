"""The stand-in for kie.ai: jobs, and callbacks whose signature covers task and time only."""

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any

from submitter.sandbox.request import required_text
from submitter.sandbox.stand_ins.stand_in import Asked, StandIn, new_secret, part, web_hook
from submitter.sandbox.tasks import Task

_STATES = {"running": "generating", "succeeded": "success", "failed": "fail"}
_OLD_SHAPE = "4o-image"  # models with this beginning of their name call back as older endpoints did
_MS = 1000


class KieStandIn(StandIn):
    """kie.ai."""

    name = "kie"
    lifetime = 14 * 24 * 3600.0
    pauses = (60, 300, 900)

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.webhook_key = new_secret()

    def asked(self, path: str, query: Mapping[str, str], body: dict[str, Any]) -> Asked:  # noqa: ARG002 - a stand-in's method
        """Read a submit: everything is in the body."""
        model = required_text(body, "model")
        return Asked(model, part(body, "input"), web_hook(body.get("callBackUrl")))

    def submitted(self, task: Task) -> dict[str, Any]:
        """Return the answer to a submit."""
        return {"code": 200, "msg": "success", "data": {"taskId": task.id}}

    def report(self, task: Task, status: str, urls: list[str]) -> dict[str, Any]:
        """Return the body of a callback, for some models as older endpoints send it."""
        if not task.request.model.startswith(_OLD_SHAPE):
            return self._job(task, status, urls)
        info = {"resultUrls": urls} if urls else None
        code = 400 if status == "failed" else 200
        return {"code": code, "msg": status, "data": {"taskId": task.id, "info": info}}

    def polled(self, task: Task, urls: list[str]) -> dict[str, Any]:
        """Return the record of a job."""
        return {**self._job(task, task.status, urls), "code": 200}

    def _job(self, task: Task, status: str, urls: list[str]) -> dict[str, Any]:
        failed = status == "failed"
        fail = task.request.script.fail or "error"
        data = {
            "taskId": task.id,
            "model": task.request.model,
            "state": _STATES[status],
            "resultJson": json.dumps({"resultUrls": urls}) if urls else "",
            "failCode": "500" if failed else None,
            "failMsg": f"failed: {fail}".replace("_", " ") if failed else None,
            "completeTime": int(task.finished_at * _MS) if task.finished_at else None,
        }
        return {"code": 501 if failed else 200, "msg": status, "data": data}

    def sign(self, task: Task, data: bytes, at: int, fault: str) -> dict[str, str]:  # noqa: ARG002 - a stand-in's method
        """Sign task and time, not the body."""
        key = new_secret() if fault in {"wrong", "foreign"} else self.webhook_key
        digest = hmac.digest(key.encode(), f"{task.id}.{at}".encode(), "sha256")
        return {
            "X-Webhook-Timestamp": str(at),
            "X-Webhook-Signature": base64.b64encode(digest).decode(),
        }
