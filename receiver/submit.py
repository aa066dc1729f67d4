"""Paid once: the job row is written before the POST, and the POST is made again only where it cannot have reached the provider."""

import time
from collections.abc import Callable

import structlog

from receiver.errors import AnswerLostError, ConfigurationError, NotSentError, RefusedError
from receiver.ledger.ledger import Ledger
from receiver.ledger.rows import Job
from receiver.model import Mode, Submission
from receiver.providers import grsai
from receiver.providers.grsai_client import GrsaiClient
from receiver.tickets import Tickets

log = structlog.get_logger(__name__)

# Seconds before a submit that was never accepted is made again; after the last one it is given up.
BACK_OFF = (5.0, 10.0, 20.0)


class Desk:
    """Where jobs are handed in; ``public_url`` is how the provider reaches our callbacks, None where it cannot."""

    def __init__(
        self,
        ledger: Ledger,
        client: GrsaiClient | None,
        tickets: Tickets,
        base_url: str,
        public_url: str | None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._tickets = tickets
        self._base_url = base_url
        self._public_url = public_url
        self._pause = pause

    def submit(self, submission: Submission) -> Job:
        """Write the job down, post it, and return it as it stands then.

        ``waiting``: the provider has it. ``failed`` with reason ``refused``: it did not take it, nothing is owed. ``submitting``: the
        answer was lost; the callback will adopt the job, and nothing is posted again. Raise ConfigurationError before anything happens
        if a key or PUBLIC_URL is missing.
        """
        client = self._require(submission)
        job = self._ledger.submit(submission, self._base_url)
        request = grsai.build_submit(submission, self._web_hook(job))
        try:
            return self._ledger.accepted(job.ref, self._post(client, request, job))
        except (RefusedError, NotSentError) as error:
            return self._ledger.refused(job.ref, str(error))
        except AnswerLostError as error:
            log.warning("answer to a submit lost, its callback will tell", ref=job.ref, error=str(error))
            return job

    def _require(self, submission: Submission) -> GrsaiClient:
        """Name everything that is missing, at once."""
        mistakes = []
        if self._client is None:
            mistakes.append("GRSAI_API_KEY: not set; a job cannot be posted without the provider's key")
        if submission.mode is Mode.WEBHOOK and self._public_url is None:
            mistakes.append("PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll")
        if mistakes or self._client is None:
            raise ConfigurationError(mistakes)
        return self._client

    def _web_hook(self, job: Job) -> str:
        if job.mode is Mode.WEBHOOK:
            return f"{self._public_url}/callback/{self._tickets.sign(job.ref)}"
        return grsai.NO_WEBHOOK

    def _post(self, client: GrsaiClient, request: grsai.Request, job: Job) -> str:
        """Post until the provider answers; only what never reached it is posted again."""
        for wait in BACK_OFF:
            try:
                return client.submit(self._base_url, request)
            except NotSentError as error:
                log.warning("submit not sent, will be made again", ref=job.ref, seconds=wait, error=str(error))
                self._pause(wait)
        return client.submit(self._base_url, request)
