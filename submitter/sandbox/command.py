"""The command ``submitter sandbox``: run the sandbox in the foreground until SIGTERM or SIGINT."""

import json
import signal
import threading
from typing import Any

import click

from submitter.sandbox import Sandbox
from submitter.sandbox.script import LIFETIME, ScriptError

_Script = dict[str, Any] | None


def _script(_context: click.Context, _parameter: click.Parameter, value: str | None) -> _Script:
    """Parse the option's JSON object; the sandbox checks its content."""
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
    "--public-url", help="Start of the file URLs, if clients reach the sandbox at another address."
)
@click.option(
    "--url-lifetime",
    default=LIFETIME,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Lifetime of file URLs in seconds.",
)
@click.option(
    "--key", "keys", multiple=True, help="An accepted API key; repeatable.  [default: any key]"
)
@click.option(
    "--script",
    callback=_script,
    help='Faults for every job, as JSON: \'{"delay": 5, "callback": "lost"}\'.',
)
@click.option(
    "--looks",
    type=click.IntRange(min=1),
    help="Draw at most this many different pictures, to save processor time.",
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
    """Run a stand-in for GRSAI, fal, Replicate, BFL and kie.ai on this machine.

    It costs nothing, and makes faults on request.
    """
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
        key, host_port = keys[0] if keys else "any", running.url.removeprefix("http://")
        click.echo(running.url)
        click.echo("# Paste these lines into another shell, and start `receiver serve` there:")
        for line in (
            f"GRSAI_BASE_URL={running.url}",
            f"GRSAI_API_KEY={key}",
            f"FETCH_ALLOW={host_port}",
            "PUBLIC_URL=http://127.0.0.1:8787",
            *(f"{name}={value}" for name, value in running.stand_ins.environ(key).items()),
        ):
            click.echo(f"export {line}")
        asked_to_stop.wait()
