"""Commands about events: see them as they come, run something for each, and look after those that could not be sent."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.table import Table

from receiver import clock
from receiver.cli.base import INTERRUPTED, SOME_FAILED, console, each, load, plain, reports_errors
from receiver.errors import ReceiverError
from receiver.events.event import Event
from receiver.events.listen import MAX_NUMBER, Cursor, EventReader, run_command
from receiver.ledger.rows import EventDelivery
from receiver.model import EventType, timestamp
from receiver.services import Services

# What a line shows of an event, beside its time, type and job.
_SHOWN = ("index", "key", "size", "content_type", "reason", "message")


@click.command()
@click.option(
    "--after",
    type=click.IntRange(0, MAX_NUMBER),
    help="Begin behind the event of this number; 0 for all there are.  [default: what happens from now on]",
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
    help="Keep the place in this file, and begin there the next time.",
)
@click.option(
    "--follow/--no-follow",
    default=True,
    show_default=True,
    help="Wait for more, or end with what there is.",
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

    With --exec a command is run for each, one after the other. If it fails, listening ends with status 1; with --cursor the next start
    begins with that same event, so that each is done at least once. What `receiver rebuild` put back is passed over.
    """
    services = Services(load()).open(to_look=True)
    place = Cursor(cursor)
    start = place.read() if after is None else after
    start = services.outbox.newest() if start is None else start
    place.write(start)  # before the first event, so that none is missed if this ends before it
    reader = EventReader(services.outbox, [EventType(kind) for kind in types])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for event, upto in reader.events(start, follow=follow):
            if event is not None and not _deal_with(
                services, event, command, place, as_json=as_json
            ):
                sys.exit(SOME_FAILED)
            place.write(upto)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        services.close()


def _deal_with(
    services: Services, event: Event, command: str | None, place: Cursor, *, as_json: bool
) -> bool:
    """Print one event and run the command for it; say whether that went well."""
    click.echo(services.serializer.body(event) if as_json else _line(event))
    if command is None:
        return True
    status = run_command(command, services.serializer.object(event))
    if status:
        click.echo(
            f"event {event.number}: the command ended with status {status}; {place.consequence(event.number)}",
            err=True,
        )
    return status == 0


def _line(event: Event) -> str:
    shown = [
        f"{name}={event.payload[name]}"
        for name in _SHOWN
        if event.payload.get(name) not in (None, "")
    ]
    return plain(
        f"{event.number:>6}  {timestamp(event.at)}  {event.type:<14}  {event.ref}  {' '.join(shown)}"
    )


@click.command()
@click.option(
    "--forget",
    "gone",
    metavar="NAME",
    help="Forget a destination that is not in EVENT_URLS any more, and what it was not told.",
)
@reports_errors
def events(gone: str | None) -> None:
    """Show to whom events are sent, what waits, and what was set aside after three days.

    Events not handed to a destination yet wait until it is served; as long as they do, `receiver prune` keeps their jobs.
    """
    services = Services(load()).open(to_look=gone is None)
    try:
        if gone is not None:
            _forget(services, gone)
        else:
            _show(services)
    finally:
        services.close()


def _forget(services: Services, name: str) -> None:
    if name in {destination.name for destination in services.settings.destinations}:
        raise ReceiverError(
            f"{name} stands in EVENT_URLS: take it out there and start the service anew, or it is told on"
        )
    services.outbox.forget(name)
    click.echo(f"{name} is forgotten, with all it was still to be told")


def _show(services: Services) -> None:
    standing, aside = services.outbox.standing(), services.outbox.aside()
    named = {destination.name: destination.types for destination in services.settings.destinations}
    table = Table(
        "destination",
        "types",
        "not handed yet",
        "waiting",
        "for",
        "set aside",
        title="destinations",
    )
    for row in standing:
        kinds = (
            ", ".join(named[row.destination])
            if row.destination in named
            else "not in EVENT_URLS any more: serve it, or --forget it"
        )
        since = "" if row.due_since is None else f"{max(0.0, clock.now() - row.due_since):.0f} s"
        table.add_row(
            row.destination, kinds, str(row.not_handed), str(row.waiting), since, str(row.set_aside)
        )
    console().print(
        table
        if standing
        else "EVENT_URLS is not set: events are not sent to anybody; `receiver listen` shows them"
    )
    if aside:
        console().print(_lost(aside))


def _lost(aside: list[EventDelivery]) -> Table:
    lost = Table(
        "event",
        "job",
        "destination",
        "attempts",
        "last error",
        title="set aside; `receiver resend EVENT…` sends them again",
    )
    for sending in aside:
        lost.add_row(
            str(sending.event),
            sending.ref,
            sending.destination,
            str(sending.attempts),
            plain(sending.error),
        )
    return lost


@click.command()
@click.argument("numbers", metavar="[EVENT]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))
@click.option("--all", "every", is_flag=True, help="Everything that was set aside.")
@reports_errors
def resend(numbers: tuple[int, ...], *, every: bool) -> None:
    """Send events again that were set aside, by their numbers (`receiver events`)."""
    if bool(numbers) == every:
        raise click.UsageError("name the events, or say --all")
    services = Services(load()).open()
    failures = each(numbers, _again(services)) if numbers else _all_again(services)
    services.engine.notify()
    services.close()
    sys.exit(SOME_FAILED if failures else 0)


def _again(services: Services) -> Callable[[int], str]:
    return lambda number: (
        f"event {number} will be sent again to {services.outbox.resend(number)} destinations"
    )


def _all_again(services: Services) -> int:
    failures = last = 0
    while found := sorted({row.event for row in services.outbox.aside(after=last)}):
        failures += each(tuple(found), _again(services))
        last = found[-1]
    return failures
