"""What all commands share: settings from the environment, errors with exit status, output.

What needs rich is in ``terminal``: web and worker do without it.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import click
from pydantic import BaseModel

from receiver import data_dir, failpoints
from receiver.errors import ConfigurationError, ReceiverError
from receiver.installation import version
from receiver.model import timestamp
from receiver.settings import Settings
from receiver.telemetry import logs
from receiver.telemetry.printable import printable

P = ParamSpec("P")
T = TypeVar("T")

# Exit statuses of every command.
SOME_FAILED, WRONG_USAGE = 1, 2
# After Ctrl-C, as shells expect it: 128 plus the number of the signal.
INTERRUPTED = 130


class Commands(click.Group):
    """A group of commands by the names of their modules, ``{command: module}``.

    A module is imported when its command is used, because each needs little of the others.
    """

    def __init__(self, modules: Mapping[str, str], **about: Any) -> None:
        super().__init__(**about, context_settings={"help_option_names": ["-h", "--help"]})
        self._modules = modules
        click.version_option(version(), prog_name=self.name)(self)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Return the names of all commands."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Return the command of this name, or None."""
        if cmd_name not in self._modules:
            return None
        command: click.Command = getattr(import_module(self._modules[cmd_name]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named; for an unknown one, name the most similar ones."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            similar = get_close_matches(args[0], self._modules, cutoff=0.5)
            if not similar:
                raise
            hint = f"{error.message} Did you mean {' or '.join(similar)}?"
            raise click.UsageError(hint, ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. On Ctrl-C exit with 130; click would print "Aborted!" and use 1."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            # It quotes arguments as they are.
            error.message = printable(error.message)  # type: ignore[misc]  # final in the types only
            raise
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def reports_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Print errors as text. Exit with 2 for a wrong configuration, one line each, else with 1."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except ConfigurationError as error:
            say("the configuration is wrong:", err=True)
            for mistake in error.mistakes:
                say(f"  {mistake}", err=True)
            sys.exit(WRONG_USAGE)
        except ReceiverError as error:
            say(str(error), err=True)
            sys.exit(SOME_FAILED)

    return guarded


def when(moment: float | None) -> str:
    """Return a moment (seconds since the epoch): on a terminal short and local, else RFC 3339."""
    if moment is None or not sys.stdout.isatty():
        return timestamp(moment) or ""
    local, today = datetime.fromtimestamp(moment).astimezone(), datetime.now().astimezone()
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    return f"{local:%m-%d %H:%M}" if local.year == today.year else f"{local:%Y-%m-%d}"


def load() -> Settings:
    """Return the settings of the environment; set up logging and failpoints from it.

    Files created from now on can be read by their owner only.
    """
    data_dir.write_for_owner_only()
    failpoints.arm(os.environ)
    settings = Settings.load(os.environ)
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    return settings


# What prints a line above the bar on stderr, while there is one; a process has one at a time.
above_bar: list[Callable[[str], object]] = []


def say(text: str, *, err: bool = False, keep: str = "") -> None:
    """Print one line on stdout, or with ``err`` on stderr; untrusted text in it is escaped.

    ``keep`` is not escaped. Where a bar is shown on stderr, the line comes above it.
    """
    if err and above_bar:
        above_bar[-1](printable(text))
    else:
        click.echo(printable(text, keep=keep), err=err)


def to_json(value: object) -> str:
    """Return a model or an object as one line of JSON that is safe on a terminal, too."""
    if isinstance(value, BaseModel):
        return printable(value.model_dump_json(), as_json=True)
    return printable(json.dumps(value, ensure_ascii=False), as_json=True)


def say_json(value: object) -> None:
    """Print a model or an object as one line of JSON on stdout."""
    click.echo(to_json(value))


def act_on_each(items: tuple[T, ...], action: Callable[[T], str]) -> int:
    """Run an action on each item and print its result or error; return how many failed."""
    failures = 0
    for item in items:
        try:
            say(action(item))
        except ReceiverError as error:
            say(str(error), err=True)
            failures += 1
    return failures
