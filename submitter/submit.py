"""The library behind the ``submitter`` command."""

import base64
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from receiver.archive.inspect import inspect
from receiver.doctor import last_result
from receiver.errors import (
    ConfigurationError,
    KeyConflictError,
    KeyTakenError,
    NotThePictureError,
)
from receiver.jobs.request import DEFAULT_MODEL, JobRequest, mistakes
from receiver.jobs.same_request import canonical_request, request_of, without_pictures
from receiver.model import FINAL_STATES, Api, Mode, Provider, Submission
from receiver.services import Services
from receiver.settings import Settings
from receiver.telemetry import tracing
from submitter import preflight
from submitter.job import Job, LedgerFiles

# Seconds between two polls of the ledger while waiting.
POLL_EVERY = 0.2
# The job of an interrupted submit is searched among so many newest jobs.
_NEWEST = 50
# Bytes of a local image file; base64 makes it a third larger.
_LARGEST_IMAGE = 20 * 1024 * 1024
NO_WORKER = "no worker is running on this ledger: start `receiver serve`"


class Submitter:
    """Submits jobs and waits for them; a context manager.

    Reads the environment unless ``settings`` are given. Raises ConfigurationError for a wrong or
    missing setting, or without a ledger, and LedgerError if the ledger cannot be used.

    ``check``: before the first POST make sure that somebody would archive the result, see
    ``submitter.preflight``. Without it a ledger is created if there is none.
    """

    def __init__(self, settings: Settings | None = None, *, check: bool = True) -> None:
        tracing.configure(os.environ)
        self._services = Services(settings or Settings.load(os.environ))
        self._is_checked = not check
        self._checking = Lock()
        if check:
            preflight.require_ledger(self._services)
        self._services.open()

    def __enter__(self) -> Self:
        """Return the submitter."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._services.close()

    def submit(  # noqa: PLR0913 - each is an option, given by name
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
        batch: str | None = None,
        metadata: Mapping[str, object] | None = None,
        folder: str = "",
    ) -> Job:
        """Post one job and return it as it is after the submit.

        ``params`` are sent to the provider unchanged. ``size`` is a ratio (``3:2``), pixels
        (``1024x1024``) or ``1K``, ``2K``, ``4K``; ``variants`` is the number of pictures;
        ``images`` are reference pictures, URLs or local files. ``key`` is the caller's own name
        for the job: a second submit with the same key returns the existing job and pays nothing.
        ``batch`` is your name for several jobs, ``metadata`` a small JSON object of your own;
        ``folder`` is a folder of the archive for the pictures.

        A job that the provider refused comes back ``failed``; its key can be used again. A job
        whose submit answer was lost comes back ``submitting`` and is never posted again.

        With OpenAI, ``mode`` and ``api`` have no effect: the call returns when the pictures are
        made, after a minute or two, or with a job ``expired`` if the answer was lost. ``size`` is
        in pixels and no reference pictures are accepted.

        Raise KeyConflictError if the job that has the key was asked for something else. Raise
        ConfigurationError for an image that cannot be read, for ``mode`` webhook if the last
        `receiver doctor` could not reach PUBLIC_URL, and if nobody would archive the result.
        """
        asked = {
            "model": model,
            "size": size,
            "variants": variants,
            "images": images,
            "params": params or {},
            "batch": batch,
            "metadata": metadata or {},
            "folder": folder,
            "provider": provider,
            "mode": mode,
            "api": api,
        }
        try:
            return self.post(prompt, **asked, key=key)
        except KeyTakenError as error:
            if not self.is_same_request(error.ref, {"prompt": prompt, **asked}):
                raise KeyConflictError(key or "", error.ref) from error
            return self.job(error.ref)

    def post(self, prompt: str, **asked: Any) -> Job:
        """Post one job; the arguments are those of ``submit``.

        Raise KeyTakenError, and post nothing, if a job has the key already.
        """
        submission = submission_of({"prompt": prompt, **asked})
        by_callback = submission.mode is Mode.WEBHOOK
        if by_callback and (reason := callback_problem(self._services.settings)):
            raise ConfigurationError([reason])
        self.require_service()
        job = self._services.submit_service.post(submission)
        # The worker polls this job sooner than its next scheduled check.
        self._services.engine.notify()
        return self.job(job.ref)

    @property
    def is_checked(self) -> bool:
        """Return whether the check before the first POST is over; before that nothing is posted."""
        return self._is_checked

    def require_service(self) -> None:
        """Raise ConfigurationError if nobody would archive a job's result; checked once."""
        with self._checking:
            if not self._is_checked:
                preflight.require_service(self._services)
                self._is_checked = True

    def is_same_request(self, ref: str, request: Mapping[str, Any]) -> bool:
        """Return whether a job was made by these arguments; see ``receiver.jobs.same_request``."""
        was = request_of(self._services.queries, self._services.jobs.get(ref))
        try:
            return canonical_request(submission_of(request)) == canonical_request(was)
        except ConfigurationError:
            # An image file was deleted since: it is not needed again, so compare without images.
            rest = submission_of({**request, "images": ()})
            return canonical_request(rest) == canonical_request(without_pictures(was))

    def posted_since(self, began: float, request: Mapping[str, Any]) -> Job | None:
        """Return the job that was created since ``began`` (ledger time) by these arguments.

        Return None if there is no such job, or more than one.
        """
        newest = self._services.queries.jobs(limit=_NEWEST)
        same = [
            job.ref
            for job in newest
            if job.submitted_at >= began
            and job.key == request.get("key")
            and self.is_same_request(job.ref, request)
        ]
        return self.job(same[0]) if len(same) == 1 else None

    def now(self) -> float:
        """Return the ledger's time, in seconds since 1970."""
        return self._services.now()

    def submit_many(
        self, requests: Iterable[Mapping[str, Any]], *, concurrency: int = 4
    ) -> Iterator[Job]:
        """Post many jobs, ``concurrency`` in parallel; yield each in the order of ``requests``.

        A request holds the arguments of ``submit`` by name. Requests are read when they are needed,
        so an endless iterable is allowed. The first error ends the iteration; jobs posted before
        it go on.
        """
        with ThreadPoolExecutor(concurrency) as pool:
            waiting: deque[Future[Job]] = deque()
            for request in requests:
                waiting.append(pool.submit(self._submit_one, dict(request)))
                if len(waiting) >= 2 * concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _submit_one(self, request: dict[str, Any]) -> Job:
        return self.submit(**request)

    def job(self, ref: str) -> Job:
        """Return the current state of one job; raise KeyError if there is none."""
        return self.jobs([ref])[ref]

    def jobs(self, refs: Sequence[str]) -> dict[str, Job]:
        """Return the current state of jobs, by ref; raise KeyError for an unknown ref."""
        found, files = self._services.job_objects.named(refs), LedgerFiles(self._services)
        return {ref: Job.of_view(found[ref], files) for ref in refs}

    def wait(
        self,
        refs: Sequence[str],
        *,
        timeout: float | None = None,
        watch: Callable[[Job], None] | None = None,
    ) -> list[Job]:
        """Wait until every job is final and return them in order.

        ``watch`` is called with each job that changed. Raise TimeoutError after ``timeout``
        seconds. A worker must be running on the ledger: see ``has_worker``.
        """
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        seen: dict[str, Job] = {}
        while True:
            for ref, job in self.jobs(refs).items():
                if watch and seen.get(ref) != job:
                    watch(job)
                seen[ref] = job
            unfinished = sum(job.state not in FINAL_STATES for job in seen.values())
            if not unfinished:
                return list(seen.values())
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{unfinished} of {len(seen)} jobs are not final after {timeout:.0f} s"
                )
            time.sleep(POLL_EVERY)

    def has_worker(self) -> bool:
        """Return whether a worker serves this ledger."""
        return self._services.has_worker()


def submission_of(request: Mapping[str, Any]) -> Submission:
    """Translate arguments of ``submit`` into a Submission.

    Raise ConfigurationError for a wrong argument or an image that cannot be read.
    """
    pictures = tuple(reference_image(image) for image in request.get("images", ()))
    try:
        return JobRequest.model_validate({**request, "images": pictures}).submission()
    except ValidationError as error:
        raise ConfigurationError(mistakes(error)) from error


def reference_image(given: str) -> str:
    """Return a URL as it is, and a local file as a data URI.

    Raise ConfigurationError for a file that is no picture, cannot be read, or is too large.
    """
    if given.startswith(("http://", "https://", "data:")):
        return given
    path = Path(given)
    try:
        if not path.is_file():
            raise _image_error(given, "there is no such file; give a URL or a readable file")
        if path.stat().st_size > _LARGEST_IMAGE:
            raise _image_error(
                given, f"more than {_LARGEST_IMAGE // 1024**2} MiB; give a URL instead"
            )
        picture = inspect(path)
        return f"data:{picture.content_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise _image_error(given, f"{error.strerror}; give a URL or a readable file") from error
    except NotThePictureError as error:
        raise _image_error(given, str(error)) from error


def _image_error(given: str, problem: str) -> ConfigurationError:
    return ConfigurationError([f"--image {given}: {problem}"])


def callback_problem(settings: Settings) -> str:
    """Return why callbacks would not arrive, by the last `receiver doctor`; "" if they would."""
    failure = last_result.failure(settings.data_dir, settings.public_url)
    if not failure:
        return ""
    return (
        f"PUBLIC_URL: the last `receiver doctor` could not reach us through it: {failure}; "
        "correct it and run `receiver doctor` again, or use --mode poll"
    )


def default_mode(settings: Settings) -> tuple[Mode, str]:
    """Return the mode for jobs without one and, if it is not webhook, the reason."""
    reason = callback_problem(settings)
    return (Mode.POLL, reason) if reason else (Mode.WEBHOOK, "")


def split_key(key: str | None, number: int, count: int) -> str | None:
    """Return the key of one of ``count`` jobs that a request for several pictures is split into."""
    return f"{key} ({number} of {count})" if key else None


def resubmit_key(key: str, number: int) -> str:
    """Return the key of a job's ``number``-th resubmit, made after the provider refunded it."""
    return f"{key} (again {number})"
