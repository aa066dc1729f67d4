"""GRSAI as a dialect. Nothing is signed: the ticket in the callback URL is the only proof."""

from collections.abc import Mapping

from receiver.model import Proof, Provider, Submission
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
from receiver.providers.grsai import answers, families, reports, request

_BY_TICKET = Verified(Proof.TASK)


class Grsai:
    """GRSAI's two APIs."""

    provider = Provider.GRSAI
    key_name = "GRSAI_API_KEY"
    example = "gpt-image-1.5"
    hosts = ()
    url_lifetime = None
    signs_bodies = False
    has_job_secrets = False

    size_params = staticmethod(families.size_params)
    count_params = staticmethod(families.count_params)
    reference_params = staticmethod(families.reference_params)
    read_report = staticmethod(reports.read_report)
    read_picture = staticmethod(reports.read_picture)

    def mistakes(self, submission: Submission) -> list[str]:
        """Return nothing: ``families`` refuses what a family of models cannot do."""
        return []

    def build_submit(
        self, account: Account, submission: Submission, callback: Callback | None
    ) -> Request:
        """Return the POST of a submit; raise ValueError if the API does not have the model."""
        web_hook = callback.url if callback else request.NO_WEBHOOK
        return _sent(account, request.build_submit(submission, web_hook))

    def read_submit(self, head: Head, body: bytes) -> Accepted:
        """Return the task's id, and whether the answer is its end already."""
        found = answers.read_submit(head, body)
        return Accepted(found, is_end=reports.is_end(body, found))

    def verify(
        self,
        headers: Headers,
        body: bytes,
        keys: Keys,
        now: float,
    ) -> Verified:
        """Return what the ticket proves."""
        return _BY_TICKET

    def build_poll(self, account: Account, task: Task) -> Request:
        """Return the request that asks for a task, at the host it was posted to."""
        return _sent(account, request.build_result(task.api, task.provider_id), task.base_url)

    def read_poll(self, account: Account, task: Task, head: Head, body: bytes) -> Request | None:
        """Check that an answer is about the task."""
        answers.read_result(task.api, head, body, task.provider_id)
        return None

    def download_headers(self, account: Account, url: str) -> Mapping[str, str]:
        """Return none: anyone with the URL of a result can download it."""
        return {}

    def build_check(self, account: Account) -> Request | None:
        """Return the request for the credits."""
        asked = request.GrsaiCall(request.CREDITS_PATH, {"apiKey": account.key})
        return _sent(account, asked)

    def read_check(self, head: Head, body: bytes) -> float | None:
        """Return the credits."""
        return answers.read_credits(head, body)

    def build_keys(self, account: Account) -> Request | None:
        """Return None: nothing is signed."""
        return None

    def read_keys(self, head: Head, body: bytes) -> tuple[str, ...]:
        """Return no keys."""
        return ()


def _sent(account: Account, asked: request.GrsaiCall, base_url: str = "") -> Request:
    headers = {"Authorization": f"Bearer {account.key}"}
    return Request((base_url or account.base_url) + asked.path, headers, asked.body)
