"""Which workers live (PostgreSQL): each holds an advisory lock on its number on its connections.

The number also stands at the beginning of the worker's claims. PostgreSQL releases the lock with
the last connection of the process, so a killed worker is noticed within seconds. The claim token
remains the fence: a worker that counted as dead by mistake cannot finish its work.
"""

import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Connection, text

log = structlog.get_logger(__name__)

# The first key of these locks; the second key is the number of a worker.
LOCKS = 0x72637672
# The key in a SQLAlchemy connection's ``info`` for the number of the worker whose lock it holds.
WORKER = "worker"
# Seconds after a new connection in which no worker counts as missing: after a restart of PostgreSQL
# the others return too.
GRACE = 5.0
# Numbers of workers are below this, because the keys are signed integers of 32 bits.
NUMBERS = 2**31

# Only claims whose leases last: rows whose leases ended are due in any case. The indexes of due_at
# lead to them. ``until`` is two leases in the future, because the clocks of machines differ.
MISSING = """
    SELECT DISTINCT split_part(claim, '.', 1)::bigint FROM (
        SELECT claim FROM assets WHERE due_at > %(now)s AND due_at <= %(until)s
        UNION ALL SELECT claim FROM jobs WHERE due_at > %(now)s AND due_at <= %(until)s
        UNION ALL SELECT claim FROM hints WHERE due_at > %(now)s AND due_at <= %(until)s
        UNION ALL SELECT claim FROM sendings WHERE due_at > %(now)s AND due_at <= %(until)s
    ) AS claimed WHERE claim LIKE '%%.%%'
    EXCEPT SELECT objid::bigint FROM pg_locks
        WHERE locktype = 'advisory' AND classid::bigint = %(locks)s AND objsubid = 2
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_HELD = text("""
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND classid::bigint = :locks AND objsubid = 2
        AND objid::bigint = :number
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")


def hold(connection: Any, number: int) -> None:
    """Hold a worker's lock until this psycopg connection ends.

    The lock is shared, so that every connection of the process can hold it.
    """
    connection.execute("SELECT pg_advisory_lock_shared(%s, %s)", (LOCKS, number))


def is_alive(connection: Connection, number: int) -> bool:
    """Return whether a connection holds the lock of the worker with this number."""
    return connection.execute(_HELD, {"locks": LOCKS, "number": number}).first() is not None


class Liveness:
    """Holds the lock of this worker, and has the claims of dead workers taken over.

    ``lease`` is the length of a claim in seconds. ``take_over`` ends the claims of the worker with
    the given number and returns how many it had.
    """

    def __init__(
        self, number: int, lease: float, now: Callable[[], float], take_over: Callable[[int], int]
    ) -> None:
        self._number = number
        self._lease = lease
        self._now = now
        self._take_over = take_over
        self._missing: set[int] = set()
        self._connected_at = 0.0

    def connected(self, connection: Any) -> None:
        """Hold our lock on a new psycopg connection, and count no worker as missing for a while."""
        hold(connection, self._number)
        self._missing, self._connected_at = set(), time.monotonic()

    def check(self, connection: Any) -> bool:
        """Take over the claims of workers that are missing for the second check in a row.

        Return whether there were any.
        """
        if time.monotonic() - self._connected_at < GRACE:
            return False
        now = self._now()
        values = {"now": now, "until": now + 2 * self._lease, "locks": LOCKS}
        missing = {number for (number,) in connection.execute(MISSING, values)}
        taken = {number: self._take_over(number) for number in missing & self._missing}
        for number, claims in taken.items():
            if claims:  # otherwise another worker was faster
                log.warning("claims of a dead worker taken over", worker=number, claims=claims)
        self._missing = missing
        return any(taken.values())
