"""The library behind the ``submitter`` command."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

from receiver.errors import KeyTakenError, ReceiverError
from receiver.jobs.job_object import JobView
from receiver.jobs.request import DEFAULT_MODEL
from receiver.jobs.same_request import key_conflict
from receiver.model import FINAL_STATES, Api, JobState, Mode, Provider, Reason
from receiver.providers.registry import READERS
from receiver.settings import Settings
from receiver.telemetry import tracing
from submitter.http_jobs import HttpJobs
from submitter.job import Files, Job
from submitter.ledger_jobs import LedgerJobs, callback_problem

NO_WORKER = "no worker is running on this ledger: start `receiver serve`"


class Transport(Protocol):
    """How jobs are posted and read: with the ledger of this machine, or by HTTP."""

    @property
    def is_checked(self) -> bool:
        """Whether the check before the first POST is over."""

    @property
    def files(self) -> Files:
        """Where the bytes of pictures come from."""

    def require_service(self) -> None:
        """Raise ConfigurationError if no worker would archive a job's result; checked once."""

    def post(self, request: Mapping[str, Any]) -> str:
        """Post a job and return its ref; ``request`` are the arguments of ``submit``.

        Raise KeyTakenError, and post nothing, if a job has the key already; KeyConflictError if
        that is known to be another request; ConfigurationError for a wrong argument.
        """

    def is_same_request(self, ref: str, request: Mapping[str, Any]) -> bool:
        """Return whether a job was made by these arguments."""

    def now(self) -> float:
        """Return the ledger's time, in seconds since 1970."""

    def newest(self, since: float) -> Sequence[JobView]:
        """Return the newest jobs that were submitted since then."""

    def named(self, refs: Sequence[str]) -> Mapping[str, JobView]:
        """Return the jobs by ref; unknown refs are left out."""

    def states(self, refs: Sequence[str]) -> Mapping[str, tuple[JobState, Reason | None]]:
        """Return the states of a few hundred jobs; unknown refs are left out."""

    def key_holder(self, key: str) -> JobView | None:
        """Return the job that has a key; None if it is free."""

    def arguments_of(self, ref: str) -> dict[str, Any] | None:
        """Return the arguments that post a job again, without its key; None without the job."""

    def find(self, text: str, limit: int) -> Sequence[JobView]:
        """Return the newest jobs with a text in ref, model or prompt, or as their whole key."""

    def pause(self) -> None:
        """Wait for a change, or until the next check for one."""

    def has_worker(self) -> bool:
        """Return whether a worker archives the pictures."""

    def credits(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the credits left at each provider, and job counts by model.

        There is an entry for GRSAI and for each other provider with a key: ``provider``,
        ``credits`` (None if the provider does not tell or did not answer) and ``error``.
        """

    def close(self) -> None:
        """Close the connections."""


class Submitter:
    """Submits jobs and waits for them; a context manager.

    With ``url`` and ``token`` (or RECEIVER_URL and ADMIN_TOKEN) it works through the HTTP API of a
    service elsewhere, else with the ledger of this machine: same results, same errors.

    Reads the environment unless ``settings`` or ``url`` are given. Raises ConfigurationError for a
    wrong or missing setting, or without a ledger, and LedgerError if the ledger, or the service,
    cannot be used.

    ``check``: before the first POST make sure that a worker would archive the result, see
    ``submitter.preflight``. Without it a ledger is created if there is none.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        check: bool = True,
        url: str | None = None,
        token: str | None = None,
    ) -> None:
        tracing.configure(os.environ)
        if url is None:
            settings = settings or Settings.load(os.environ)
            url, given = settings.receiver_url, settings.admin_token
            token = token or (given.get_secret_value() if given else None)
        self._jobs: Transport
        if url is not None:
            self._jobs = HttpJobs(url, token, check=check)
        else:
            self._jobs = LedgerJobs(settings or Settings.load(os.environ), check=check)

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
        self._jobs.close()

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
        webhook: str | None = None,
    ) -> Job:
        """Post one job and return it as it is after the submit.

        ``params`` are sent to the provider unchanged. ``size`` is a ratio (``3:2``), pixels
        (``1024x1024``) or ``1K``, ``2K``, ``4K``; ``variants`` is the number of pictures;
        ``images`` are reference pictures, URLs or local files. ``key`` is the caller's own name
        for the job: a second submit with the same key returns the existing job and pays nothing.
        ``batch`` is your name for several jobs, ``metadata`` a small JSON object of your own;
        ``folder`` is a folder of the archive for the pictures. ``webhook`` is a URL that gets the
        job's events, signed with EVENT_SECRET.

        A job that the provider refused comes back ``failed``; its key can be used again. A job
        whose submit answer was lost comes back ``submitting`` and is never posted again.

        With OpenAI, ``mode`` and ``api`` have no effect: the call returns when the pictures are
        made, after a minute or two, or with a job ``expired`` if the answer was lost. ``size`` is
        in pixels and no reference pictures are accepted.

        Raise KeyConflictError if the job that has the key was asked for something else. Raise
        ConfigurationError for an image that cannot be read, and for a ``webhook`` to which events
        cannot be sent. Also raise it if no worker would archive the result, and for ``mode``
        webhook if the last `receiver doctor` could not reach PUBLIC_URL.
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
            "webhook": webhook,
            "provider": provider,
            "mode": mode,
            "api": api,
        }
        try:
            return self.post(prompt, **asked, key=key)
        except KeyTakenError as error:
            request = {"prompt": prompt, **asked}
            if not self.is_same_request(error.ref, request):
                raise key_conflict(key or "", error.ref, request, self.is_same_request) from error
            return self.job(error.ref)

    def post(self, prompt: str, **asked: Any) -> Job:
        """Post one job; the arguments are those of ``submit``.

        Raise KeyTakenError, and post nothing, if a job has the key already.
        """
        return self.job(self._jobs.post({"prompt": prompt, **asked}))

    @property
    def is_checked(self) -> bool:
        """Return whether the check before the first POST is over; before that nothing is posted."""
        return self._jobs.is_checked

    def require_service(self) -> None:
        """Raise ConfigurationError if no worker would archive a job's result; checked once."""
        self._jobs.require_service()

    def is_same_request(self, ref: str, request: Mapping[str, Any]) -> bool:
        """Return whether a job was made by these arguments; see ``receiver.jobs.same_request``."""
        return self._jobs.is_same_request(ref, request)

    def posted_since(self, began: float, request: Mapping[str, Any]) -> Job | None:
        """Return the job that was created since ``began`` (ledger time) by these arguments.

        Return None if there is no such job, or more than one.
        """
        same = [
            job.ref
            for job in self._jobs.newest(began)
            if job.key == request.get("key") and self.is_same_request(job.ref, request)
        ]
        return self.job(same[0]) if len(same) == 1 else None

    def now(self) -> float:
        """Return the ledger's time, in seconds since 1970."""
        return self._jobs.now()

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
        found, files = self._jobs.named(refs), self._jobs.files
        return {ref: Job.of_view(found[ref], files) for ref in refs}

    @property
    def transport(self) -> Transport:
        """How jobs are posted and read; for the commands."""
        return self._jobs

    def credits(self, provider: Provider = Provider.GRSAI) -> float | None:
        """Return the credits left at a provider, None if it does not say what is left.

        Raise ReceiverError if it cannot be asked.
        """
        balances, _ = self._jobs.credits()
        for one in balances:
            if one["provider"] == provider:
                if one["error"]:
                    raise ReceiverError(one["error"])
                return one["credits"] if one["credits"] is None else float(one["credits"])
        raise ReceiverError(f"{READERS[provider].key_name} is not set, or its credits not asked")

    def find(self, text: str = "", limit: int = 50) -> list[Job]:
        """Return the newest jobs with a text in ref, model or prompt, or as their whole key."""
        return [Job.of_view(job, self._jobs.files) for job in self._jobs.find(text, limit)]

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
            self._jobs.pause()

    def has_worker(self) -> bool:
        """Return whether a worker serves this ledger."""
        return self._jobs.has_worker()


def default_mode(settings: Settings) -> tuple[Mode, str]:
    """Return the mode for jobs without one and, if it is not webhook, the reason."""
    reason = "" if settings.receiver_url else callback_problem(settings)
    return (Mode.POLL, reason) if reason else (Mode.WEBHOOK, "")


def split_key(key: str | None, number: int, count: int) -> str | None:
    """Return the key of one of ``count`` jobs that a request for several pictures is split into."""
    return f"{key} ({number} of {count})" if key else None


def resubmit_key(key: str, number: int) -> str:
    """Return the key of a job's ``number``-th resubmit, made after the provider refunded it."""
    return f"{key} (again {number})"
