"""The stand-in for fal: its queue, and callbacks signed with one Ed25519 key for all customers."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from werkzeug.datastructures import Headers

from submitter.sandbox.request import RefusedError
from submitter.sandbox.stand_ins.stand_in import Asked, StandIn, is_path, web_hook
from submitter.sandbox.tasks import Task

USER_ID = "sandbox-user"
FOREIGN_ID = "a-request-of-another-account"
_STATUSES = {"running": "IN_PROGRESS", "succeeded": "OK", "failed": "ERROR"}


class FalStandIn(StandIn):
    """fal. ``keys_away``: its public keys cannot be fetched; ``user_id`` is that of the account."""

    name = "fal"
    lifetime = 24 * 3600.0
    pauses = (15, 30, 60, 120, 300, 600, 900, 1500, 1800, 1800)  # ten in two hours

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.keys_away = False
        self.user_id = USER_ID
        self._keys = [Ed25519PrivateKey.generate()]

    def key(self, headers: Headers) -> str:
        """Return the API key of ``Authorization: Key …``."""
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        return key.strip() if scheme == "Key" else ""

    def asked(self, path: str, query: Mapping[str, str], body: dict[str, Any]) -> Asked:
        """Read a submit: the model is the path, the callback's address a parameter of it."""
        if not is_path(path):
            raise RefusedError("no such application", 404)
        return Asked(path, body, web_hook(query.get("fal_webhook")))

    def submitted(self, task: Task) -> dict[str, Any]:
        """Return the answer to a submit."""
        app = "/".join(task.request.model.split("/")[:2])
        url = f"{self.url}/{app}/requests/{task.id}"
        return {
            "status": "IN_QUEUE",
            "request_id": task.id,
            "gateway_request_id": task.id,
            "response_url": url,
            "status_url": f"{url}/status",
            "cancel_url": f"{url}/cancel",
            "queue_position": 0,
        }

    def report(self, task: Task, status: str, urls: list[str]) -> dict[str, Any]:
        """Return the body of a callback."""
        failed = status == "failed"
        return {
            "request_id": task.id,
            "gateway_request_id": task.id,
            "status": _STATUSES[status],
            "error": "Invalid status code: 422" if failed else None,
            "payload": self.result(task, urls),
        }

    def polled(self, task: Task, urls: list[str]) -> dict[str, Any]:
        """Return the status of a request; its result needs another request."""
        status = "IN_PROGRESS" if task.status == "running" else "COMPLETED"
        return {"status": status, "request_id": task.id, "urls": len(urls)}

    def result(self, task: Task, urls: list[str]) -> dict[str, Any]:
        """Return the bare result, or why there is none."""
        if task.status == "failed":
            moderated = task.request.script.fail != "error"
            kind = "content_policy_violation" if moderated else "generation_failed"
            return {"detail": [{"loc": ["body", "prompt"], "msg": "it failed", "type": kind}]}
        sides = {"width": task.request.width, "height": task.request.height}
        images = [{"url": url, **sides, "content_type": "image/png"} for url in urls]
        return {"images": images, "prompt": task.request.prompt, "seed": 42}

    def sign(self, task: Task, data: bytes, at: int, fault: str) -> dict[str, str]:
        """Sign the four lines: request, user, time, and the body's SHA-256."""
        is_foreign = fault == "foreign"
        user_id = "somebody-else" if is_foreign else self.user_id
        request_id = FOREIGN_ID if is_foreign else task.id
        key = Ed25519PrivateKey.generate() if fault == "wrong" else self._keys[-1]
        lines = "\n".join([request_id, user_id, str(at), hashlib.sha256(data).hexdigest()])
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": user_id,
            "X-Fal-Webhook-Timestamp": str(at),
            "X-Fal-Webhook-Signature": key.sign(lines.encode()).hex(),
        }

    def of_another_account(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a body with another request's id: fal signs for the account that posted it."""
        return {**body, "request_id": FOREIGN_ID, "gateway_request_id": FOREIGN_ID}

    def rotate(self) -> None:
        """Sign with a new key; the one before stays among the public keys."""
        self._keys = [self._keys[-1], Ed25519PrivateKey.generate()]

    def jwks(self) -> dict[str, Any]:
        """Return the public keys."""
        raw = [key.public_key().public_bytes_raw() for key in self._keys]
        names = [base64.urlsafe_b64encode(one).decode().rstrip("=") for one in raw]
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": name} for name in names]}
