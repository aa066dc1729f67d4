"""``receiver secrets``: which callback secrets are needed, and their rotation."""

import secrets as random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import click

from receiver.cli.base import load, reports_errors, say
from receiver.ledger.queries.signers import Signed
from receiver.services import Services

_STEPS = """\
CALLBACK_SECRETS is set by you, so nothing was changed. The line on stdout is a new secret. With OLD
for the value of now, set CALLBACK_SECRETS (or the file that CALLBACK_SECRETS_FILE names) to

  1. OLD,NEW   on every machine, and restart every process: all accept it
  2. NEW,OLD   on every machine, and restart every process: it signs
  3. NEW       when `receiver secrets list` says of the old one that its jobs are over

On one machine 1 and 2 are one step."""


@click.group()
def secrets() -> None:
    """Show and rotate the secrets that sign callback URLs."""


@secrets.command("list")
@reports_errors
def list_() -> None:
    """List the callback secrets by their fingerprints, with the unfinished jobs of each.

    A secret whose jobs are over may be removed. Secrets themselves are never shown.
    """
    with closing(Services(load()).open(to_look=True)) as services:
        if not services.settings.callback_secrets:
            services.kept_secrets.require()
        for line in _lines(services):
            say(line)


@secrets.command()
@click.option(
    "--drop-old",
    is_flag=True,
    help="Stop accepting the old secrets at once, because others know them. The jobs that they "
    "signed are polled.",
)
@reports_errors
def rotate(*, drop_old: bool) -> None:
    """Let a new callback secret sign; the old ones are accepted until their jobs are over.

    Secrets that the service generated are replaced in DATA_DIR, and running processes use them at
    once. The worker, or the next rotation, removes an old one when every job that it signed is
    over, at least an hour later. If you set CALLBACK_SECRETS, this prints a new secret and the
    steps.
    """
    with closing(Services(load()).open(creates=False)) as services:
        rotation = services.rotation
        if rotation is None:
            for line in _STEPS.splitlines():
                say(line, err=True)
            say(random.token_urlsafe(32))
        else:
            removed = rotation.rotate() + (rotation.remove_old() if drop_old else [])
            for fingerprint in removed:
                say(f"{fingerprint}  removed")
        for line in _lines(services):
            say(line, err=rotation is None)


def _lines(services: Services) -> Iterator[str]:
    """Yield a line for each secret that is configured, or that unfinished jobs need."""
    jobs = {signed.signer: signed for signed in services.signers.unfinished()}
    over = "its jobs are over" if None not in jobs else "may have signed the unknown ones"
    for index, fingerprint in enumerate(services.tickets.fingerprints):
        use, nothing = ("accepted", over) if index else ("signs", "no unfinished jobs")
        yield f"{fingerprint:<8} {use:<15} {_about(jobs.pop(fingerprint, None), nothing)}"
    for signer, signed in jobs.items():
        name, use = (signer, "NOT configured") if signer else ("unknown", "")
        yield f"{name:<8} {use:<15} {_about(signed)}"


def _about(signed: Signed | None, nothing: str = "") -> str:
    if signed is None:
        return nothing
    until = datetime.fromtimestamp(signed.until, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{signed.unfinished} unfinished jobs, the last until {until}"
