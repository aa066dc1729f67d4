"""Which callback secrets signed the tickets of unfinished jobs."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, func, select

from receiver.ledger.database import Database
from receiver.ledger.tables import jobs
from receiver.model import JobState, Mode

# These wait for a callback. A job that an operator's retry reopened does not.
_IS_WAITING = and_(jobs.c.state.in_((JobState.SUBMITTING, JobState.WAITING)), jobs.c.round == 0)
_QUESTION = (
    select(
        jobs.c.signer,
        func.count().label("unfinished"),
        func.count(case((_IS_WAITING, 1))).label("waiting"),
        func.max(jobs.c.deadline_at).label("until"),
    )
    # Unfinished jobs are due at some time, and the index of due times has no others.
    .where(jobs.c.due_at > 0, jobs.c.mode == Mode.WEBHOOK)
    .group_by(jobs.c.signer)
)


@dataclass(frozen=True, slots=True)
class Signed:
    """The unfinished jobs with tickets of one secret.

    ``signer`` is its fingerprint, None if it is not known. ``waiting`` of them wait for their
    callback; ``until`` is the last one's deadline, in seconds since the epoch.
    """

    signer: str | None
    unfinished: int
    waiting: int
    until: float


class Signers:
    """Reads which secrets are still needed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unfinished(self) -> list[Signed]:
        """Return the unfinished jobs that have a callback URL, by the secret that signed it."""

        def work(connection: Connection) -> list[Signed]:
            return [Signed(*row) for row in connection.execute(_QUESTION)]

        return self._database.read(work)


def refused(found: Iterable[Signed], fingerprints: Iterable[str]) -> list[Signed]:
    """Return the jobs whose callbacks are refused: none of these secrets signed their tickets."""
    known = {None, *fingerprints}
    return [signed for signed in found if signed.waiting and signed.signer not in known]


def refusal(found: Iterable[Signed]) -> str:
    """Return a text about jobs whose callbacks are refused."""
    which = ", ".join(f"{one.waiting} with {one.signer}" for one in found)
    return (
        f"unfinished jobs were signed with a callback secret that is not configured ({which}): "
        "their callbacks are refused, they are polled"
    )


REFUSAL_REMEDY = (
    "put the removed secret back, behind the first one, until `receiver secrets list` says that "
    "its jobs are over"
)
