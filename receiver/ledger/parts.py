"""Every part of the ledger, built when it is first used: transactions, and reads."""

from functools import cached_property

import structlog

from receiver import clock
from receiver.errors import LedgerError
from receiver.ledger import identity
from receiver.ledger.assets import Assets
from receiver.ledger.claims import Claims
from receiver.ledger.database import Database, open_database
from receiver.ledger.fair_claims import FairClaims
from receiver.ledger.hints import Hints
from receiver.ledger.job_totals import JobTotals
from receiver.ledger.jobs import Jobs
from receiver.ledger.outbox import Outbox
from receiver.ledger.quarantine import QuarantineRecords
from receiver.ledger.queries.audit import Audit
from receiver.ledger.queries.backlog import BacklogQueries
from receiver.ledger.queries.events import EventQueries
from receiver.ledger.queries.job_list import JobListQueries
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.queries.pictures import PictureQueries
from receiver.ledger.queries.set_aside import SetAsideQueries
from receiver.ledger.queries.signers import Signers
from receiver.ledger.queries.totals import Totals
from receiver.ledger.workers import Workers
from receiver.model import Timing

log = structlog.get_logger(__name__)


class LedgerParts:
    """The parts of the ledger at ``url``. ``timing`` says how long things may take."""

    def __init__(self, url: str, timing: Timing) -> None:
        self._url = url
        self.timing = timing

    @cached_property
    def database(self) -> Database:
        """The connections."""
        return open_database(self._url)

    now = staticmethod(clock.now)

    # The ledger: transactions.

    @cached_property
    def jobs(self) -> Jobs:
        """Transactions of jobs."""
        return Jobs(self.database, self.timing, self.now)

    @cached_property
    def assets(self) -> Assets:
        """Transactions of assets."""
        return Assets(self.database, self.now)

    @cached_property
    def hints(self) -> Hints:
        """Transactions of hints."""
        return Hints(self.database, self.timing, self.now)

    @cached_property
    def outbox(self) -> Outbox:
        """Transactions of event deliveries."""
        return Outbox(self.database, self.now)

    @cached_property
    def quarantine_records(self) -> QuarantineRecords:
        """Which rejected files are kept."""
        return QuarantineRecords(self.database)

    @cached_property
    def workers(self) -> Workers:
        """Heartbeats of workers."""
        return Workers(self.database)

    @cached_property
    def ledger_id(self) -> str:
        """The random id of this ledger."""
        return identity.ledger_id(self.database)

    @cached_property
    def sessions(self) -> identity.Sessions:
        """The sessions of the dashboard."""
        return identity.Sessions(self.database)

    @cached_property
    def fair_claims(self) -> FairClaims:
        """Claims assets, with a share for every job and host."""
        return FairClaims(self.database, self.now)

    @cached_property
    def claims(self) -> Claims:
        """Renews, releases and takes over claims."""
        return Claims(self.database, self.now)

    @cached_property
    def job_totals(self) -> JobTotals:
        """Keeps the totals of jobs up to date."""
        return JobTotals(self.database, self.now)

    # The ledger: reads.

    @cached_property
    def queries(self) -> JobQueries:
        """Single jobs and what belongs to them."""
        return JobQueries(self.database)

    @cached_property
    def job_list(self) -> JobListQueries:
        """Lists of jobs."""
        return JobListQueries(self.database)

    @cached_property
    def pictures(self) -> PictureQueries:
        """Archived and endangered pictures."""
        return PictureQueries(self.database)

    @cached_property
    def set_aside(self) -> SetAsideQueries:
        """Jobs and deliveries that were set aside."""
        return SetAsideQueries(self.database)

    @cached_property
    def events(self) -> EventQueries:
        """Events and the state of their deliveries."""
        return EventQueries(self.database)

    @cached_property
    def signers(self) -> Signers:
        """Which callback secrets are still needed."""
        return Signers(self.database)

    @cached_property
    def totals(self) -> Totals:
        """Counts, usage and audit."""
        return Totals(self.database)

    @cached_property
    def backlog(self) -> BacklogQueries:
        """What is due."""
        return BacklogQueries(self.database, self.timing.url_lifetime, self.now)

    def sum_up_and_audit(self, whole: bool) -> Audit:  # noqa: FBT001 - the only argument
        """Update the totals of jobs, and audit the whole ledger or the recent jobs."""
        try:
            self.job_totals.update()
        except LedgerError as error:
            # The next time will do: jobs that are not summed up are counted.
            log.warning("jobs not summed up", error=str(error))
        return self.totals.audit() if whole else self.totals.recent_audit(self.now())
