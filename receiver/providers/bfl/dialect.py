"""BFL's tasks: https://docs.bfl.ai/quick_start/generating_images and …/integration_guidelines.

Each request names the secret that signs its callback, so every job has its own, and a valid
signature proves the whole body. A callback is repeated for 36 seconds only, and the picture can be
downloaded for ten minutes.
"""

import hmac
from typing import Any
from urllib.parse import quote

from receiver.errors import NoSuchTaskError, UnreadableError
from receiver.model import Outcome, Proof, Provider, Reason, Report, Submission
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
from receiver.providers.task_dialect import TaskDialect, is_one_of

_SUCCEEDED = frozenset({"ready", "success", "succeeded"})
_FAILED = {
    "request moderated": Reason.INPUT_MODERATION,
    "content moderated": Reason.OUTPUT_MODERATION,
    "error": Reason.PROVIDER_ERROR,
    "failed": Reason.PROVIDER_ERROR,
}
_NOT_FOUND = "task not found"
# Fields of the delivery, which callers may not set.
_OURS = frozenset({"webhook_url", "webhook_secret"})


class Bfl(TaskDialect):
    """BFL."""

    provider = Provider.BFL
    title = "BFL"
    key_name = "BFL_API_KEY"
    base_setting = "BFL_BASE_URL"
    example = "flux-2-pro"
    sizes = "pixels (1024x768) or, for a model that takes it, a ratio (16:9)"
    image_param = "input_image=https://…"
    hosts = ("bfl.ai",)
    url_lifetime = 600.0
    has_job_secrets = True

    def build_submit(
        self, account: Account, submission: Submission, callback: Callback | None
    ) -> Request:
        """Return the POST of a submit, with the secret of this job."""
        path = answers.model_path(submission.model, self.example)
        body = {name: value for name, value in submission.params.items() if name not in _OURS}
        body["prompt"] = submission.prompt
        if callback:
            body |= {"webhook_url": callback.url, "webhook_secret": callback.secret}
        return Request(f"{account.base_url}/v1/{path}", _authorization(account), body)

    def read_submit(self, head: Head, body: bytes) -> Accepted:
        """Return the task's id, and the address to poll, which only some answers have."""
        found = answers.submitted(head, body, self.base_setting)
        task_id = self.accepted_id(found, "id")
        return Accepted(task_id, answers.poll_address(found.get("polling_url")))

    def verify(self, headers: Headers, body: bytes, keys: Keys, now: float) -> Verified:
        """Verify the HMAC-SHA256 of the raw body with the secret of this job.

        The signature has no time. A replayed callback is a duplicate of the same job, and changes
        nothing.
        """
        signature = headers.get("X-BFL-Signature", "")
        if not signature:
            return Verified(Proof.TASK)  # proved by the ticket; the provider is polled
        is_valid = is_one_of(signature, (_signature(key, body) for key in keys.values))
        return Verified(Proof.BODY if is_valid else Proof.NONE)

    def read_report(self, body: bytes) -> Report:
        """Read a callback, or the answer to a poll."""
        found = answers.document(body)
        task_id = answers.identifier(found.get("id")) or answers.identifier(found.get("task_id"))
        status, word = answers.text(found.get("status")), answers.text(found.get("status")).lower()
        if not status and task_id is None:
            raise UnreadableError("the body is not a task")
        if word in _FAILED:
            details = (found.get("details"), found.get("error"), found.get("message"))
            words = answers.message(list(details)) or answers.message(found.get("result")) or status
            return Report(Outcome.FAILED, task_id, status, reason=_FAILED[word], message=words)
        if word not in _SUCCEEDED:
            progress = answers.number(found.get("progress")) or 0.0
            percent = progress * 100 if progress <= 1 else progress
            return Report(Outcome.RUNNING, task_id, status, max(0, min(99, int(percent))))
        made, left_out = answers.results(self.made(found))
        return Report(Outcome.SUCCEEDED, task_id, status, 100, made, left_out=left_out)

    def made(self, found: dict[str, Any]) -> list[object]:
        """Return the samples, or the only one."""
        result = answers.part(found, "result")
        return [result.get("samples") or result.get("sample")]

    def build_poll(self, account: Account, task: Task) -> Request:
        """Return the request for a task, at the address that BFL gave."""
        path = f"/v1/get_result?id={quote(task.provider_id, safe='')}"
        return Request(task.poll_url or task.base_url + path, _authorization(account))

    def read_poll(self, account: Account, task: Task, head: Head, body: bytes) -> Request | None:
        """Check that BFL knows the task; it says so with any status."""
        try:
            status = answers.text(answers.document(body).get("status")).lower()
        except UnreadableError:
            status = ""
        if status == _NOT_FOUND and not head.redirects:
            raise NoSuchTaskError("BFL does not know this task")
        return super().read_poll(account, task, head, body)

    def build_check(self, account: Account) -> Request | None:
        """Return the request for our credits."""
        return Request(f"{account.base_url}/v1/credits", _authorization(account))

    def read_check(self, head: Head, body: bytes) -> float | None:
        """Return the credits."""
        return answers.number(answers.checked(head, body, self.base_setting).get("credits"))


def _authorization(account: Account) -> dict[str, str]:
    return {"x-key": account.key}


def _signature(key: str, body: bytes) -> str:
    return f"sha256={hmac.digest(key.encode(), body, 'sha256').hex()}"
