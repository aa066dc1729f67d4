"""A fault: its name, the play or the orders that cause it, and the setups where it exists."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tests.prove.environment import S3, Play
from tests.prove.setups import Setup

BOTH_LEDGERS, BOTH_ARCHIVES = ("sqlite", "postgresql"), ("directory", "s3")


class CannotBeHadError(Exception):
    """Raised by a fault that cannot be caused here; the text says why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table: either a ``play`` or orders off a ``menu``.

    A play begins with nothing running. It returns when the load is over and the service runs again.
    A fault of the provider alone needs no play and harms no other job, so that several such faults
    share a round.
    """

    name: str
    play: Play | None = None
    seconds: float = 6.0  # of one round on a free machine
    menu: tuple[dict[str, Any], ...] = ()
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ledgers: tuple[str, ...] = BOTH_LEDGERS
    archives: tuple[str, ...] = BOTH_ARCHIVES
    s3: S3 = "shared"

    def fits(self, setup: Setup) -> bool:
        """Say whether this fault exists in a setup."""
        return setup.ledger in self.ledgers and setup.archive in self.archives
