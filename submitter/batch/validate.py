"""A first look through all lines, before anything is posted: how many there are, what they need, and which are bad."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from receiver.errors import ConfigurationError
from receiver.model import Mode, Provider
from submitter.batch.lines import BadLine, Line, unpostable
from submitter.submit import asked_for, submission_of


@dataclass(slots=True)
class Survey:
    """What was seen; ``needs`` is what must be configured, ``mistakes`` are those of the file as a whole."""

    needs: set[Provider | Mode]
    total: int = 0
    bad: int = 0
    mistakes: list[str] = field(default_factory=list)
    keys: dict[bytes, tuple[int, bytes]] = field(
        default_factory=dict
    )  # digests: a key, its first line, what that asks for


def survey(lines: Iterable[Line | BadLine], tell: Callable[[str], None] | None = None) -> Survey:
    """Look through the lines; with ``tell``, also at their pictures, and tell of every line that is bad."""
    seen = Survey(set())
    try:
        for line in lines:
            seen.total += 1
            if isinstance(line, Line):
                seen.needs |= line.needs
            if tell and (error := _error(line, seen)):
                seen.bad += 1
                tell(f"line {line.number}: {error}")
    except ConfigurationError as error:
        seen.mistakes = error.mistakes
    return seen


def _error(line: Line | BadLine, seen: Survey) -> str | None:
    if isinstance(line, BadLine):
        return line.error
    try:
        asked = asked_for(submission_of(line.request))
    except ConfigurationError as error:
        return unpostable(error)
    if not line.named:
        return None
    first, before = seen.keys.setdefault(_digest(line.key), (line.number, _digest(asked)))
    if before == _digest(asked):
        return None
    return f"column key: {line.key!r} is line {first}'s key, which asks for something else; give this line another"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
