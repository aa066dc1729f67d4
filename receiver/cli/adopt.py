"""``receiver adopt``: let the ledger remember other settings, on purpose."""

from contextlib import closing

import click

from receiver.cli.base import load, reports_errors, say
from receiver.ledger.shared_settings import Shared
from receiver.services import Services


@click.command()
@click.argument("what", type=click.Choice([what.value for what in Shared]))
@reports_errors
def adopt(what: str) -> None:
    """Let the ledger remember a setting of this machine in place of that of the others.

    A process does not start if it has another archive, or no callback secret of the others. No
    process starts on a ledger that was copied to PostgreSQL. If that is on purpose: `archive` after
    the archive was moved with all its objects, `secrets` after the others were lost, `ledger` to
    use the old ledger again. Then start every process with the same settings.
    """
    chosen = Shared(what)
    with closing(Services(load()).open(to_look=True)) as services:
        before = services.shared_settings.adopt(chosen)
        after = services.shared_settings.ours(chosen) or "used again"
    say(f"{what}: {after}; before: {before or 'nothing remembered'}")
    say("processes that differ do not start: restart all of them with the same settings")
