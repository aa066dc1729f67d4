"""Read the events of the ledger in order, from any number on, and remember the number in a file."""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from receiver import data_dir
from receiver.errors import ConfigurationError
from receiver.events.event import Event
from receiver.ledger.queries.events import EventQueries
from receiver.model import EventType
from receiver.telemetry.printable import printable

# Seconds between two queries for new events.
POLL_INTERVAL = 0.5
# The highest possible number of an event (64-bit integer).
MAX_NUMBER = 2**63 - 1


class EventReader:
    """Reads events of these types, or of all types if none are given."""

    def __init__(
        self,
        queries: EventQueries,
        types: Sequence[EventType],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._queries = queries
        self._types = types
        self._pause = pause

    def events(self, after: int, *, follow: bool) -> Iterator[tuple[Event | None, int]]:
        """Yield each event after the number ``after``, together with its number.

        Yield None and a number where events of other types were skipped. Stop after the last event
        unless ``follow`` is set.
        """
        while True:
            rows, upto = self._queries.following(after, self._types)
            for row in rows:
                yield Event.of(row), row.id
            if upto > after:
                yield None, upto
            elif follow:
                self._pause(POLL_INTERVAL)
            else:
                return
            after = upto


class Cursor:
    """The number up to which events have been processed, stored in a file if a path is given."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: int | None = None

    def read(self) -> int | None:
        """Return the stored number, or None if there is none yet.

        Raise ConfigurationError if the file contains something else.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            self._written = _number(self._path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                [f"--cursor: {self._path} holds no number of an event ({error}); name another file"]
            ) from error
        return self._written

    def write(self, number: int) -> None:
        """Store the number. The file is replaced, so a crash leaves the old or the new number."""
        if self._path is None or number == self._written:
            return
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            draft.write_text(f"{number}\n", encoding="ascii")
            draft.replace(self._path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise ConfigurationError(
                [f"--cursor: {self._path} cannot be written ({error.strerror}); name another file"]
            ) from error
        self._written = number

    def consequence(self, number: int) -> str:
        """Return a text that says what happens to an event that was not processed."""
        if self._path is None:
            return (
                "without --cursor nothing is remembered: "
                f"`--after {number - 1}` begins with it again"
            )
        return "it is done again with the next start"


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"{number} is out of bounds")
    return number


def run_command(command: str, event: dict[str, Any], withheld: Collection[str] = ()) -> int:
    """Run a command, without a shell, for one event. Return its exit status.

    The event is on its stdin as JSON, and in its environment as EVENT_ID, EVENT_TYPE …, with the
    event's data as EVENT_REF, EVENT_KEY …. Its umask is the one with which we were started. It
    does not get the variables ``withheld``, which have our secrets.
    """
    plain = {
        name: value
        for name, value in {**event, **event["data"]}.items()
        if value is not None and not isinstance(value, dict)
    }
    environ = {
        **{name: value for name, value in os.environ.items() if name not in withheld},
        **{f"EVENT_{name.upper()}": str(value) for name, value in plain.items()},
    }
    line = printable(json.dumps(event, ensure_ascii=False), as_json=True) + "\n"
    try:
        done = subprocess.run(
            shlex.split(command),
            input=line,
            text=True,
            env=environ,
            umask=data_dir.callers_umask(),
            check=False,
        )
    except (OSError, ValueError, IndexError) as error:
        raise ConfigurationError(
            [
                (
                    f"--exec: {command!r} cannot be run ({error}); "
                    "name a program, its arguments behind it"
                )
            ]
        ) from error
    return done.returncode
