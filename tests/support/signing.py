"""Signed callbacks of each provider, made by other code than what verifies them."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field, replace
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from receiver.model import Provider
from receiver.providers.dialect import Keys

NOW = 1_800_000_000
USER_ID = "user-of-ours"
TASK_ID = "5057fca7-2eb3-468f-b95d-cefe92b0b9d4"
PICTURE = "https://files.example/0.png"

# The private key of the first test of RFC 8032, 7.1, and another one.
FAL_KEY = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
OTHER_FAL_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
REPLICATE_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the Standard Webhooks examples
BFL_SECRET = "a-secret-of-this-job-only"
KIE_KEY = "a-key-of-the-settings-page"


@dataclass(frozen=True, slots=True)
class Signed:
    """A callback: its headers and its raw body."""

    headers: dict[str, str]
    body: bytes

    def but(self, **headers: str) -> Self:
        """Return the same with other headers; underscores stand for dashes."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, headers={**self.headers, **changed})


class Headers(dict[str, str]):
    """Headers whose names may be written in any case, as Flask's."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def get(self, name: str, default: Any = "") -> Any:
        return super().get(name.lower(), default)


def public_key(key: Ed25519PrivateKey) -> str:
    """Return the public key as a JWKS has it."""
    raw = key.public_key().public_bytes_raw()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


KEYS = {
    Provider.FAL: Keys((public_key(FAL_KEY),), USER_ID),
    Provider.REPLICATE: Keys((REPLICATE_SECRET,)),
    Provider.BFL: Keys((BFL_SECRET,)),
    Provider.KIE: Keys((KIE_KEY,)),
}


def body_of(
    provider: Provider, task_id: str = TASK_ID, urls: tuple[str, ...] = (PICTURE,)
) -> bytes:
    """Return the report of a success, as each provider documents it."""
    bodies: dict[Provider, Any] = {
        Provider.FAL: {
            "request_id": task_id,
            "gateway_request_id": task_id,
            "status": "OK",
            "payload": {"images": [{"url": url, "width": 64, "height": 48} for url in urls]},
            "error": None,
        },
        Provider.REPLICATE: {
            "id": task_id,
            "status": "succeeded",
            "output": list(urls),
            "error": None,
            "completed_at": "2027-01-15T07:59:00.000Z",
        },
        Provider.BFL: {
            "id": task_id,
            "status": "Ready",
            "result": {"sample": urls[0], "prompt": "a fox", "seed": 42},
        },
        Provider.KIE: {
            "code": 200,
            "msg": "Playground task completed successfully.",
            "data": {
                "taskId": task_id,
                "state": "success",
                "resultJson": json.dumps({"resultUrls": list(urls)}),
            },
        },
    }
    # Not as Python writes it, so that JSON that is written again has another signature.
    return json.dumps(bodies[provider], separators=(",", ": ")).encode()


@dataclass(frozen=True, slots=True)
class Sender:
    """A provider that signs; ``keys`` replaces its keys, and ``at`` is its clock."""

    provider: Provider
    at: int = NOW
    user_id: str = USER_ID
    fal_key: Ed25519PrivateKey = field(default=FAL_KEY)
    secret: str = ""

    def signed(self, body: bytes, task_id: str = TASK_ID) -> Signed:
        """Return a body with the provider's headers."""
        sign = {
            Provider.FAL: self._fal,
            Provider.REPLICATE: self._replicate,
            Provider.BFL: self._bfl,
            Provider.KIE: self._kie,
        }[self.provider]
        return Signed(sign(body, task_id), body)

    def _fal(self, body: bytes, task_id: str) -> dict[str, str]:
        lines = [task_id, self.user_id, str(self.at), hashlib.sha256(body).hexdigest()]
        return {
            "X-Fal-Webhook-Request-Id": task_id,
            "X-Fal-Webhook-User-Id": self.user_id,
            "X-Fal-Webhook-Timestamp": str(self.at),
            "X-Fal-Webhook-Signature": self.fal_key.sign("\n".join(lines).encode()).hex(),
        }

    def _replicate(self, body: bytes, _task_id: str) -> dict[str, str]:
        key = base64.b64decode((self.secret or REPLICATE_SECRET).removeprefix("whsec_"))
        message = b".".join([b"msg_1", str(self.at).encode(), body])
        return {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(self.at),
            "webhook-signature": f"v1,{_base64(hmac.digest(key, message, 'sha256'))}",
        }

    def _bfl(self, body: bytes, _task_id: str) -> dict[str, str]:
        key = (self.secret or BFL_SECRET).encode()
        return {"X-BFL-Signature": f"sha256={hmac.new(key, body, 'sha256').hexdigest()}"}

    def _kie(self, _body: bytes, task_id: str) -> dict[str, str]:
        key, message = (self.secret or KIE_KEY).encode(), f"{task_id}.{self.at}".encode()
        return {
            "X-Webhook-Timestamp": str(self.at),
            "X-Webhook-Signature": _base64(hmac.digest(key, message, "sha256")),
        }


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
