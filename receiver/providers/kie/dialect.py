"""kie.ai's jobs: https://docs.kie.ai/market/quickstart and …/common-api/webhook-verification.

The signature of a callback covers the task's id and the time, not what is said about the task.
Anyone who can read one callback could send another one with other URLs, so after every callback
kie.ai is polled.
"""

import hmac
import re
from base64 import b64encode
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import quote

from receiver.errors import (
    AnswerLostError,
    NoSuchTaskError,
    NotSentError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
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
from receiver.providers.task_dialect import TaskDialect, is_one_of, is_recent

# Codes in the body of answers, whose HTTP status is 200.
_OK, _NOT_FOUND, _TOO_MANY_REQUESTS = 200, 404, 429
_SERVER_ERRORS = range(500, 600)
_MS_PER_SECOND = 1000
_FAILED = frozenset({"fail", "failed", "error"})
_SUCCEEDED = frozenset({"success", "succeeded"})
_RESULT_LISTS = ("resultUrls", "result_urls", "resultUrl", "resultImageUrl")


class Kie(TaskDialect):
    """kie.ai."""

    provider = Provider.KIE
    title = "kie.ai"
    key_name = "KIE_API_KEY"
    base_setting = "KIE_BASE_URL"
    example = "google/nano-banana"
    sizes = "a ratio (16:9), or a param of the model, such as resolution=2K"
    image_param = 'image_urls=["https://…"]'
    hosts = ("api.kie.ai",)
    url_lifetime = 14 * 24 * 3600.0

    def pixel_params(self, width: int, height: int) -> dict[str, object]:
        """Return none: kie.ai has ratios only."""
        return {}

    def build_submit(
        self, account: Account, submission: Submission, callback: Callback | None
    ) -> Request:
        """Return the POST of a submit; params are fields of ``input``."""
        answers.model_path(submission.model, self.example)
        body: dict[str, object] = {
            "model": submission.model,
            "input": {**submission.params, "prompt": submission.prompt},
        }
        if callback:
            body["callBackUrl"] = callback.url
        url = f"{account.base_url}/api/v1/jobs/createTask"
        return Request(url, _authorization(account), body)

    def read_submit(self, head: Head, body: bytes) -> Accepted:
        """Return the task's id. Refusals have HTTP status 200 and another code."""
        found = answers.submitted(head, body, self.base_setting)
        code, words = _code(found), answers.message(found)
        task_id = _task_id(answers.part(found, "data"))
        if code == _TOO_MANY_REQUESTS:
            raise NotSentError(words or "kie.ai answered 429: too many requests")
        if code in _SERVER_ERRORS or (code == _OK and task_id is None):
            raise AnswerLostError(words or "kie.ai's answer has no taskId")
        if code != _OK or task_id is None:
            raise RefusedError(words or f"kie.ai answered code {code}", provider_id=task_id)
        return Accepted(task_id)

    def verify(self, headers: Headers, body: bytes, keys: Keys, now: float) -> Verified:
        """Verify the signature over task and time; it never proves more than the task."""
        timestamp = headers.get("X-Webhook-Timestamp", "")
        signature = headers.get("X-Webhook-Signature", "")
        if not keys.values:
            return Verified(Proof.TASK)  # proved by the ticket
        try:
            task_id = _task_id(_task(answers.document(body)))
        except UnreadableError:
            task_id = None
        if task_id is None or not is_recent(timestamp, now):
            return Verified(Proof.NONE)
        signed = f"{task_id}.{timestamp}".encode()
        is_valid = is_one_of(signature, (_signature(key, signed) for key in keys.values))
        return Verified(Proof.TASK if is_valid else Proof.NONE)

    def read_report(self, body: bytes) -> Report:
        """Read a callback in either of its shapes, or the answer to a poll."""
        found = answers.document(body)
        task = _task(found)
        task_id, code = _task_id(task), _code(found)
        if task_id is None:
            raise UnreadableError("the body names no task")
        state, made = answers.text(task.get("state")), self.made(found)
        word = state.lower()
        if word in _FAILED or (not word and code != _OK):
            words = answers.text(task.get("failMsg")) or answers.message(found) or state
            moderated = answers.is_moderated(words)
            reason = Reason.INPUT_MODERATION if moderated else Reason.PROVIDER_ERROR
            return Report(Outcome.FAILED, task_id, state or "fail", reason=reason, message=words)
        if word in _SUCCEEDED or (not word and made):
            kept, left_out = answers.results(made)
            made_at = answers.number(task.get("completeTime"))
            made_at = made_at / _MS_PER_SECOND if made_at else None
            return Report(
                Outcome.SUCCEEDED,
                task_id,
                state or "success",
                100,
                kept,
                left_out=left_out,
                made_at=made_at,
            )
        return Report(Outcome.RUNNING, task_id, state)

    def made(self, found: dict[str, Any]) -> list[object]:
        """Return the results of a task: in ``resultJson`` (JSON in a text), or in older fields.

        The same results may stand in several places, so only the first that has any counts.
        """
        task = _task(found)
        places: list[dict[str, Any]] = []
        result = task.get("resultJson")
        if isinstance(result, str) and result.strip():
            with suppress(UnreadableError):
                places.append(answers.document(result.encode("utf-8", "replace")))
        elif isinstance(result, dict):
            places.append(result)
        places += [answers.part(task, "info"), answers.part(task, "response")]
        values = (place.get(name) for place in places for name in _RESULT_LISTS)
        return list(islice(filter(None, values), 1))

    def build_poll(self, account: Account, task: Task) -> Request:
        """Return the request for a task."""
        path = f"/api/v1/jobs/recordInfo?taskId={quote(task.provider_id, safe='')}"
        return Request(task.base_url + path, _authorization(account))

    def read_poll(self, account: Account, task: Task, head: Head, body: bytes) -> Request | None:
        """Check that the answer is about the task, by its code."""
        super().read_poll(account, task, head, body)
        try:
            found = answers.document(body)
        except UnreadableError:
            return None
        if _task_id(_task(found)) is not None:
            return None
        words = answers.message(found) or f"kie.ai answered code {found.get('code')}"
        is_unknown = _code(found, None) in (_NOT_FOUND, _OK) or "null" in words.lower()
        raise (NoSuchTaskError if is_unknown else ProviderUnavailableError)(words)

    def build_check(self, account: Account) -> Request | None:
        """Return the request for our credits."""
        return Request(f"{account.base_url}/api/v1/chat/credit", _authorization(account))

    def read_check(self, head: Head, body: bytes) -> float | None:
        """Return the credits."""
        found = answers.checked(head, body, self.base_setting)
        if _code(found) != _OK:
            raise UnreadableError(answers.message(found) or f"code {found.get('code')}")
        return answers.number(found.get("data"))


def _authorization(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.key}"}


def _code(found: dict[str, Any], default: object = _OK) -> object:
    """Return the code of an answer, also if it is written as a text."""
    code = found.get("code", default)
    return int(code) if isinstance(code, str) and re.fullmatch("[0-9]{3}", code) else code


def _task(found: dict[str, Any]) -> dict[str, Any]:
    return answers.part(found, "data") or found


def _task_id(task: dict[str, Any]) -> str | None:
    return answers.identifier(task.get("taskId")) or answers.identifier(task.get("task_id"))


def _signature(key: str, signed: bytes) -> str:
    return b64encode(hmac.digest(key.encode(), signed, "sha256")).decode()
