"""The command ``submitter submit``: post one job."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from receiver.cli.base import SOME_FAILED, load, reports_errors, say, say_json
from receiver.cli.terminal import bar_shown
from receiver.errors import ConfigurationError, KeyTakenError, ReceiverError
from receiver.jobs.job_object import JobView
from receiver.jobs.request import DEFAULT_MODEL, takes_variants
from receiver.jobs.same_request import key_conflict
from receiver.model import FINAL_STATES, Api, JobState, Mode, Provider, Reason
from submitter.batch.output import folder_problem
from submitter.job import Job
from submitter.submit import NO_WORKER, Submitter, default_mode, resubmit_key, split_key

# Exit status after a signal, as shells expect it: 128 plus the signal's number.
SIGNALLED = 128


def _params(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> dict[str, object]:
    """Parse K=V pairs; V is parsed as JSON if it is JSON, else it is text."""
    params: dict[str, object] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{pair!r} is not K=V, such as quality=high")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params


@click.command()
@click.argument("prompt")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Any model of the provider; the name is sent unchanged.",
)
@click.option("--size", help="A ratio (3:2), pixels (1024x1024), or 1K, 2K, 4K.")
@click.option("--variants", type=click.IntRange(1), help="Number of pictures.")
@click.option(
    "--split",
    is_flag=True,
    help="Post a job for each of the --variants if the model makes fewer pictures a job.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    callback=_params,
    metavar="K=V",
    help="Another field of the request; repeatable.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE|URL",
    help="A reference picture; repeatable. Local files are sent with the request.",
)
@click.option(
    "--mode",
    type=click.Choice(["webhook", "poll", "stream"]),
    help="How the result arrives.  "
    "[default: webhook; poll if the last `receiver doctor` could not reach PUBLIC_URL]",
)
@click.option(
    "--api",
    type=click.Choice(["draw", "api"]),
    default="draw",
    show_default=True,
    help="GRSAI's older or newer API.",
)
@click.option(
    "--provider",
    type=click.Choice([provider.value for provider in Provider]),
    default="grsai",
    show_default=True,
    help="The provider; openai answers with the pictures.",
)
@click.option("--key", help="Your own name for the job; a second submit with it pays nothing.")
@click.option("--batch", help="Your own name for several jobs.")
@click.option(
    "--metadata",
    multiple=True,
    callback=_params,
    metavar="K=V",
    help="A value of your own to find the job by; repeatable.",
)
@click.option("--folder", default="", help="Folder of the archive for the pictures.")
@click.option("--webhook", metavar="URL", help="Where the events of this job are sent too.")
@click.option(
    "--resubmit",
    type=click.IntRange(0),
    default=0,
    help="With --wait: how many times to post the job again if the provider fails.",
)
@click.option("--wait", "waits", is_flag=True, help="Wait until the pictures are archived.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    help="Wait, and save the pictures in this directory, as REF-INDEX and the extension.",
)
@click.option("--timeout", type=click.FloatRange(0), help="Longest wait in seconds.")
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Post only if a worker, or the service at PUBLIC_URL, serves this ledger.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the job object on one line.")
@reports_errors
def submit(
    prompt: str,
    model: str,
    size: str | None,
    variants: int | None,
    params: dict[str, object],
    images: tuple[str, ...],
    mode: str | None,
    api: str,
    provider: str,
    key: str | None,
    batch: str | None,
    metadata: dict[str, object],
    folder: str,
    webhook: str | None,
    resubmit: int,
    *,
    split: bool,
    waits: bool,
    output: str | None,
    timeout: float | None,
    check: bool,
    as_json: bool,
) -> None:
    """Post one job, or with --split one for each picture.

    Exit status 1 if it failed, 2 for wrong usage or configuration, 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    settings = load()
    waits = waits or output is not None
    if mistakes := folder_problem(output):  # before anything is paid
        raise ConfigurationError(mistakes)
    if resubmit and not waits:
        raise click.UsageError("--resubmit needs --wait: without it no failure is seen")
    _require_fitting(provider, mode, api, resubmit)
    job_mode, reason = (Mode(mode), "") if mode else default_mode(settings)
    if reason and provider != Provider.OPENAI:
        say(reason, err=True)
        say("--mode was not given: the result is polled", err=True)
    request = {
        "prompt": prompt,
        "model": model,
        "size": size,
        "variants": variants,
        "images": images,
        "params": params,
        "provider": Provider(provider),
        "mode": job_mode,
        "api": Api(api),
        "batch": batch,
        "metadata": metadata,
        "folder": folder,
        "webhook": webhook,
    }
    with Submitter(settings, check=check) as submitter:
        runs = _runs(submitter, request, key, split=split)
        try:
            with _signals_raised():
                jobs = _submit_and_wait(runs, resubmit=resubmit, timeout=timeout, waits=waits)
        except _Interrupted as interrupt:
            for run in runs:
                _report_interrupted(run, as_json=as_json)
            sys.exit(SIGNALLED + interrupt.number)
        unsaved = 0
        for job in jobs:
            if as_json:
                say_json(job)
            _print_job(job, err=as_json)
            if output is not None:
                unsaved += _save(job, output, err=as_json)
    unfinished = waits and any(job.state not in FINAL_STATES for job in jobs)
    failed = any(job.state in {JobState.FAILED, JobState.EXPIRED} for job in jobs)
    sys.exit(SOME_FAILED if failed or unfinished or unsaved else 0)


def _require_fitting(provider: str, mode: str | None, api: str, resubmit: int) -> None:
    """Raise UsageError for options that are for another provider."""
    if provider == Provider.OPENAI and (
        resubmit or mode not in (None, Mode.WEBHOOK) or api != Api.DRAW
    ):
        raise click.UsageError(
            "--mode, --api and --resubmit are for the others: "
            "OpenAI answers with the pictures and refunds nothing"
        )
    if provider not in {Provider.GRSAI, Provider.OPENAI} and api != Api.DRAW:
        raise click.UsageError(f"--api is for GRSAI: {provider} has one API; leave it out")


class _Interrupted(KeyboardInterrupt):
    """The command received the signal ``number`` and must end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise _Interrupted on SIGINT and SIGTERM, unless the parent process ignores them."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise _Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


class _SubmitRun:
    """Posts one request, once for each key, and remembers its latest job."""

    def __init__(self, submitter: Submitter, request: dict[str, Any], key: str | None) -> None:
        self.submitter = submitter
        self.request = request
        self.key = key
        self.begun = False
        self.job: Job | None = None  # None while it is being posted
        self.began = submitter.now()

    def post(self, key: str | None) -> Job:
        """Post the request, or return the job that has the key.

        Raise ReceiverError if the job that has the key was asked for something else.
        """
        self.begun, self.job, self.began = True, None, self.submitter.now()
        self.request["key"] = key
        try:
            self.job = self.submitter.post(**self.request)
        except KeyTakenError as error:
            if not self.submitter.is_same_request(error.ref, self.request):
                conflict = key_conflict(
                    key or "", error.ref, self.request, self.submitter.is_same_request
                )
                raise ReceiverError(f"{conflict}: give it another --key") from error
            self.job = self.submitter.job(error.ref)
        return self.job

    def current_job(self) -> Job | None:
        """Return the job as it is now, also if only its row exists; None if it cannot be known."""
        if self.job is not None:
            return self.submitter.job(self.job.ref)
        return self.submitter.posted_since(self.began, self.request)


def _runs(
    submitter: Submitter, request: dict[str, Any], key: str | None, *, split: bool
) -> list[_SubmitRun]:
    """Return the run of a request, or one for each of its pictures if one job cannot make them."""
    count, provider = request["variants"], request["provider"]
    fits = provider is Provider.OPENAI or takes_variants(
        provider, request["model"], request["api"], count or 1
    )
    if not split or fits:
        return [_SubmitRun(submitter, request, key)]
    one = {**request, "variants": None}
    return [
        _SubmitRun(submitter, dict(one), split_key(key, number, count))
        for number in range(1, count + 1)
    ]


def _submit_and_wait(
    runs: list[_SubmitRun], *, resubmit: int, timeout: float | None, waits: bool
) -> list[Job]:
    """Post, wait if asked for, and post again while the provider fails."""
    with Console(stderr=True).status(f"asking {runs[0].request['provider']}"):
        jobs = [run.post(run.key) for run in runs]
    if not waits:
        return jobs
    return [_finish(run, resubmit=resubmit, timeout=timeout) for run in runs]


def _finish(run: _SubmitRun, *, resubmit: int, timeout: float | None) -> Job:
    """Wait for the job of a run, and post it again while the provider fails."""
    assert run.job is not None  # noqa: S101 - it was posted
    job, key = _wait(run.submitter, run.job, timeout), run.key
    for number in range(1, resubmit + 1):
        if job.reason is not Reason.PROVIDER_ERROR:
            break
        # Only this failure is worth a retry: GRSAI refunds it, and moderation would refuse again.
        # Each retry has its own key, so that it is also posted only once.
        say(f"{job.ref} {job.reason} {job.message}: posted again", err=True)
        job = run.post(resubmit_key(key, number) if key else None)
        job = _wait(run.submitter, job, timeout)
    return job


def _report_interrupted(run: _SubmitRun, *, as_json: bool) -> None:
    """Print which job goes on, so that the user does not pay for it twice."""
    job = None
    if not run.begun:
        return
    if not run.submitter.is_checked:
        say("nothing was posted", err=True)
        return
    with suppress(ReceiverError):
        job = run.current_job()
    if job is None:
        say("it may have been posted: look with receiver jobs", err=True)
        return
    say(f"{job.ref} goes on, look with: receiver show {job.ref}; do not submit it again", err=True)
    if as_json:
        say_json(job)


def _wait(submitter: Submitter, job: Job, timeout: float | None) -> Job:
    """Wait with a progress bar on stderr; after ``timeout`` seconds return the unfinished job."""
    if job.state in FINAL_STATES:
        return job
    if not submitter.has_worker():
        say(NO_WORKER, err=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with bar_shown(progress):
        bar = progress.add_task(f"{job.ref} {job.state}", total=100)

        def show(now: Job) -> None:
            progress.update(bar, description=f"{now.ref} {now.state}", completed=now.progress)

        try:
            return submitter.wait([job.ref], timeout=timeout, watch=show)[0]
        except TimeoutError as error:
            say(f"{error}; {job.ref} goes on, look with: receiver show {job.ref}", err=True)
            return submitter.job(job.ref)


def _save(job: Job, folder: str, *, err: bool) -> int:
    """Save the archived pictures of a job and print their paths; return how many failed."""
    failures = 0
    for asset in job.assets:
        if asset.key is None:
            continue
        try:
            say(str(asset.save(folder)), err=err)
        except ReceiverError as error:
            say(str(error), err=True)
            failures += 1
    return failures


def _print_job(job: JobView, *, err: bool) -> None:
    """Print the state of a job, why it failed, and its archived files."""
    say(f"{job.ref} {job.state}", err=err)
    if job.state is JobState.SUBMITTING:
        say(
            "  the answer to the submit was lost; if the job has a callback, it completes "
            "the job: do not submit it again",
            err=True,
        )
    if job.reason or job.message:
        say(f"  {' '.join(filter(None, [job.reason, job.message]))}", err=True)
    for asset in job.assets:
        if asset.key:
            say(f"  {asset.key} {asset.size} bytes {asset.sha256}", err=err)
