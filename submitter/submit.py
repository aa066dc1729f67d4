"""The library behind the ``submitter`` command."""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from receiver.doctor import last_result
from receiver.errors import ConfigurationError, KeyTakenError
from receiver.jobs.request import DEFAULT_MODEL, JobRequest, mistakes
from receiver.jobs.schemas import JobView
from receiver.model import FINAL_STATES, Api, Mode, Provider, Submission
from receiver.services import Services
from receiver.settings import Settings
from receiver.telemetry import tracing
from receiver.worker.process import is_working
from submitter.images import reference_image

# Seconds between two looks at the ledger while waiting.
LOOK_EVERY = 0.2
# Jobs among which that of an interrupted submit is looked for.
_NEWEST = 50


class Submitter:
    """Submits jobs and watches them; a context manager. Reads the environment unless ``settings`` are given.

    Raises ConfigurationError for a wrong or missing setting and LedgerError when the ledger cannot be used.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        tracing.configure(os.environ)
        self._services = Services(settings or Settings.load(os.environ)).open()

    def __enter__(self) -> Self:
        """Use it in a ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._services.close()

    def submit(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        size: str | None = None,
        variants: int | None = None,
        images: Sequence[str] = (),
        params: Mapping[str, object] | None = None,
        provider: Provider = Provider.GRSAI,
        mode: Mode = Mode.WEBHOOK,
        api: Api = Api.DRAW,
        key: str | None = None,
    ) -> JobView:
        """Post one job and return it as it stands then; ``params`` reach the provider untouched.

        ``size`` is a ratio (``3:2``), pixels (``1024x1024``) or ``1K``, ``2K``, ``4K``; ``variants`` is how many pictures; ``images`` are
        reference pictures, URLs or local files. ``key`` is the caller's own name for the job: submitting it again returns the job that has
        it and pays nothing. A job the provider refused comes back ``failed`` and has not spent its key; one whose answer was lost comes
        back ``submitting`` and is never posted again. Raise ConfigurationError for an image that cannot be read, and for ``mode`` webhook
        where the last `receiver doctor` could not call us.

        With OpenAI there is one way, so ``mode`` and ``api`` say nothing: this returns when the pictures are made, which takes a minute or
        two, or with a job ``expired`` if the answer was lost. ``size`` is pixels there, and no reference pictures are taken.
        """
        what = {
            "model": model,
            "size": size,
            "variants": variants,
            "images": images,
            "params": params or {},
        }
        try:
            return self.post(prompt, **what, provider=provider, mode=mode, api=api, key=key)
        except KeyTakenError as error:
            return self.job(error.ref)

    def post(self, prompt: str, **asked: Any) -> JobView:
        """Do as ``submit`` does with the same arguments; raise KeyTakenError, with nothing posted, where another job has the key."""
        submission = submission_of({"prompt": prompt, **asked})
        by_callback = submission.provider is Provider.GRSAI and submission.mode is Mode.WEBHOOK
        if by_callback and (reason := why_no_callbacks(self._services.settings)):
            raise ConfigurationError([reason])
        job = self._services.submit_service.post(submission)
        # The worker's plans may have changed: it is to poll this job sooner than it would look by itself.
        self._services.engine.notify()
        return self.job(job.ref)

    def asks_for(self, ref: str, request: Mapping[str, Any]) -> bool:
        """Say whether a job was asked for by such arguments of ``submit``, whatever the way its result comes."""
        job = self._services.jobs.get(ref)
        params = json.loads(self._services.queries.params(ref))
        was = Submission(job.prompt, job.model, params, provider=Provider(job.provider))
        try:
            return asked_for(submission_of(request)) == asked_for(was)
        except (
            ConfigurationError
        ):  # a picture that is gone since cannot be compared, and is not needed either
            rest = submission_of({**request, "images": ()})
            return asked_for(rest) == asked_for(
                replace(
                    was, params={name: value for name, value in params.items() if name != "urls"}
                )
            )

    def posted_since(self, began: float, request: Mapping[str, Any]) -> JobView | None:
        """Return the one job that was written down since ``began`` for such arguments of ``submit``; None if it is none or several."""
        found = [
            job for job in self._services.queries.jobs(limit=_NEWEST) if job.submitted_at >= began
        ]
        same = [
            job.ref
            for job in found
            if job.key == request.get("key") and self.asks_for(job.ref, request)
        ]
        return self.job(same[0]) if len(same) == 1 else None

    def now(self) -> float:
        """Return the ledger's time, in seconds since 1970."""
        return self._services.now()

    def submit_many(
        self, requests: Iterable[Mapping[str, Any]], *, concurrency: int = 4
    ) -> Iterator[JobView]:
        """Post many jobs, ``concurrency`` at a time, and yield each as it stands after its submit, in the order of ``requests``.

        A request holds the arguments of ``submit`` by name. Requests are read as they are needed, so an endless iterable is fine. The
        first error ends the iteration; what was posted before goes on.
        """
        with ThreadPoolExecutor(concurrency) as hands:
            waiting: deque[Future[JobView]] = deque()
            for request in requests:
                waiting.append(hands.submit(self._submit_one, dict(request)))
                if len(waiting) >= 2 * concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _submit_one(self, request: dict[str, Any]) -> JobView:
        return self.submit(**request)

    def job(self, ref: str) -> JobView:
        """Return one job as it stands; raise KeyError if there is none."""
        return self.jobs([ref])[ref]

    def jobs(self, refs: Sequence[str]) -> dict[str, JobView]:
        """Return jobs as they stand, by ref; raise KeyError for one there is not."""
        queries = self._services.queries
        assets = queries.assets(list(refs))
        found = {
            job.ref: JobView.of(job, assets[job.ref]) for job in queries.jobs_named(list(refs))
        }
        return {ref: found[ref] for ref in refs}

    def wait(
        self,
        refs: Sequence[str],
        *,
        timeout: float | None = None,
        watch: Callable[[JobView], None] | None = None,
    ) -> list[JobView]:
        """Wait until every job is final and return them in order; ``watch`` is called with each job that changed meanwhile.

        Raise TimeoutError after ``timeout`` seconds. Something must be working on the ledger: see ``has_worker``.
        """
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        seen: dict[str, JobView] = {}
        while True:
            for ref, job in self.jobs(refs).items():
                if watch and seen.get(ref) != job:
                    watch(job)
                seen[ref] = job
            going_on = sum(job.state not in FINAL_STATES for job in seen.values())
            if not going_on:
                return list(seen.values())
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{going_on} of {len(seen)} jobs are not final after {timeout:.0f} s"
                )
            time.sleep(LOOK_EVERY)

    def has_worker(self) -> bool:
        """Say whether a worker of this DATA_DIR is alive; always True where workers may be on other machines."""
        return not self._services.settings.embedded or is_working(self._services.settings.data_dir)


def submission_of(request: Mapping[str, Any]) -> Submission:
    """Put arguments of ``submit`` into the provider's words; raise ConfigurationError for a wrong one, or a picture that cannot be read."""
    pictures = tuple(reference_image(image) for image in request.get("images", ()))
    try:
        return JobRequest.model_validate({**request, "images": pictures}).submission()
    except ValidationError as error:
        raise ConfigurationError(mistakes(error)) from error


def asked_for(submission: Submission) -> str:
    """Write down what is asked for, the same for the same job; how the result comes is no part of it."""
    return json.dumps(
        [submission.provider, submission.model, submission.prompt, submission.params],
        sort_keys=True,
    )


def why_no_callbacks(settings: Settings) -> str:
    """Say why callbacks would not come and what to do, by the last `receiver doctor`; "" if nothing is known against them."""
    failure = last_result.failure(settings.data_dir, settings.public_url)
    remedy = "mend it and run `receiver doctor` again, or use --mode poll"
    return (
        f"PUBLIC_URL: the last `receiver doctor` could not reach us through it: {failure}; {remedy}"
        if failure
        else ""
    )


def mode_without_choice(settings: Settings) -> tuple[Mode, str]:
    """Return the mode of a job for which none was chosen, and why it is not webhook, if it is not."""
    reason = why_no_callbacks(settings)
    return (Mode.POLL, reason) if reason else (Mode.WEBHOOK, "")


def key_of_try(key: str, number: int) -> str:
    """Return the key under which a job is posted for the ``number``-th time anew, after its provider failed and refunded it."""
    return f"{key} (again {number})"
