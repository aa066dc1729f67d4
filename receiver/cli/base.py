"""What every command of ``receiver`` shares: settings from the environment, errors told as text and exit status, the screen."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.text import Text

from receiver import data_dir, failpoints
from receiver.errors import ConfigurationError, ReceiverError
from receiver.settings import Settings
from receiver.telemetry import logs

P = ParamSpec("P")
T = TypeVar("T")

# Exit statuses of every command.
SOME_FAILED, WRONG_USAGE = 1, 2
# And after Ctrl-C, as shells expect it: 128 and the signal's number.
INTERRUPTED = 130
# Columns of a table that goes into a file or a pipe.
WIDE = 240


class Commands(click.Group):
    """A group whose commands lie in modules, ``{command: module}``; each is imported when it is asked for: it needs little of the rest."""

    def __init__(self, modules: Mapping[str, str], **about: Any) -> None:
        super().__init__(**about, context_settings={"help_option_names": ["-h", "--help"]})
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Return the names of all commands."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Return the command, None if there is none of that name."""
        if cmd_name not in self._modules:
            return None
        command: click.Command = getattr(import_module(self._modules[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; on Ctrl-C end quietly, unless it has an end of its own: click's "Aborted!" has the status of a failure."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def reports_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Turn errors into a text and an exit status: 2 for a wrong configuration, every mistake on a line, else 1."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except ConfigurationError as error:
            click.echo("the configuration is wrong:", err=True)
            for mistake in error.mistakes:
                click.echo(f"  {mistake}", err=True)
            sys.exit(WRONG_USAGE)
        except ReceiverError as error:
            click.echo(plain(str(error)), err=True)
            sys.exit(SOME_FAILED)

    return guarded


def console() -> Console:
    """Return a console for stdout; where that is no terminal, lines are wide enough that nothing is cut."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def load() -> Settings:
    """Read the environment, and set up logging and fault points as it says; from now on files are written for their owner only."""
    data_dir.write_for_owner_only()
    failpoints.arm(os.environ)
    settings = Settings.load(os.environ)
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    return settings


def cell(text: str | None) -> Text:
    """Put a stranger's text into a table: no control character, no markup."""
    return Text(plain(text))


def plain(text: str | None) -> str:
    """Make a stranger's text harmless for a terminal: control characters become visible."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1]
        for character in text or ""
    )


def each(things: tuple[T, ...], act: Callable[[T], str]) -> int:
    """Do something to each thing; tell what came of it and return how many failed."""
    failures = 0
    for thing in things:
        try:
            click.echo(act(thing))
        except ReceiverError as error:
            click.echo(plain(str(error)), err=True)
            failures += 1
    return failures
