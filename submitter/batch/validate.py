"""The first pass over all lines, before the first POST: how many, what they need, which are bad."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from receiver.errors import ConfigurationError
from receiver.jobs.same_request import canonical_request
from receiver.model import Mode, Provider
from submitter.arguments import submission_of
from submitter.batch.lines import BadLine, BatchLine, submit_error


@dataclass(slots=True)
class Validation:
    """The result of the first pass."""

    needs: set[Provider | Mode]  # what must be configured
    webhooks: bool = False  # whether a line names a webhook
    total: int = 0
    bad: int = 0
    mistakes: list[str] = field(default_factory=list)  # those of the file as a whole
    # By digest of the key: the first line that has it, and the digest of that line's request.
    keys: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)


def validate(
    lines: Iterable[BatchLine | BadLine], say: Callable[[str], None] | None = None
) -> Validation:
    """Read all lines; with ``say``, also check images and keys, and print each error."""
    found = Validation(set())
    try:
        for line in lines:
            found.total += 1
            if isinstance(line, BatchLine):
                found.needs |= line.needs
                found.webhooks |= bool(line.request["webhook"])
            if say and (error := _error(line, found)):
                found.bad += 1
                say(f"line {line.number}: {error}")
    except ConfigurationError as error:
        found.mistakes = error.mistakes
    return found


def _error(line: BatchLine | BadLine, found: Validation) -> str | None:
    if isinstance(line, BadLine):
        return line.error
    try:
        request = canonical_request(submission_of(line.request))
    except ConfigurationError as error:
        return submit_error(error)
    if not line.has_own_key:
        return None
    first, before = found.keys.setdefault(_digest(line.key), (line.number, _digest(request)))
    if before == _digest(request):
        return None
    return (
        f"column key: {line.key!r} is line {first}'s key, which asks for something else; "
        "give this line another"
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
