"""The command ``submitter sandbox``: a stand-in for GRSAI in the foreground, until SIGTERM or SIGINT."""

import json
import signal
import threading
from typing import Any

import click

from submitter.sandbox import Sandbox
from submitter.sandbox.script import LIFETIME, ScriptError

_Script = dict[str, Any] | None


def _script(_context: click.Context, _parameter: click.Parameter, value: str | None) -> _Script:
    """Read the option's JSON object; what is in it, the sandbox itself checks."""
    try:
        script = json.loads(value) if value else None
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from error
    if script is not None and not isinstance(script, dict):
        raise click.BadParameter("not a JSON object")
    return script


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    default=8788,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen at; 0 takes a free one.",
)
@click.option(
    "--public-url", help="What file URLs begin with, if others reach the sandbox by another name."
)
@click.option(
    "--url-lifetime",
    default=LIFETIME,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds a file URL lives.",
)
@click.option(
    "--key", "keys", multiple=True, help="An accepted API key; repeatable. None given: any key."
)
@click.option(
    "--script",
    callback=_script,
    help='Faults for every job, as JSON: \'{"delay": 5, "callback": "lost"}\'.',
)
@click.option(
    "--looks",
    type=click.IntRange(min=1),
    help="Draw only so many different pictures, to save processor time.",
)
def sandbox(
    host: str,
    port: int,
    public_url: str | None,
    url_lifetime: float,
    keys: tuple[str, ...],
    script: _Script,
    looks: int | None,
) -> None:
    """Stand in for GRSAI on this machine: nothing is paid, and every fault can be had on request."""
    try:
        running = Sandbox(
            host,
            port,
            public_url=public_url,
            url_lifetime=url_lifetime,
            keys=frozenset(keys) or None,
            script=script,
            looks=looks,
        )
    except (OSError, ScriptError) as error:
        raise click.UsageError(f"the sandbox cannot start: {error}") from error
    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_stop.set())
    with running:
        click.echo(running.url)
        click.echo("Use it from another shell:")
        click.echo(
            f"  GRSAI_BASE_URL={running.url} GRSAI_API_KEY={keys[0] if keys else 'any'} FETCH_ALLOW={running.url.removeprefix('http://')}"
        )
        asked_to_stop.wait()
