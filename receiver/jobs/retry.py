"""Storing what nobody could tell us again: while the ledger is away, this process holds the only copy."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from receiver.errors import LedgerError

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds before each further attempt to store what a provider said; some nine minutes in all.
WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)


def store_with_retry(
    store: Callable[[], T],
    pause: Callable[[float], None],
    waits: Sequence[float] = WAITS,
    **what: object,
) -> T:
    """Return what ``store`` returns, trying again while the ledger is away; ``what`` names the matter in the log, in case it is lost.

    Raise LedgerError when the last attempt failed too.
    """
    for wait in waits:
        try:
            return store()
        except LedgerError as error:
            log.warning("not stored, will be tried again", seconds=wait, error=str(error), **what)
            pause(wait)
    try:
        return store()
    except LedgerError:
        log.error("not stored, given up", **what)  # noqa: TRY400 - the text says it
        raise
