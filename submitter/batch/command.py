"""The command ``submitter batch``."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from receiver.cli.base import SOME_FAILED, load, reports_errors
from receiver.errors import ConfigurationError, ReceiverError
from receiver.model import Api, Mode, Provider
from receiver.services import Services
from receiver.settings import Settings
from submitter.batch.lines import BadLine, Defaults, Line, read_lines
from submitter.batch.progress_bar import Screen, tell, tell_end
from submitter.batch.report import STDOUT, is_input, open_report, write_report
from submitter.batch.run import Batch
from submitter.batch.source import Source, opened
from submitter.batch.validate import Survey, survey
from submitter.submit import Submitter, mode_without_choice, why_no_callbacks

# Exit status after Ctrl-C, as shells expect it: 128 and the signal's number.
INTERRUPTED = 130
GO_ON = "run the same command again to continue: what was posted is found by its key and paid once"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    file: str
    form: str
    defaults: Defaults
    concurrency: int
    rate: float | None
    strict: bool
    report: str | None
    resubmit: int
    waits: bool
    timeout: float | None

    def read(self, source: Source) -> Iterator[Line | BadLine]:
        """Give the lines of what was opened."""
        return read_lines(source.file, self.form, self.defaults)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    help="What FILE is.  [default: by its name, else jsonl]",
)
@click.option(
    "--name",
    help="Names the batch; the same lines under another name are posted anew.  [default: the file's name]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Submits side by side.",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Submits per second at most.")
@click.option("--strict", is_flag=True, help="Post nothing if any line is bad.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write each line's job object to this file (-: stdout).",
)
@click.option(
    "--resubmit",
    type=click.IntRange(0, 100),
    default=0,
    help="Post anew, so many times a line, what failed at the provider.",
)
@click.option(
    "--mode",
    type=click.Choice(["webhook", "poll", "stream"]),
    help="For lines without.  [default: webhook; poll where the last `receiver doctor` could not call us]",
)
@click.option(
    "--api",
    type=click.Choice(["draw", "api"]),
    default="draw",
    show_default=True,
    help="For lines without.",
)
@click.option("--model", help="For lines without.")
@click.option(
    "--wait/--no-wait",
    "waits",
    default=True,
    show_default=True,
    help="Wait until every job is final.",
)
@click.option(
    "--timeout", type=click.FloatRange(0), help="Seconds to wait at most, from the last submit on."
)
@reports_errors
def batch(
    file: str,
    form: str | None,
    name: str | None,
    concurrency: int,
    rate: float | None,
    report: str | None,
    resubmit: int,
    mode: str | None,
    api: str,
    model: str | None,
    *,
    strict: bool,
    waits: bool,
    timeout: float | None,
) -> None:
    """Post a job for each line of FILE (JSONL, CSV, or - for stdin) and wait for their pictures.

    Columns are `prompt` and whatever else `submitter submit` takes: model, size, variants, images, mode, api, params, and `key`, your own
    name for the job. Any other column is a field for the provider. Run again after an interruption, it continues and pays nothing twice.

    Exit status 1 if a line was bad or a job failed, 2 for wrong usage or configuration.
    """
    settings = load()
    if resubmit and not waits:
        raise click.UsageError("--resubmit needs --wait: only who waits sees a job fail")
    way, reason = (Mode(mode), "") if mode else mode_without_choice(settings)
    if reason:
        tell(f"{reason}\n--mode was not given: lines without a mode are polled")
    defaults = Defaults(name or ("stdin" if file == "-" else Path(file).name), way, Api(api), model)
    form = form or ("csv" if file.lower().endswith(".csv") else "jsonl")
    plan = Plan(file, form, defaults, concurrency, rate, strict, report, resubmit, waits, timeout)
    with _interruptible():
        sys.exit(_carry_out(plan, settings))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have SIGTERM end the batch as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _carry_out(plan: Plan, settings: Settings) -> int:
    """Do it all and return the exit status."""
    stopping = threading.Event()
    with opened(plan.file, stopping, twice=plan.strict) as source:
        seen = (
            survey(plan.read(source), tell if plan.strict else None)
            if source.rereadable
            else Survey({Provider.GRSAI, plan.defaults.mode})
        )
        _require(plan, settings, seen)
        if plan.strict and seen.bad:
            tell(f"{seen.bad} of {seen.total} lines are bad: nothing was posted")
            return SOME_FAILED
        source.rewind()
        with Submitter(settings) as submitter, closing(Services(settings)) as services:
            if plan.waits and not submitter.has_worker():
                tell("nothing works on this ledger now: start `receiver serve`")
            screen = Screen(seen.total if source.rereadable else None)
            pool = partial(
                Batch,
                submitter,
                services,
                concurrency=plan.concurrency,
                rate=plan.rate,
                resubmit=plan.resubmit,
            )
            run = pool(stopping=stopping, tell=tell, show=screen.show)
            status = _perform(run, plan, screen, source)
            if plan.report:
                write_report(plan.report, services.queries, run.roll, run.bad)
            tell_end(run, services.queries, plan.defaults.name, err=plan.report == STDOUT)
    return status


def _require(plan: Plan, settings: Settings, seen: Survey) -> None:
    """Name everything that is wrong or missing, before the first POST."""
    mistakes = list(seen.mistakes)
    keys = {Provider.GRSAI: settings.grsai_api_key, Provider.OPENAI: settings.openai_api_key}
    missing = [provider for provider, key in keys.items() if provider in seen.needs and key is None]
    mistakes += [
        f"{provider.upper()}_API_KEY: not set; a job cannot be posted without the provider's key"
        for provider in missing
    ]
    if plan.defaults.mode is Mode.WEBHOOK and plan.defaults.api is Api.NEWER:
        mistakes.append(
            "--api api: the newer API has no callbacks; use --mode poll or --mode stream"
        )
    elif Mode.WEBHOOK in seen.needs and settings.public_url is None:
        mistakes.append(
            "PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll"
        )
    elif Mode.WEBHOOK in seen.needs and (reason := why_no_callbacks(settings)):
        mistakes.append(reason)
    if plan.report and plan.report != STDOUT and is_input(plan.report, plan.file):
        mistakes.append("--report is the input file; name another")
    elif plan.report and plan.report != STDOUT:
        try:
            open_report(plan.report)
        except OSError as error:
            mistakes.append(f"--report {plan.report}: {error.strerror}")
    if mistakes:
        raise ConfigurationError(mistakes)


def _perform(run: Batch, plan: Plan, screen: Screen, source: Source) -> int:
    """Submit, and wait if that is asked for; return the exit status."""
    try:
        with screen:
            run.submit(plan.read(source))
            screen.total = len(run.roll) + len(run.bad)
            if plan.waits:
                run.wait(plan.timeout)
    except KeyboardInterrupt:
        tell(
            "interrupted: waiting for the answers to what is just being posted; Ctrl-C again leaves at once"
        )
        with suppress(KeyboardInterrupt):
            run.leave()
        tell(f"{len(run.roll)} lines are submitted and go on; {GO_ON}")
        return INTERRUPTED
    except TimeoutError as error:
        tell(f"{error}; they go on, {GO_ON}")
        return SOME_FAILED
    except ConfigurationError:
        raise  # the file itself is wrong: the same command again would say the same
    except ReceiverError:
        tell(f"{len(run.roll)} lines are submitted and go on; {GO_ON}")
        raise
    return SOME_FAILED if run.bad or any(True for _ in run.roll.lost()) else 0
