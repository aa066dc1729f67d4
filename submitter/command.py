"""``submitter submit``: one job."""

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

from receiver.cli.base import SOME_FAILED, load, plain, reports_errors
from receiver.errors import KeyTakenError, ReceiverError
from receiver.jobs.request import DEFAULT_MODEL
from receiver.jobs.schemas import JobView
from receiver.model import FINAL_STATES, Api, JobState, Mode, Provider, Reason
from submitter.submit import Submitter, key_of_try, mode_without_choice

# Exit status after a signal, as shells expect it: this and the signal's number.
SIGNALLED = 128


def _params(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> dict[str, object]:
    """Read K=V pairs; V is JSON where it is JSON, else text."""
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
    help="Any model of the provider; names are passed through.",
)
@click.option("--size", help="A ratio (3:2), pixels (1024x1024), or 1K, 2K, 4K.")
@click.option("--variants", type=click.IntRange(1), help="How many pictures.")
@click.option(
    "--param",
    "params",
    multiple=True,
    callback=_params,
    metavar="K=V",
    help="Any other field of the request; repeatable.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE|URL",
    help="A reference picture; repeatable. Files are sent along.",
)
@click.option(
    "--mode",
    type=click.Choice(["webhook", "poll", "stream"]),
    help="How the result comes.  [default: webhook; poll where the last `receiver doctor` could not call us]",
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
    type=click.Choice(["grsai", "openai"]),
    default="grsai",
    show_default=True,
    help="Whom to ask; openai answers at once.",
)
@click.option("--key", help="Your own name for the job; submitted again, it pays nothing twice.")
@click.option(
    "--resubmit",
    type=click.IntRange(0),
    default=0,
    help="With --wait: post anew, so many times, what failed at the provider.",
)
@click.option("--wait", "waits", is_flag=True, help="Wait until the pictures are archived.")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds to wait at most.")
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
    resubmit: int,
    *,
    waits: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Post one job. Exit status 1 if it failed, 2 for wrong usage or configuration, 130 after Ctrl-C, 143 after SIGTERM."""
    settings = load()
    if resubmit and not waits:
        raise click.UsageError("--resubmit needs --wait: only who waits sees a job fail")
    if provider == Provider.OPENAI and (
        resubmit or mode not in (None, Mode.WEBHOOK) or api != Api.DRAW
    ):
        raise click.UsageError(
            "--mode, --api and --resubmit are for GRSAI: OpenAI answers at once, and refunds nothing"
        )
    way, reason = (Mode(mode), "") if mode else mode_without_choice(settings)
    if reason and provider == Provider.GRSAI:
        click.echo(f"{reason}\n--mode was not given: the result is polled", err=True)
    with Submitter(settings) as submitter:
        what = {
            "prompt": prompt,
            "model": model,
            "size": size,
            "variants": variants,
            "images": images,
            "params": params,
        }
        errand = _Errand(
            submitter, {**what, "provider": Provider(provider), "mode": way, "api": Api(api)}
        )
        try:
            with _signals_raised():
                job = _carry_out(errand, key, resubmit=resubmit, timeout=timeout, waits=waits)
        except _Interrupted as stop:
            _leave(errand, as_json=as_json)
            sys.exit(SIGNALLED + stop.number)
    if as_json:
        click.echo(job.model_dump_json())
    _tell(job, err=as_json)
    failed = job.state in {JobState.FAILED, JobState.EXPIRED} or (
        waits and job.state not in FINAL_STATES
    )
    sys.exit(SOME_FAILED if failed else 0)


class _Interrupted(KeyboardInterrupt):
    """Somebody wants us to end, by the signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise _Interrupted at SIGINT and SIGTERM, unless we were started to ignore them."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise _Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


class _Errand:
    """One submit with all its arguments but the key; knows the job as it stood last, None while it is being posted."""

    def __init__(self, submitter: Submitter, request: dict[str, Any]) -> None:
        self.submitter = submitter
        self.request = request
        self.job: JobView | None = None
        self.began = submitter.now()

    def post(self, key: str | None) -> JobView:
        """Post it, or return the job that has the key; raise ReceiverError if that was asked for something else."""
        self.job, self.began = None, self.submitter.now()
        self.request["key"] = key
        try:
            self.job = self.submitter.post(**self.request)
        except KeyTakenError as error:
            if not self.submitter.asks_for(error.ref, self.request):
                raise ReceiverError(
                    f"{error}, which was asked for something else; nothing posted: give it another --key"
                ) from error
            self.job = self.submitter.job(error.ref)
        return self.job

    def known(self) -> JobView | None:
        """Return the job as it stands, also where its row is all there is; None if nobody can know it."""
        if self.job is not None:
            return self.submitter.job(self.job.ref)
        return self.submitter.posted_since(self.began, self.request)


def _carry_out(
    errand: _Errand, key: str | None, *, resubmit: int, timeout: float | None, waits: bool
) -> JobView:
    """Post, wait if that is asked for, and post anew what the provider failed."""
    with Console(stderr=True).status(f"asking {errand.request['provider']}"):
        job = errand.post(key)
    if waits:
        job = _wait(errand.submitter, job, timeout)
    for number in range(1, resubmit + 1):
        if job.reason is not Reason.PROVIDER_ERROR:
            break
        # The provider refunds this one; moderation would only say no again. Each try has a key of its own, so that it too is paid once.
        click.echo(plain(f"{job.ref} {job.reason} {job.message}: posted anew"), err=True)
        job = _wait(
            errand.submitter, errand.post(key_of_try(key, number) if key else None), timeout
        )
    return job


def _leave(errand: _Errand, *, as_json: bool) -> None:
    """Say which job goes on, so that nobody pays for it twice."""
    job = None
    with suppress(ReceiverError):
        job = errand.known()
    if job is None:
        click.echo("it may have been posted: look with receiver jobs", err=True)
        return
    click.echo(
        f"{job.ref} goes on, look with: receiver show {job.ref}; do not submit it again", err=True
    )
    if as_json:
        click.echo(job.model_dump_json())


def _wait(submitter: Submitter, job: JobView, timeout: float | None) -> JobView:
    """Wait behind a progress bar on stderr; an interrupted or too long wait leaves the job going on."""
    if job.state in FINAL_STATES:
        return job
    if not submitter.has_worker():
        click.echo("nothing works on this ledger now: start `receiver serve`", err=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{job.ref} {job.state}", total=100)

        def show(seen: JobView) -> None:
            progress.update(bar, description=f"{seen.ref} {seen.state}", completed=seen.progress)

        try:
            return submitter.wait([job.ref], timeout=timeout, watch=show)[0]
        except TimeoutError as error:
            click.echo(f"{error}; {job.ref} goes on, look with: receiver show {job.ref}", err=True)
            return submitter.job(job.ref)


def _tell(job: JobView, *, err: bool) -> None:
    """Say in a line or two what became of a job."""
    click.echo(f"{job.ref} {job.state}", err=err)
    if job.state is JobState.SUBMITTING:
        click.echo(
            "  the answer to the submit was lost; a callback, if one was asked for, adopts the job: do not submit it again",
            err=True,
        )
    if job.reason or job.message:
        click.echo(plain(f"  {' '.join(filter(None, [job.reason, job.message]))}"), err=True)
    for asset in job.assets:
        if asset.key:
            click.echo(f"  {asset.key} {asset.size} bytes {asset.sha256}", err=err)
