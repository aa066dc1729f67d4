"""The command ``submitter batch``."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from receiver import installation
from receiver.cli.base import SOME_FAILED, load, reports_errors
from receiver.errors import ConfigurationError, ReceiverError
from receiver.events.job_webhooks import UNSIGNED
from receiver.model import Api, Mode, Provider
from receiver.providers.registry import READERS
from receiver.settings import Settings
from submitter.batch.lines import BadLine, BatchLine, Defaults, read_lines
from submitter.batch.output import Output, folder_problem
from submitter.batch.progress_bar import BatchProgressBar, print_summary, say
from submitter.batch.report import STDOUT, is_input, open_report, write_report
from submitter.batch.run import Batch
from submitter.batch.source import BatchFile, opened
from submitter.batch.validate import Validation, validate
from submitter.ledger_jobs import callback_problem
from submitter.submit import NO_WORKER, Submitter, default_mode

# Exit status after Ctrl-C, as shells expect it: 128 and the signal's number.
INTERRUPTED = 130
# Pictures that are saved in parallel with --output.
OUTPUT_THREADS = 4
CONTINUE_HINT = (
    "run the same command again to continue: what was posted is found by its key and paid once"
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

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
    check: bool
    output: str | None

    def read(self, source: BatchFile) -> Iterator[BatchLine | BadLine]:
        """Yield the lines of the opened file."""
        return read_lines(source.file, self.form, self.defaults)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    help="Format of FILE.  [default: by its name, else jsonl]",
)
@click.option(
    "--name",
    help="Name of the batch; under another name the same lines are posted again.  "
    "[default: the file's name]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Submits in parallel.",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Most submits per second.")
@click.option("--strict", is_flag=True, help="Post nothing if any line is bad.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write each line's job object to this file (-: stdout).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    help="Save the pictures in this directory, as REF-INDEX and the extension.",
)
@click.option(
    "--resubmit",
    type=click.IntRange(0, 100),
    default=0,
    help="How many times to post a job again that failed at the provider.",
)
@click.option(
    "--mode",
    type=click.Choice(["webhook", "poll", "stream"]),
    help="Mode of lines that have none.  "
    "[default: webhook; poll if the last `receiver doctor` could not reach PUBLIC_URL]",
)
@click.option(
    "--api",
    type=click.Choice(["draw", "api"]),
    default="draw",
    show_default=True,
    help="API of lines that have none.",
)
@click.option("--model", help="Model of lines that have none.")
@click.option("--folder", default="", help="Folder of the archive for lines that have none.")
@click.option("--webhook", metavar="URL", help="Webhook for the events of lines that have none.")
@click.option(
    "--split",
    is_flag=True,
    help="Post a job for each of a line's variants if its model makes fewer pictures a job.",
)
@click.option(
    "--wait/--no-wait",
    "waits",
    default=True,
    show_default=True,
    help="Wait until every job is final.",
)
@click.option(
    "--timeout", type=click.FloatRange(0), help="Longest wait in seconds, from the last submit on."
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Post only if a worker, or the service at PUBLIC_URL, serves this ledger.",
)
@reports_errors
def batch(
    file: str,
    form: str | None,
    name: str | None,
    concurrency: int,
    rate: float | None,
    report: str | None,
    output: str | None,
    resubmit: int,
    mode: str | None,
    api: str,
    model: str | None,
    folder: str,
    webhook: str | None,
    *,
    split: bool,
    strict: bool,
    waits: bool,
    timeout: float | None,
    check: bool,
) -> None:
    """Post a job for each line of FILE and wait for the pictures.

    FILE is JSONL or CSV, or - for stdin. Columns are `prompt` and the other options of `submitter
    submit`: model, size, variants, images, mode, api, params, metadata, folder, webhook, batch (if
    it is not the --name), and `key`, your own name for the job. Any other column is a field for the
    provider. Run again after an interruption, the command continues and pays nothing twice.

    Exit status 1 if a line was bad or a job failed, 2 for wrong usage or configuration.
    """
    settings = load()
    if resubmit and not waits:
        raise click.UsageError("--resubmit needs --wait: without it no failure is seen")
    if output and not waits:
        raise click.UsageError("--output needs --wait: without it there are no pictures yet")
    job_mode, reason = (Mode(mode), "") if mode else default_mode(settings)
    if reason:
        say(reason)
        say("--mode was not given: lines without a mode are polled")
    name = name or ("stdin" if file == "-" else Path(file).name)
    defaults = Defaults(name, job_mode, Api(api), model, split, folder, webhook)
    form = form or ("csv" if file.lower().endswith(".csv") else "jsonl")
    options = Options(
        file,
        form,
        defaults,
        concurrency,
        rate,
        strict,
        report,
        resubmit,
        waits,
        timeout,
        check,
        output,
    )
    with _interruptible():
        sys.exit(_run(options, settings))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: Options, settings: Settings) -> int:
    """Run the batch and return the exit status."""
    stopping = threading.Event()
    with opened(options.file, stopping, twice=options.strict) as source:
        if source.rereadable:
            found = validate(options.read(source), say if options.strict else None)
        else:
            found = Validation({Provider.GRSAI, options.defaults.mode})
        _require(options, settings, found)
        if options.strict and found.bad:
            say(f"{found.bad} of {found.total} lines are bad: nothing was posted")
            return SOME_FAILED
        source.rewind()
        with Submitter(settings, check=options.check) as submitter:
            submitter.require_service()
            if options.waits and not submitter.has_worker():
                say(NO_WORKER)
            bar = BatchProgressBar(found.total if source.rereadable else None)
            output = options.output and Output(
                Path(options.output), submitter.jobs, say, threads=OUTPUT_THREADS
            )
            batch = Batch(
                submitter,
                concurrency=options.concurrency,
                rate=options.rate,
                resubmit=options.resubmit,
                stopping=stopping,
                say=say,
                show=bar.show,
                output=output or None,
            )
            status = _submit_and_wait(batch, options, bar, source)
            if output:
                output.finish(at_once=status == INTERRUPTED)
                status = status or (SOME_FAILED if output.failures else 0)
            if options.report:
                write_report(
                    options.report, submitter.transport, batch.table, batch.bad, output or None
                )
            err = options.report == STDOUT
            print_summary(batch, submitter.transport, options.defaults.name, err=err)
    return status


def _missing(options: Options, settings: Settings, found: Validation) -> list[str]:
    """Return what is missing for posting: here, or nothing if a service elsewhere posts."""
    if settings.receiver_url:
        no_ledger = "--resubmit needs the ledger of the service: leave it out with RECEIVER_URL"
        return [no_ledger] if options.resubmit else []
    mistakes = [UNSIGNED] if found.webhooks and not settings.event_secret else list[str]()
    if Provider.OPENAI in found.needs and (remedy := installation.missing("openai")):
        mistakes.append(f"provider openai: {remedy}")
    mistakes += [
        f"{dialect.key_name}: not set; a job cannot be posted without the provider's key"
        for provider, dialect in READERS.items()
        if provider in found.needs and not settings.has_key(provider)
    ]
    if options.defaults.mode is Mode.WEBHOOK and options.defaults.api is Api.NEWER:
        mistakes.append(
            "--api api: the newer API has no callbacks; use --mode poll or --mode stream"
        )
    elif Mode.WEBHOOK in found.needs and settings.public_url is None:
        mistakes.append(
            "PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll"
        )
    elif Mode.WEBHOOK in found.needs and (reason := callback_problem(settings)):
        mistakes.append(reason)
    return mistakes


def _require(options: Options, settings: Settings, found: Validation) -> None:
    """Raise ConfigurationError with everything that is wrong or missing, before the first POST."""
    mistakes = [*found.mistakes, *_missing(options, settings, found)]
    mistakes += folder_problem(options.output)
    if options.report and options.report != STDOUT and is_input(options.report, options.file):
        mistakes.append("--report is the input file; name another")
    elif options.report and options.report != STDOUT:
        try:
            open_report(options.report)
        except OSError as error:
            mistakes.append(f"--report {options.report}: {error.strerror}")
    if mistakes:
        raise ConfigurationError(mistakes)


def _submit_and_wait(
    batch: Batch, options: Options, bar: BatchProgressBar, source: BatchFile
) -> int:
    """Submit the lines and, if asked for, wait for the jobs; return the exit status."""
    try:
        with bar:
            batch.submit(options.read(source))
            bar.total = len(batch.table) + len(batch.bad)
            if options.waits:
                batch.wait(options.timeout)
    except KeyboardInterrupt:
        say(
            "interrupted: waiting for the answers to the submits in flight; "
            "Ctrl-C again stops at once"
        )
        with suppress(KeyboardInterrupt):
            batch.stop()
        say(f"{len(batch.table)} lines are submitted and go on; {CONTINUE_HINT}")
        return INTERRUPTED
    except TimeoutError as error:
        say(f"{error}; they go on, {CONTINUE_HINT}")
        return SOME_FAILED
    except ConfigurationError:
        raise  # the file itself is wrong: running the command again would not help
    except ReceiverError:
        say(f"{len(batch.table)} lines are submitted and go on; {CONTINUE_HINT}")
        raise
    return SOME_FAILED if batch.bad or any(True for _ in batch.table.without_pictures()) else 0
