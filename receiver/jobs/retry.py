"""Retries for storing an answer that would not be sent again, while the ledger is unavailable."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from receiver.errors import LedgerError

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds before each retry; about nine minutes in all.
WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)


def store_with_retry(
    store: Callable[[], T],
    pause: Callable[[float], None],
    waits: Sequence[float] = WAITS,
    **what: object,
) -> T:
    """Return what ``store`` returns; retry it while the ledger is unavailable.

    ``what`` are fields for the log, so that the lost answer can be found if all retries fail. Raise
    LedgerError after the last one.
    """
    for wait in waits:
        try:
            return store()
        except LedgerError as error:
            log.warning(
                "answer of the provider not stored, will be retried",
                seconds=wait,
                error=str(error),
                **what,
            )
            pause(wait)
    try:
        return store()
    except LedgerError:
        log.error("answer of the provider not stored, no more retries", **what)  # noqa: TRY400 - the text says it
        raise
