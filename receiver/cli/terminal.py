"""Tables, and bars on stderr, as a terminal shows them and as a file or a pipe gets them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from receiver.cli.base import above_bar, say
from receiver.telemetry import logs
from receiver.telemetry.printable import printable

# Columns of output that does not go to a terminal: enough that nothing is ever wrapped or cut.
_UNLIMITED = 1_000_000


def console() -> Console:
    """Return a console for stdout. It wraps lines only on a terminal, not in a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else _UNLIMITED)


def print_table(table: Table, section: str = "") -> None:
    """Print a table on a terminal; elsewhere print each row on one line, with tabs between cells.

    ``section`` is the first cell of each such line, where a command prints several tables.
    """
    if sys.stdout.isatty():
        console().print(table)
        return
    for row in zip(*(column.cells for column in table.columns), strict=True):
        cells = [section, *row] if section else row
        say("\t".join(_on_one_line(cell) for cell in cells), keep="\t")


def _on_one_line(cell: object) -> str:
    text = cell.plain if isinstance(cell, Text) else str(cell or "")
    return printable(text)


def new_table(*headers: str, title: str | None = None) -> Table:
    """Return a table that shows every cell whole, on several lines if the terminal is narrow.

    A ref stays on one line, to be copied, and so does a state.
    """
    columns = [
        Column(name, overflow="fold", no_wrap=name in ("ref", "job", "state")) for name in headers
    ]
    return _Table(*columns, title=title, title_justify="left")


class _Table(Table):
    """A table that shows each text as it is: no control characters, and nothing read as markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts, or of Text objects that a caller has styled."""
        shown = [one if isinstance(one, Text) else Text(printable(str(one or ""))) for one in cells]
        super().add_row(*shown, **options)


@contextmanager
def bar_shown(bar: Progress) -> Iterator[None]:
    """Show a bar on stderr; messages of ``say`` and lines of the log come above it."""
    if bar.disable:
        yield
        return
    with bar, logs.diverted(partial(_print_line, bar.console)):
        above_bar.append(lambda text: bar.console.print(Text(text), soft_wrap=True))
        try:
            yield
        finally:
            above_bar.pop()


def _print_line(console: Console, line: str) -> None:
    """Print a line of the log above the bar, with its own colours."""
    console.print(Text.from_ansi(line), soft_wrap=True)
