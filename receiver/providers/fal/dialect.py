"""fal's queue API: https://docs.fal.ai/model-apis/model-endpoints/queue and …/webhooks.

fal signs every callback with one key for all its customers, so a valid signature is not enough: it
names a user id, which must be ours, and a request id, which must be the body's.
"""

from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode

from receiver.errors import (
    NoSuchTaskError,
    ProviderUnavailableError,
    UnreadableError,
)
from receiver.model import Api, Outcome, Proof, Provider, Reason, Report, Submission
from receiver.providers import json_answers as answers
from receiver.providers.dialect import (
    Accepted,
    Account,
    Callback,
    Head,
    Headers,
    Keys,
    Request,
    Task,
    Verified,
)
from receiver.providers.fal.signature import key_of, verifies
from receiver.providers.task_dialect import TaskDialect, is_recent

# Seconds the results of our requests live: we ask for it in each of them.
URL_LIFETIME = 24 * 3600
_LIFECYCLE = f'{{"expiration_duration_seconds": {URL_LIFETIME}}}'
# The fields of an answer that usually hold results, most often only one of them.
_RESULTS = ("images", "image", "videos", "video")
_ENDED = frozenset({"OK", "ERROR", "COMPLETED"})
_STATUSES = _ENDED | {"IN_QUEUE", "IN_PROGRESS"}
# Statuses of a result that say nothing about the task.
_NOT_ABOUT_THE_TASK = frozenset({401, 403, 408, 429, 502, 503, 504})
_NOT_FOUND, _SERVER_ERROR = 404, 500


class Fal(TaskDialect):
    """fal."""

    provider = Provider.FAL
    title = "fal"
    key_name = "FAL_KEY"
    base_setting = "FAL_BASE_URL"
    example = "fal-ai/flux/dev"
    sizes = "pixels (1024x768) or a ratio (16:9), or a param such as image_size=landscape_4_3"
    image_param = "image_url=https://…"
    hosts = ("fal.run",)
    url_lifetime = URL_LIFETIME

    def mistakes(self, submission: Submission) -> list[str]:
        """Refuse options with which fal keeps no pictures, in case the callback is lost."""
        found = super().mistakes(submission)
        if submission.params.get("sync_mode"):
            found.append(
                "--param sync_mode: fal would not keep the result, and a callback with it may be "
                "larger than CALLBACK_MAX_BYTES; leave it out"
            )
        return found

    def pixel_params(self, width: int, height: int) -> dict[str, object]:
        """Return the field for pixels."""
        return {"image_size": {"width": width, "height": height}}

    def count_params(self, model: str, api: Api, pictures: int) -> dict[str, object]:
        """Return the field for the number of pictures."""
        return {"num_images": pictures}

    def build_submit(
        self, account: Account, submission: Submission, callback: Callback | None
    ) -> Request:
        """Return the POST of a submit."""
        path = answers.model_path(submission.model, self.example)
        query = f"?{urlencode({'fal_webhook': callback.url})}" if callback else ""
        headers = {**_authorization(account), "X-Fal-Object-Lifecycle-Preference": _LIFECYCLE}
        body = {**submission.params, "prompt": submission.prompt}
        return Request(f"{account.base_url}/{path}{query}", headers, body)

    def read_submit(self, head: Head, body: bytes) -> Accepted:
        """Return the request's id, and where to ask for its status."""
        found = answers.submitted(head, body, self.base_setting)
        request_id = self.accepted_id(found, "request_id")
        return Accepted(request_id, answers.poll_address(found.get("status_url")))

    def verify(self, headers: Headers, body: bytes, keys: Keys, now: float) -> Verified:
        """Verify the signature over request id, user id, time and the body's SHA-256."""
        request_id = headers.get("X-Fal-Webhook-Request-Id", "")
        user_id = headers.get("X-Fal-Webhook-User-Id", "")
        timestamp = headers.get("X-Fal-Webhook-Timestamp", "")
        signature = headers.get("X-Fal-Webhook-Signature", "")
        if not signature or not keys.values:
            return Verified(Proof.TASK)  # proved by the ticket; the provider is polled
        lines = "\n".join([request_id, user_id, timestamp, sha256(body).hexdigest()])
        if not is_recent(timestamp, now) or not verifies(signature, lines.encode(), keys.values):
            return Verified(Proof.NONE)
        named, gateway = _request_ids(body)
        if not user_id or named is None or request_id not in {named, gateway}:
            return Verified(Proof.NONE)
        if user_id == keys.user_id:
            return Verified(Proof.BODY)
        return Verified(Proof.NONE if keys.user_id else Proof.TASK, user_id, named)

    def read_report(self, body: bytes) -> Report:
        """Read a callback, the status of a request, or its bare result."""
        found = answers.document(body)
        status, request_id = answers.text(found.get("status")), _id(found)
        if request_id is None and status not in _STATUSES and found.keys() & set(_RESULTS):
            status = ""  # a bare result, whose model has a field of this name
        if status and status not in _ENDED:
            return Report(Outcome.RUNNING, request_id, status)
        payload = _payload(found)
        if status == "ERROR" or "detail" in payload:
            return _failure(found, payload, request_id, status)
        made, left_out = answers.results(self.made(found))
        if not status and not found.keys() - {"request_id", "gateway_request_id"}:
            raise UnreadableError("the body says nothing about a request")
        return Report(
            Outcome.SUCCEEDED, request_id, status or "COMPLETED", 100, made, left_out=left_out
        )

    def made(self, found: dict[str, Any]) -> list[object]:
        """Return the results of a callback or of a bare result.

        Each model has fields of its own: if none has a usual name, every file counts.
        """
        payload = _payload(found)
        usual = [payload.get(name) for name in _RESULTS]
        if answers.results(usual)[0]:
            return usual
        return [value for value in payload.values() if isinstance(value, dict | list)]

    def build_poll(self, account: Account, task: Task) -> Request:
        """Return the request for the status; ``read_poll`` then asks for the result."""
        return Request(f"{_request_url(task)}/status", _authorization(account))

    def read_poll(self, account: Account, task: Task, head: Head, body: bytes) -> Request | None:
        """Return the request for the result once the request is completed.

        The result of a request that failed has an error status and the reason as ``detail``.
        """
        if _is_result(head, body):
            return None
        answers.polled(head, body, self.base_setting)
        try:
            found = answers.document(body)
        except UnreadableError:
            return None
        if found.get("status") == "COMPLETED" and "payload" not in found:
            return Request(_request_url(task), _authorization(account))
        return None

    def build_check(self, account: Account) -> Request | None:
        """Return None: every request to the queue needs a model."""
        return None

    def read_check(self, head: Head, body: bytes) -> float | None:
        """Return None: fal does not tell how many credits are left."""
        return None

    def build_keys(self, account: Account) -> Request | None:
        """Return the request for fal's public keys."""
        return Request(account.keys_url, {})

    def read_keys(self, head: Head, body: bytes) -> tuple[str, ...]:
        """Return the public keys, in base64url."""
        found = answers.checked(head, body, "FAL_JWKS_URL").get("keys")
        keys = [key_of(one) for one in found] if isinstance(found, list) else []
        if usable := tuple(filter(None, keys)):
            return usable
        raise UnreadableError("no Ed25519 key in it")


def _authorization(account: Account) -> dict[str, str]:
    return {"Authorization": f"Key {account.key}"}


def _request_url(task: Task) -> str:
    """Return the address of a request: as fal named it, or by its app, without the subpath."""
    if task.poll_url:
        return task.poll_url.partition("?")[0].removesuffix("/status")
    if not task.model:  # a job that is known only from its ticket
        raise ProviderUnavailableError("fal is asked by app and request id; the app is not known")
    app = "/".join(task.model.split("/")[:2])
    return f"{task.base_url}/{app}/requests/{quote(task.provider_id, safe='')}"


def _id(found: dict[str, Any]) -> str | None:
    return answers.identifier(found.get("request_id"))


def _payload(found: dict[str, Any]) -> dict[str, Any]:
    return answers.part(found, "payload") if "payload" in found else found


def _request_ids(body: bytes) -> tuple[str | None, str | None]:
    """Return the request's id in a body, and the id of its last attempt (other after a retry).

    fal does not document which of them its header has.
    """
    try:
        found = answers.document(body)
    except UnreadableError:
        return None, None
    return _id(found), answers.identifier(found.get("gateway_request_id"))


def _is_result(head: Head, body: bytes) -> bool:
    """Return whether an answer with an error status is the reason why the request failed."""
    if head.is_success or head.redirects or head.status in _NOT_ABOUT_THE_TASK:
        return False
    try:
        detail = answers.document(body).get("detail")
    except UnreadableError:
        return False
    if head.status == _NOT_FOUND:
        raise NoSuchTaskError(answers.message(detail) or "fal does not know this request")
    if isinstance(detail, str) and "in progress" in detail.lower():
        raise ProviderUnavailableError(detail[:200])
    # fal's own trouble is a text, such as "Internal Server Error"; a model's errors are a list.
    return bool(detail) and (head.status < _SERVER_ERROR or isinstance(detail, list))


def _failure(
    found: dict[str, Any], payload: dict[str, Any], request_id: str | None, status: str
) -> Report:
    """Return why a request failed: fal's words, and whether the content was refused."""
    detail = payload.get("detail")
    words = answers.message(detail) or answers.message(found.get("error"))
    words = words or answers.text(found.get("payload_error"))
    kinds = (
        " ".join(str(one.get("type")) for one in detail if isinstance(one, dict))
        if (isinstance(detail, list))
        else ""
    )
    moderated = answers.is_moderated(f"{kinds} {words}")
    reason = Reason.INPUT_MODERATION if moderated else Reason.PROVIDER_ERROR
    return Report(Outcome.FAILED, request_id, status or "ERROR", reason=reason, message=words)
