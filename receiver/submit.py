"""Paid once: the job row is written before the POST, and the POST is made again only where it cannot have reached the provider."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from receiver.errors import AnswerLostError, ConfigurationError, KeyTakenError, NotSentError, RefusedError
from receiver.inbox import Inbox
from receiver.ledger.ledger import Ledger
from receiver.ledger.rows import Job
from receiver.model import Api, Mode, Submission, new_ref
from receiver.providers import grsai
from receiver.providers.grsai_client import GrsaiClient
from receiver.stream import StreamReader
from receiver.tickets import Tickets

log = structlog.get_logger(__name__)

# Seconds before a submit that never reached the provider is made again; after the last one it is given up.
BACK_OFF = (5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Post:
    """One submit about to be made: the job's ref, what is asked, and the request that asks it."""

    ref: str
    submission: Submission
    request: grsai.Request


class Desk:
    """Where jobs are handed in; ``public_url`` is how the provider reaches our callbacks, None where it cannot."""

    def __init__(
        self,
        ledger: Ledger,
        inbox: Inbox,
        client: GrsaiClient | None,
        tickets: Tickets,
        *,
        base_url: str,
        public_url: str | None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._inbox = inbox
        self._client = client
        self._tickets = tickets
        self._base_url = base_url
        self._public_url = public_url
        self._pause = pause

    def submit(self, submission: Submission) -> Job:
        """Write the job down, post it, and return it as it stands then.

        ``waiting``: the provider has it. ``failed`` with reason ``refused``: it did not take it, nothing is owed. ``submitting``: the
        answer was lost; a callback will adopt the job, and nothing is posted again. A key that is spent gives the job that has it. Raise
        ConfigurationError before anything happens if a key or PUBLIC_URL is missing.
        """
        client = self._require(submission)
        if submission.key is not None and (holder := self._ledger.key_holder(submission.key)):
            return holder
        ref = new_ref(self._ledger.now())
        post = Post(ref, submission, grsai.build_submit(submission, self._web_hook(ref, submission)))
        try:
            return self._post_until_answered(client, post)
        except KeyTakenError as error:
            # Somebody else spent the key since we looked, and nothing was posted.
            return self._ledger.job(error.ref)

    def _require(self, submission: Submission) -> GrsaiClient:
        """Name everything that is missing, at once."""
        mistakes = []
        if self._client is None:
            mistakes.append("GRSAI_API_KEY: not set; a job cannot be posted without the provider's key")
        if submission.mode is Mode.WEBHOOK and submission.api is Api.NEWER:
            mistakes.append("--api api: the newer API has no callbacks; use --mode poll or --mode stream")
        elif submission.mode is Mode.WEBHOOK and self._public_url is None:
            mistakes.append("PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll")
        if mistakes or self._client is None:
            raise ConfigurationError(mistakes)
        return self._client

    def _web_hook(self, ref: str, submission: Submission) -> str:
        if submission.mode is Mode.WEBHOOK:
            return f"{self._public_url}/callback/{self._tickets.sign(ref)}"
        return grsai.NO_WEBHOOK

    def _post_until_answered(self, client: GrsaiClient, post: Post) -> Job:
        """Post; only what never reached the provider is posted again, and while we wait there is no job of it."""
        for wait in BACK_OFF:
            try:
                return self._post(client, post)
            except NotSentError as error:
                self._ledger.withdraw(post.ref)
                log.warning("submit not sent, will be made again", ref=post.ref, seconds=wait, error=str(error))
                self._pause(wait)
        try:
            return self._post(client, post)
        except NotSentError as error:
            self._ledger.withdraw(post.ref)
            self._write_down(post)
            return self._ledger.refused(post.ref, f"never sent: {error}")

    def _post(self, client: GrsaiClient, post: Post) -> Job:
        """Post once; raise NotSentError where that provably reached nobody."""
        write_down = partial(self._write_down, post)
        try:
            if post.submission.mode is Mode.STREAM:
                StreamReader(client, self._inbox, self._base_url, post.request, post.ref, write_down).first_word()
                return self._ledger.job(post.ref)
            return self._ledger.accepted(post.ref, client.submit(self._base_url, post.request, write_down))
        except RefusedError as error:
            return self._ledger.refused(post.ref, str(error))
        except AnswerLostError as error:
            log.warning("answer to a submit lost, its callback will tell", ref=post.ref, error=str(error))
            return self._ledger.job(post.ref)

    def _write_down(self, post: Post) -> None:
        self._ledger.submit(post.submission, self._base_url, post.ref)
