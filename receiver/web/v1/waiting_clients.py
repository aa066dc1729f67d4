"""Clients that wait for their pictures: a limited number, and each for a limited time.

Each occupies a thread of the web process. The process has one more thread for each client that may
wait, so that the threads for callbacks stay free.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from flask import current_app, request

from receiver.errors import LedgerError
from receiver.ledger.rows import Job
from receiver.model import FINAL_STATES
from receiver.services import Services
from receiver.web.body import is_closed
from receiver.web.state import is_stopping, per_app, services

# Seconds that a client waits at most: less than the timeout of the ``openai`` package (600), so
# that the client learns the job's ref.
LONGEST_WAIT = 580.0
# Seconds between two reads of the jobs.
_POLL_EVERY = 0.5

_never = threading.Event()
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?(?=$|[,;\s])", re.IGNORECASE)
_ASYNC = re.compile(r"(?:^|[,;\s])respond-async(?=$|[,;\s])", re.IGNORECASE)


@per_app
def slots() -> threading.BoundedSemaphore:
    """Return what limits the number of waiting clients of this process."""
    return threading.BoundedSemaphore(services().settings.waiting_clients)


def preferred_wait() -> tuple[float, bool]:
    """Return how many seconds this client waits, and whether 202 is an answer to it (RFC 7240)."""
    given = request.headers.get("Prefer", "")
    accepts_202, wait = bool(_ASYNC.search(given)), _WAIT.search(given)
    longest = min(float(wait[1]), LONGEST_WAIT) if wait else LONGEST_WAIT
    return (0.0 if accepts_202 and not wait else longest), accepts_202


def has_disconnected() -> Callable[[], bool]:
    """Return a function that returns whether this client has disconnected."""
    return partial(is_closed, request.environ.get("gunicorn.socket"))


def stopping() -> Callable[[], bool]:
    """Return a function that returns whether this process is about to stop."""
    return partial(is_stopping, current_app.extensions)


def wait(
    services: Services, refs: Sequence[str], seconds: float, is_over: Callable[[], bool]
) -> list[Job]:
    """Return the jobs when all are final, or after ``seconds``, or when ``is_over``.

    Waits while the ledger is unavailable. Raise LedgerError if it was unavailable the whole time.
    """
    end, found = time.monotonic() + seconds, list[Job]()
    while True:
        with suppress(LedgerError):
            found = services.queries.jobs_named(list(refs))
        is_done = len(found) == len(set(refs)) and all(job.state in FINAL_STATES for job in found)
        if is_done or is_over() or time.monotonic() >= end:
            return found or services.queries.jobs_named(list(refs))
        _never.wait(_POLL_EVERY)
