"""Commands about events: print them, run a command for each, resend those that failed."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from receiver import clock
from receiver.cli.base import (
    INTERRUPTED,
    SOME_FAILED,
    act_on_each,
    load,
    reports_errors,
    say,
    when,
)
from receiver.cli.terminal import console, new_table, print_table
from receiver.errors import ReceiverError
from receiver.events.event import Event
from receiver.events.listen import MAX_NUMBER, Cursor, EventReader, run_command
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.ledger.queries.events import DestinationStatus
from receiver.ledger.rows import EventDelivery
from receiver.model import EventType
from receiver.services import Services
from receiver.settings import Settings
from receiver.telemetry.printable import printable
from receiver.variables import secret_variables


class EventOrAll(click.ParamType[int | None]):
    """The number of an event, or None for the word all."""

    name = "event"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number; see click."""
        if value == "all":
            return None
        return click.IntRange(1, 2**63 - 1).convert(value, param, ctx)


# The fields of an event that are shown after number, time, type and job; on a terminal not the
# key, which job and index tell, on lines of their own.
_SHOWN = ("index", "key", "size", "content_type", "reason", "message")
_INDENT = 8


@click.command()
@click.option(
    "--after",
    type=click.IntRange(0, MAX_NUMBER),
    help="Start after the event of this number; 0 for all.  [default: only new events]",
)
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice([kind.value for kind in EventType]),
    help="Only events of this type; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    help="Run CMD for each event, with the event as JSON on its stdin and in EVENT_… variables.",
)
@click.option(
    "--cursor",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the number of the last event in this file, and continue there the next time.",
)
@click.option(
    "--follow/--no-follow",
    default=True,
    show_default=True,
    help="Wait for new events, or end after the existing ones.",
)
@reports_errors
def listen(
    after: int | None,
    types: tuple[str, ...],
    command: str | None,
    cursor: Path | None,
    *,
    as_json: bool,
    follow: bool,
) -> None:
    """Print events as they happen, in order.

    With --exec a command is run for each, one after the other. If it fails, the program ends with
    status 1; with --cursor the next run starts with the same event, so that the command runs at
    least once for each. It does not inherit our secrets or AWS credentials; if it needs some, give
    them to it in CMD, as in "env TOKEN=… program". Events restored by `receiver rebuild` are
    skipped.
    """
    services = Services(load()).open(to_look=True)
    saved = Cursor(cursor)
    start = saved.read() if after is None else after
    start = services.events.newest() if start is None else start
    saved.write(start)  # so that a run that ends before the first event misses none
    reader = EventReader(services.events, [EventType(kind) for kind in types])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for event, upto in reader.events(start, follow=follow):
            if event is not None and not _process(services, event, command, saved, as_json=as_json):
                sys.exit(SOME_FAILED)
            saved.write(upto)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        services.close()


def _process(
    services: Services, event: Event, command: str | None, saved: Cursor, *, as_json: bool
) -> bool:
    """Print one event and run the command for it; return False if the command failed."""
    if as_json:
        say(services.serializer.body(event))
    else:
        _print_event(event)
    if command is None:
        return True
    withheld = secret_variables(Settings.model_fields)
    status = run_command(command, services.serializer.object(event), withheld)
    if status:
        say(
            f"event {event.number}: the command ended with status {status}; "
            f"{saved.consequence(event.number)}",
            err=True,
        )
    return status == 0


def _print_event(event: Event) -> None:
    """Print an event: in a pipe as one line with tabs, on a terminal within its width."""
    is_terminal = sys.stdout.isatty()
    details = " ".join(
        f"{name}={event.payload[name]}"
        for name in _SHOWN
        if event.payload.get(name) not in (None, "") and not (is_terminal and name == "key")
    )
    if not is_terminal:
        cells = (str(event.number), when(event.at), event.type, event.ref, details)
        say("\t".join(printable(cell) for cell in cells), keep="\t")
        return
    say(f"{event.number:>6}  {when(event.at):<11}  {event.type:<14}  {event.ref}")
    if details:
        console().print(Padding(Text(printable(details)), (0, 0, 0, _INDENT)))


@click.command()
@click.option(
    "--forget",
    "gone",
    metavar="NAME",
    help="Delete a destination that is no longer in EVENT_URLS, with its undelivered events.",
)
@click.option(
    "--test",
    "tested",
    metavar="NAME",
    help="Send a test event to one destination and print its answer; a part of its name is enough. "
    "For the webhook of a job: its URL.",
)
@click.option(
    "--dismiss",
    "dismissed",
    metavar="EVENT|all",
    multiple=True,
    type=EventOrAll(),
    help="Take a set-aside event off the list, or all: it is sent nowhere any more; repeatable.",
)
@reports_errors
def events(gone: str | None, tested: str | None, dismissed: tuple[int | None, ...]) -> None:
    """Show where events are sent, and which were not delivered.

    For each destination it shows what waits, what fails, the age of the oldest undelivered event,
    and what was set aside after three days. "delivered" is the share of its newest 1,000
    deliveries, without those that were not tried yet. Events that are not queued for a destination
    yet wait until the service runs with it in EVENT_URLS; until then `receiver prune` keeps their
    jobs.
    """
    if [gone is not None, tested is not None, bool(dismissed)].count(True) > 1:
        raise click.UsageError("use --forget or --test or --dismiss, one of them")
    services = Services(load()).open(to_look=gone is None and not dismissed, creates=False)
    failures = 0
    try:
        if gone is not None:
            _forget(services, gone)
        elif tested is not None:
            _test(services, tested)
        elif dismissed:
            failures = _dismiss(services, dismissed)
        else:
            _show(services)
    finally:
        services.close()
    sys.exit(SOME_FAILED if failures else 0)


def _dismiss(services: Services, numbers: tuple[int | None, ...]) -> int:
    """Dismiss these events, None for all; return how many were not set aside."""

    def act(number: int) -> str:
        return f"event {number} is dismissed at {services.outbox.dismiss(number)} destinations"

    if None in numbers:
        return _act_on_all(services, act)
    return act_on_each(tuple(number for number in numbers if number is not None), act)


def _forget(services: Services, name: str) -> None:
    if name in services.settings.served:
        what = (
            "served: unset EVENT_SECRET"
            if name == JOB_WEBHOOKS
            else "in EVENT_URLS: remove it there"
        )
        raise ReceiverError(f"{name} is {what} and restart the service first")
    services.outbox.forget(name)
    say(f"{name} is deleted, with its undelivered events")


def _test(services: Services, part: str) -> None:
    """Send a test event to the only destination with this part in its name, or to a URL."""
    names = [name for name in services.settings.served if part in name]
    if len(names) > 1 and part not in names:
        raise ReceiverError(f"{part!r} is in several names: {', '.join(names)}")
    answer = services.send_test_event(part if part in names else (names or [part])[0])
    word = "accepted" if answer.accepted else "not accepted"
    say(f"{word} after {answer.seconds * 1000:.0f} ms: {answer.text}")
    if not answer.accepted:
        sys.exit(SOME_FAILED)


def _show(services: Services) -> None:
    standing, aside = services.events.destinations(), services.events.set_aside()
    served = services.settings.served
    for row in standing:
        kinds = ", ".join(served.get(row.destination, ())) or _not_served(row.destination)
        _print_destination(row, kinds)
    if not standing:
        say("EVENT_URLS is not set: no events are sent; `receiver listen` prints them")
    if aside:
        print_table(_failed_table(aside), "set aside")


def _not_served(name: str) -> str:
    what = (
        "EVENT_SECRET is not set: set" if name == JOB_WEBHOOKS else "no longer in EVENT_URLS: add"
    )
    return f"{what} it again, or --forget it"


def _print_destination(row: DestinationStatus, kinds: str) -> None:
    """Print one destination: in a pipe as one line with tabs, on a terminal as a few short ones."""
    rate = row.recent.success_rate
    cells = {
        "not queued yet": str(row.not_handed),
        "waiting": str(row.waiting),
        "failing": str(row.failing),
        "oldest": "" if row.oldest_at is None else clock.rough(clock.now() - row.oldest_at),
        "delivered": "" if rate is None else f"{100 * rate:.1f} %",
        "set aside": str(row.set_aside),
    }
    if not sys.stdout.isatty():
        say(
            "\t".join(["destination", row.destination, kinds, *cells.values(), _failure(row)]),
            keep="\t",
        )
        return
    say(row.destination)
    say(f"  {kinds}")
    say("  " + ", ".join(f"{name} {cell}" for name, cell in cells.items() if cell))
    if row.last_error:
        say(f"  last error: {_failure(row)}")


def _failure(row: DestinationStatus) -> str:
    return f"{row.last_error} (attempt {row.attempts})" if row.last_error else ""


def _failed_table(aside: list[EventDelivery]) -> Table:
    table = new_table(
        "event",
        "job",
        "destination",
        "attempts",
        "last error",
        title="set aside; `receiver resend EVENT…` sends them again, --dismiss removes them",
    )
    for delivery in aside:
        table.add_row(
            str(delivery.event),
            delivery.ref,
            delivery.destination,
            str(delivery.attempts),
            delivery.error,
        )
    return table


@click.command()
@click.argument("numbers", metavar="[EVENT]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))
@click.option("--all", "every", is_flag=True, help="All events that were set aside.")
@click.option(
    "--waiting", is_flag=True, help="All that waits for another attempt: make it due now."
)
@reports_errors
def resend(numbers: tuple[int, ...], *, every: bool, waiting: bool) -> None:
    """Send events that were set aside again, or what waits now.

    Name them by their numbers, as `receiver events` shows them.
    """
    if [bool(numbers), every, waiting].count(True) != 1:
        raise click.UsageError("name the events, or use --all or --waiting")
    services = Services(load()).open(creates=False)
    if waiting:
        failures = act_on_each(_served(services), _expedite(services))
    else:
        failures = (
            act_on_each(numbers, _resend(services))
            if numbers
            else _act_on_all(services, _resend(services))
        )
    services.engine.notify()
    services.close()
    sys.exit(SOME_FAILED if failures else 0)


def _served(services: Services) -> tuple[str, ...]:
    """Return the destinations that get events; that of job webhooks only if a job has one."""
    known = {row.destination for row in services.events.destinations()}
    return tuple(name for name in services.settings.served if name in known or name != JOB_WEBHOOKS)


def _resend(services: Services) -> Callable[[int], str]:
    return lambda number: (
        f"event {number} will be sent again to {services.outbox.resend(number)} destinations"
    )


def _expedite(services: Services) -> Callable[[str], str]:
    return lambda name: f"{services.outbox.expedite(name)} more deliveries to {name} are due now"


def _act_on_all(services: Services, act: Callable[[int], str]) -> int:
    """Act on every event that is set aside; return for how many it failed."""
    failures = last = 0
    while found := sorted({row.event for row in services.events.set_aside(after=last)}):
        failures += act_on_each(tuple(found), act)
        last = found[-1]
    return failures
