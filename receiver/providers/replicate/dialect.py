"""Replicate's predictions: https://replicate.com/docs/reference/http and …/topics/webhooks.

Callbacks are signed by Standard Webhooks with a secret of our account, so a valid signature proves
the whole body. Outputs and their URLs are deleted an hour after the prediction has ended.
"""

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from receiver.errors import UnreadableError
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
from receiver.providers.task_dialect import TaskDialect, is_one_of, is_recent

_OUTCOMES = {
    "succeeded": Outcome.SUCCEEDED,
    "failed": Outcome.FAILED,
    "canceled": Outcome.FAILED,
    "aborted": Outcome.FAILED,
}
_VERSION = re.compile(r"(?:[A-Za-z0-9._-]+/[A-Za-z0-9._-]+:)?[0-9a-f]{64}", re.ASCII)
_OFFICIAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)


class Replicate(TaskDialect):
    """Replicate."""

    provider = Provider.REPLICATE
    title = "Replicate"
    key_name = "REPLICATE_API_TOKEN"
    base_setting = "REPLICATE_BASE_URL"
    example = "black-forest-labs/flux-schnell"
    sizes = "pixels (1024x768) or a ratio (16:9), or a param of the model"
    image_param = "image=https://…"
    hosts = ("api.replicate.com",)
    url_lifetime = 3600.0

    def count_params(self, model: str, api: Api, pictures: int) -> dict[str, object]:
        """Return the field for the number of pictures."""
        return {"num_outputs": pictures}

    def build_submit(
        self, account: Account, submission: Submission, callback: Callback | None
    ) -> Request:
        """Return the POST of a submit: by the model's version, or to an official model."""
        body: dict[str, object] = {"input": {**submission.params, "prompt": submission.prompt}}
        if callback:
            body |= {"webhook": callback.url, "webhook_events_filter": ["completed"]}
        url, model = f"{account.base_url}/v1", submission.model
        if _VERSION.fullmatch(model):
            body["version"] = model.rpartition(":")[2]
            return Request(f"{url}/predictions", _authorization(account), body)
        if not _OFFICIAL.fullmatch(model):
            raise ValueError(
                f"{model!r} is not a model's name, such as {self.example}, or a version, such as "
                "owner/name:64 hex digits"
            )
        return Request(f"{url}/models/{model}/predictions", _authorization(account), body)

    def read_submit(self, head: Head, body: bytes) -> Accepted:
        """Return the prediction's id, and where to ask for it."""
        found = answers.submitted(head, body, self.base_setting)
        prediction = self.accepted_id(found, "id")
        is_end = answers.text(found.get("status")) in _OUTCOMES
        poll_url = answers.poll_address(answers.part(found, "urls").get("get"))
        return Accepted(prediction, poll_url, is_end)

    def verify(self, headers: Headers, body: bytes, keys: Keys, now: float) -> Verified:
        """Verify a Standard Webhooks signature over id, time and the raw body."""
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        given = {name: headers.get(name, "") for name in names}
        if not given["webhook-signature"] or not keys.values:
            return Verified(Proof.TASK)  # proved by the ticket; the provider is polled
        if not given["webhook-id"] or not is_recent(given["webhook-timestamp"], now):
            return Verified(Proof.NONE)
        is_valid = any(_verifies(secret, given, body) for secret in keys.values)
        return Verified(Proof.BODY if is_valid else Proof.NONE)

    def read_report(self, body: bytes) -> Report:
        """Read a prediction."""
        found = answers.document(body)
        status, prediction = answers.text(found.get("status")), answers.identifier(found.get("id"))
        if not status and prediction is None:
            raise UnreadableError("the body is not a prediction")
        outcome = _OUTCOMES.get(status, Outcome.RUNNING)
        if outcome is Outcome.FAILED:
            words = answers.message(found.get("error")) or status
            moderated = answers.is_moderated(words)
            reason = Reason.OUTPUT_MODERATION if moderated else Reason.PROVIDER_ERROR
            return Report(outcome, prediction, status, reason=reason, message=words)
        if outcome is Outcome.RUNNING:
            return Report(outcome, prediction, status)
        made, left_out = answers.results(self.made(found))
        made_at = answers.moment(found.get("completed_at"))
        return Report(outcome, prediction, status, 100, made, left_out=left_out, made_at=made_at)

    def made(self, found: dict[str, Any]) -> list[object]:
        """Return the values of an output: a URL, a list of URLs, or an object with them."""
        output = found.get("output")
        return list(output.values()) if isinstance(output, dict) else [output]

    def build_poll(self, account: Account, task: Task) -> Request:
        """Return the request for a prediction."""
        path = f"/v1/predictions/{quote(task.provider_id, safe='')}"
        return Request(task.poll_url or task.base_url + path, _authorization(account))

    def download_headers(self, account: Account, url: str) -> dict[str, str]:
        """Return our token for a file of Replicate's API; most are at replicate.delivery."""
        return _authorization(account) if account.may_have_key(url, self.hosts) else {}

    def build_check(self, account: Account) -> Request | None:
        """Return the request for our account."""
        return Request(f"{account.base_url}/v1/account", _authorization(account))

    def read_check(self, head: Head, body: bytes) -> float | None:
        """Return None: Replicate does not tell how many credits are left."""
        answers.checked(head, body, self.base_setting)
        return None

    def build_keys(self, account: Account) -> Request | None:
        """Return the request for the secret of our account's callbacks."""
        return Request(f"{account.base_url}/v1/webhooks/default/secret", _authorization(account))

    def read_keys(self, head: Head, body: bytes) -> tuple[str, ...]:
        """Return the secret."""
        key = answers.text(answers.checked(head, body, self.base_setting).get("key"))
        if not key:
            raise UnreadableError("no secret in it")
        return (key,)


def _authorization(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.key}"}


def _verifies(secret: str, given: dict[str, str], body: bytes) -> bool:
    """Return whether a signature is the one that we would make with this secret.

    The package's own ``verify`` reads the machine's clock, and takes every spelling of base64.
    """
    at = datetime.fromtimestamp(int(given["webhook-timestamp"]), UTC)
    try:
        expected = Webhook(secret).sign(given["webhook-id"], at, body.decode())
    except (EmptyWebhookSecretError, ValueError):  # a malformed body or secret
        return False
    return any(is_one_of(one, [expected]) for one in given["webhook-signature"].split(" "))
