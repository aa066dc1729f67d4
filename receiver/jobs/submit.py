"""Paid once: the job row is written before the POST, and the POST is made again only where it cannot have reached the provider."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from receiver import clock, failpoints
from receiver.errors import (
    AnswerLostError,
    ConfigurationError,
    KeyTakenError,
    NotSentError,
    RefusedError,
)
from receiver.ingest.inbox import Inbox
from receiver.ingest.tickets import Tickets
from receiver.jobs.retry import store_with_retry
from receiver.jobs.stream import StreamReader
from receiver.jobs.sync import DirectCall
from receiver.ledger.jobs import Jobs
from receiver.ledger.rows import Job
from receiver.model import Api, Mode, Provider, Submission, new_ref
from receiver.providers.grsai import protocol as grsai
from receiver.providers.grsai.client import BeforeSend, GrsaiClient
from receiver.providers.openai import protocol as openai_images
from receiver.providers.openai.client import OpenAIClient
from receiver.telemetry import tracing

log = structlog.get_logger(__name__)

# Seconds before a submit that never reached the provider is made again; after the last one it is given up.
BACK_OFF = (5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Post:
    """One submit about to be made: the job's ref, what is asked and where; ``send`` asks it, and calls its argument right before."""

    ref: str
    submission: Submission
    base_url: str
    send: Callable[[BeforeSend], None]


class SubmitService:
    """Where jobs are handed in; ``public_url`` is how the provider reaches our callbacks, None where it cannot."""

    def __init__(
        self,
        jobs: Jobs,
        inbox: Inbox,
        client: GrsaiClient | None,
        tickets: Tickets,
        *,
        openai: OpenAIClient | None = None,
        base_url: str,
        public_url: str | None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._inbox = inbox
        self._client = client
        self._tickets = tickets
        self._openai = openai
        self._base_url = base_url
        self._public_url = public_url
        self._pause = pause

    def submit(self, submission: Submission, back_off: Sequence[float] = BACK_OFF) -> Job:
        """Do as ``post`` does; a key that is spent gives the job that has it."""
        try:
            return self.post(submission, back_off)
        except KeyTakenError as error:
            return self._jobs.get(error.ref)

    def post(self, submission: Submission, back_off: Sequence[float] = BACK_OFF) -> Job:
        """Write the job down, post it, and return it as it stands then; ``back_off`` are the seconds before each repetition.

        ``waiting``: the provider has it. ``failed`` with reason ``refused``: it did not take it, nothing is owed. ``submitting``: the
        answer was lost; a callback, if one was asked for, adopts the job, and nothing is posted again. A job for OpenAI comes back when its
        pictures are made (``archiving``) or never will be. Raise KeyTakenError, with nothing posted, where the key is spent, and
        ConfigurationError before anything happens if the provider's key or PUBLIC_URL is missing.
        """
        post = (
            self._openai_post(submission)
            if submission.provider is Provider.OPENAI
            else self._grsai_post(submission)
        )
        if submission.key is not None and (holder := self._jobs.key_holder(submission.key)):
            raise KeyTakenError(submission.key, holder.ref)
        return self._post_until_answered(post, back_off)

    def _openai_post(self, submission: Submission) -> Post:
        if self._openai is None:
            raise ConfigurationError(
                ["OPENAI_API_KEY: not set; a job cannot be posted without the provider's key"]
            )
        ref, arguments = new_ref(clock.now()), openai_images.build_arguments(submission)
        call = DirectCall(self._openai, self._inbox, self._jobs, self._pause)
        return Post(ref, submission, self._openai.base_url, partial(call.make, arguments, ref))

    def _grsai_post(self, submission: Submission) -> Post:
        """Prepare a post, or name everything that is missing, at once."""
        mistakes = []
        if self._client is None:
            mistakes.append(
                "GRSAI_API_KEY: not set; a job cannot be posted without the provider's key"
            )
        if submission.mode is Mode.WEBHOOK and submission.api is Api.NEWER:
            mistakes.append(
                "--api api: the newer API has no callbacks; use --mode poll or --mode stream"
            )
        elif submission.mode is Mode.WEBHOOK and self._public_url is None:
            mistakes.append(
                "PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll"
            )
        if mistakes or self._client is None:
            raise ConfigurationError(mistakes)
        ref = new_ref(clock.now())
        request = grsai.build_submit(submission, self._web_hook(ref, submission))
        send = self._stream if submission.mode is Mode.STREAM else self._hand_over
        return Post(ref, submission, self._base_url, partial(send, self._client, request, ref))

    def _web_hook(self, ref: str, submission: Submission) -> str:
        if submission.mode is Mode.WEBHOOK:
            return f"{self._public_url}/callback/{self._tickets.sign(ref)}"
        return grsai.NO_WEBHOOK

    def _hand_over(
        self, client: GrsaiClient, request: grsai.Request, ref: str, before_send: BeforeSend
    ) -> None:
        provider_id = client.submit(self._base_url, request, before_send)
        failpoints.reached(failpoints.Point.POSTED)
        store_with_retry(
            partial(self._jobs.record_accepted, ref, provider_id),
            self._pause,
            ref=ref,
            provider_id=provider_id,
        )

    def _stream(
        self, client: GrsaiClient, request: grsai.Request, ref: str, before_send: BeforeSend
    ) -> None:
        StreamReader(
            client, self._inbox, self._base_url, request, ref, before_send, pause=self._pause
        ).first_word()

    def _post_until_answered(self, post: Post, back_off: Sequence[float]) -> Job:
        """Post; only what never reached the provider is posted again, and while we wait there is no job of it."""
        for wait in back_off:
            try:
                return self._post(post)
            except NotSentError as error:
                self._jobs.withdraw(post.ref)
                log.warning(
                    "submit not sent, will be made again",
                    ref=post.ref,
                    seconds=wait,
                    error=str(error),
                )
                self._pause(wait)
        try:
            return self._post(post)
        except NotSentError as error:
            self._jobs.withdraw(post.ref)
            self._write_down(post)
            return self._jobs.record_refused(post.ref, f"never sent: {error}")

    def _post(self, post: Post) -> Job:
        """Post once; raise NotSentError where that provably reached nobody."""
        try:
            with tracing.span("submit", post.ref, model=post.submission.model):
                post.send(partial(self._write_down, post))
        except RefusedError as error:
            return self._jobs.record_refused(post.ref, str(error))
        except AnswerLostError as error:
            log.warning(
                "answer to a submit lost, a callback may still tell", ref=post.ref, error=str(error)
            )
        return self._jobs.get(post.ref)

    def _write_down(self, post: Post) -> None:
        self._jobs.submit(post.submission, post.base_url, post.ref)
        failpoints.reached(failpoints.Point.WRITTEN_DOWN)
