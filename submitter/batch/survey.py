"""A first look through all lines, before anything is posted: how many there are, what they need, and which are bad."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from receiver.errors import ConfigurationError
from receiver.model import Mode, Provider
from submitter.batch.lines import BadLine, Line, unpostable
from submitter.images import reference_image


@dataclass(slots=True)
class Survey:
    """What was seen; ``needs`` is what must be configured, ``mistakes`` are those of the file as a whole."""

    needs: set[Provider | Mode]
    total: int = 0
    bad: int = 0
    mistakes: list[str] = field(default_factory=list)


def survey(lines: Iterable[Line | BadLine], tell: Callable[[str], None] | None = None) -> Survey:
    """Look through the lines; with ``tell``, also at their pictures, and tell of every line that is bad."""
    seen = Survey(set())
    try:
        for line in lines:
            seen.total += 1
            if isinstance(line, Line):
                seen.needs |= line.needs
            if tell and (error := _error(line)):
                seen.bad += 1
                tell(f"line {line.number}: {error}")
    except ConfigurationError as error:
        seen.mistakes = error.mistakes
    return seen


def _error(line: Line | BadLine) -> str | None:
    if isinstance(line, BadLine):
        return line.error
    try:
        for image in line.request["images"]:
            reference_image(image)
    except ConfigurationError as error:
        return unpostable(error)
    return None
