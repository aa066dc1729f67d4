"""gunicorn's log, written like ours: a line for each fault, as JSON where ours is JSON.

A client's fault gets one line without the request, whose path may contain a ticket. Each kind of
fault gets at most one line in a while, so that strangers cannot fill the log.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # the package has no types

log = structlog.get_logger(__name__)

# Seconds between two lines about the same fault of clients.
BETWEEN_LINES = 10.0
INCOMPLETE = (
    "it did not arrive completely, and no more came for some seconds; or the client "
    "speaks TLS to this port, which is for plain HTTP"
)


class ClientFaults:
    """Logs faults of clients; of each kind one line in ``BETWEEN_LINES`` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._logged_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def log(self, reason: str, event: str = "request unreadable") -> None:
        """Log a fault, or count it for the next line about its kind."""
        with self._lock:
            now = self._clock()
            if now - self._logged_at.get(reason, -BETWEEN_LINES) < BETWEEN_LINES:
                self._left_out[reason] = self._left_out.get(reason, 0) + 1
                return
            self._logged_at[reason] = now
            more = self._left_out.pop(reason, 0)
        log.warning(event, reason=reason, not_logged=more)


client_faults = ClientFaults()


class GunicornLog(Logger):  # type: ignore[misc]  # the package has no types
    """Passes gunicorn's lines to the handlers of our log."""

    def setup(self, cfg: Any) -> None:
        """Set up without handlers of its own; those of the root logger redact and format."""
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log an exception; one of a client's connection in one line."""
        error = sys.exc_info()[1]
        if isinstance(error, BlockingIOError):
            client_faults.log(INCOMPLETE)
        elif isinstance(error, OSError):
            client_faults.log(f"its connection failed ({error.strerror})")
        else:
            super().exception(msg, *args, **kwargs)
