"""Submitting a job, so that it is paid only once.

The job's row is inserted before the POST, and the POST is repeated only if it cannot have reached
the provider.
"""

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
    RequestMistakeError,
)
from receiver.events.job_webhooks import UNSIGNED
from receiver.ingest.inbox import Inbox
from receiver.ingest.tickets import Tickets
from receiver.jobs.retry import store_with_retry
from receiver.jobs.stream import StreamReader
from receiver.jobs.sync import DirectCall
from receiver.ledger.jobs import Jobs
from receiver.ledger.rows import Job
from receiver.model import Api, Delivery, Mode, Provider, Source, Submission, new_ref
from receiver.providers.client import Clients, ProviderClient
from receiver.providers.dialect import Callback, Request
from receiver.providers.grsai.client import GrsaiClient
from receiver.providers.openai import protocol as openai_images
from receiver.providers.openai.client import OpenAIClient
from receiver.providers.registry import DIALECTS
from receiver.providers.transport import BeforeSend
from receiver.telemetry import tracing

log = structlog.get_logger(__name__)

# Seconds before each repetition of a submit that did not reach the provider.
BACK_OFF = (5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Post:
    """A prepared submit. ``send`` makes the request and calls its argument right before it.

    ``signer`` is the fingerprint of the secret that signed the callback URL, if there is one.
    """

    ref: str
    submission: Submission
    base_url: str
    send: Callable[[BeforeSend], None]
    signer: str | None = None


class SubmitService:
    """Submits jobs.

    ``public_url`` is our address for the provider, None if it cannot reach us; ``webhook_mistake``
    returns why a job's events cannot be sent to a URL, "" if they can.
    """

    def __init__(
        self,
        jobs: Jobs,
        inbox: Inbox,
        clients: Clients,
        tickets: Tickets,
        *,
        openai: OpenAIClient | None = None,
        public_url: str | None,
        webhook_mistake: Callable[[str], str] = lambda _: "",
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._inbox = inbox
        self._clients = clients
        self._tickets = tickets
        self._openai = openai
        self._public_url = public_url
        self._webhook_mistake = webhook_mistake
        self._pause = pause

    def submit(self, submission: Submission, back_off: Sequence[float] = BACK_OFF) -> Job:
        """Do the same as ``post``, but return the existing job if the key is taken."""
        try:
            return self.post(submission, back_off)
        except KeyTakenError as error:
            return self._jobs.get(error.ref)

    def post(self, submission: Submission, back_off: Sequence[float] = BACK_OFF) -> Job:
        """Insert the job, post it and return it; ``back_off`` are the seconds before repetitions.

        The state of the returned job says what happened:

        - ``waiting``: the provider took it.
        - ``failed`` with reason ``refused``: the provider did not take it, nothing is owed.
        - ``submitting``: the answer was lost. Nothing is posted again; a callback may still come.
        - ``archiving``: OpenAI answered with the pictures.

        Raise KeyTakenError if the key is taken, ConfigurationError if a setting is missing, and
        RequestMistakeError if only the request is wrong, for example its webhook; in all these
        cases nothing was posted.
        """
        post = (
            self._openai_post(submission)
            if submission.provider is Provider.OPENAI
            else self._task_post(submission)
        )
        if submission.key is not None and (holder := self._jobs.key_holder(submission.key)):
            raise KeyTakenError(submission.key, holder.ref)
        return self._post_until_answered(post, back_off)

    def _openai_post(self, submission: Submission) -> Post:
        missing, mistakes = self._webhook_mistakes(submission)
        if self._openai is None:
            missing.append(
                "OPENAI_API_KEY: not set; a job cannot be posted without the provider's key"
            )
        if missing or self._openai is None:
            raise ConfigurationError(missing + mistakes)
        if mistakes:
            raise RequestMistakeError(mistakes)
        ref, arguments = new_ref(clock.now()), openai_images.build_arguments(submission)
        call = DirectCall(self._openai, self._inbox, self._jobs, self._pause)
        return Post(ref, submission, self._openai.base_url, partial(call.make, arguments, ref))

    def _task_post(self, submission: Submission) -> Post:
        """Prepare a post; raise ConfigurationError with everything that is missing or wrong."""
        client = self._clients.get(submission.provider)
        missing, mistakes = self._missing_and_mistakes(submission)
        if missing or client is None:
            raise ConfigurationError(missing + mistakes)
        if mistakes:
            raise RequestMistakeError(mistakes)
        ref = new_ref(clock.now())
        callback, signer = self._callback(ref, submission)
        try:
            request = client.dialect.build_submit(client.account, submission, callback)
        except ValueError as error:
            raise RequestMistakeError([f"model: {error}"]) from error
        if submission.mode is Mode.STREAM and isinstance(client, GrsaiClient):
            sends = partial(self._stream, client, request, ref)
        else:
            sends = partial(self._post_task, client, request, ref)
        return Post(ref, submission, client.account.base_url, sends, signer)

    def _missing_and_mistakes(self, submission: Submission) -> tuple[list[str], list[str]]:
        """Return which settings are missing, and what is wrong in the request itself."""
        dialect = DIALECTS[submission.provider]
        missing, mistakes = self._webhook_mistakes(submission)
        mistakes += dialect.mistakes(submission)
        if self._clients.get(submission.provider) is None:
            missing.append(
                f"{dialect.key_name}: not set; a job cannot be posted without the provider's key"
            )
        if submission.mode is Mode.WEBHOOK and submission.api is Api.NEWER:
            mistakes.append(
                "--api api: the newer API has no callbacks; use --mode poll or --mode stream"
            )
        elif submission.mode is Mode.WEBHOOK and self._public_url is None:
            missing.append(
                "PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll"
            )
        return missing, mistakes

    def _webhook_mistakes(self, submission: Submission) -> tuple[list[str], list[str]]:
        """Return the same two lists about the webhook alone."""
        found = self._webhook_mistake(submission.webhook) if submission.webhook else ""
        return ([UNSIGNED], []) if found == UNSIGNED else ([], [found] if found else [])

    def _callback(self, ref: str, submission: Submission) -> tuple[Callback | None, str | None]:
        """Return where callbacks go, and the fingerprint of the secret that signed the URL."""
        if submission.mode is not Mode.WEBHOOK:
            return None, None
        ticket, signer = self._tickets.issue(ref, submission.provider)
        url = f"{self._public_url}/callback/{ticket}"
        return Callback(url, self._tickets.job_secrets(ref)[0]), signer

    def _post_task(
        self, client: ProviderClient, request: Request, ref: str, before_send: BeforeSend
    ) -> None:
        accepted, answer = client.submit(request, before_send)
        failpoints.reached(failpoints.Point.POSTED)
        store_with_retry(
            partial(self._jobs.record_accepted, ref, accepted.provider_id, accepted.poll_url),
            self._pause,
            ref=ref,
            provider_id=accepted.provider_id,
        )
        if accepted.is_end:
            # A quick provider answers the submit with the end of the task.
            provider = client.dialect.provider
            delivery = Delivery(ref, Source.POLL, answer, clock.now(), provider)
            store_with_retry(partial(self._inbox.accept, delivery), self._pause, ref=ref)

    def _stream(
        self, client: GrsaiClient, request: Request, ref: str, before_send: BeforeSend
    ) -> None:
        StreamReader(
            client,
            self._inbox,
            request,
            ref,
            before_send,
            pause=self._pause,
            refuse=partial(self._jobs.record_refused, ref),
            take=partial(self._jobs.record_accepted, ref),
        ).wait_for_first_event()

    def _post_until_answered(self, post: Post, back_off: Sequence[float]) -> Job:
        """Post, and repeat it after NotSentError; while we wait, the job has no row."""
        for wait in back_off:
            try:
                return self._post(post)
            except NotSentError as error:
                self._jobs.withdraw(post.ref)
                log.warning(
                    "submit not sent, will be retried",
                    ref=post.ref,
                    seconds=wait,
                    error=str(error),
                )
                self._pause(wait)
        try:
            return self._post(post)
        except NotSentError as error:
            self._jobs.withdraw(post.ref)
            self._insert(post)
            return self._jobs.record_refused(post.ref, f"never sent: {error}", answered=False)

    def _post(self, post: Post) -> Job:
        """Post once; raise NotSentError if the request certainly did not reach the provider."""
        try:
            with tracing.span("submit", post.ref, model=post.submission.model):
                post.send(partial(self._insert, post))
        except RefusedError as error:
            return self._jobs.record_refused(post.ref, str(error), error.provider_id)
        except AnswerLostError as error:
            log.warning(
                "answer to a submit lost, a callback may still come", ref=post.ref, error=str(error)
            )
        return self._jobs.get(post.ref)

    def _insert(self, post: Post) -> None:
        self._jobs.submit(post.submission, post.base_url, post.ref, signer=post.signer)
        failpoints.reached(failpoints.Point.WRITTEN_DOWN)
