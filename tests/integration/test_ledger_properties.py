"""Any order, repetition and loss of reports and workers: the first end counts, once."""

from dataclasses import dataclass, field

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from ledgers import LedgerHarness, failed, running, stored, succeeded, urls
from sqlalchemy import delete

from receiver.errors import ClaimLostError
from receiver.ledger.claims import Claimed
from receiver.ledger.rows import Asset
from receiver.ledger.tables import metadata
from receiver.model import FINAL_STATES, AssetState, JobState, Source

pytestmark = pytest.mark.both_databases

# One ledger serves all examples of a test; each example empties it first.
PACE = examples(4)


@dataclass(frozen=True)
class GivenReport:
    """A report: what it says, its source, and whether it has the task's id."""

    says: str  # "running", "failed", "empty", or how many results a success has
    source: Source
    named: bool

    def body(self, provider_id: str) -> bytes:
        """Return the report."""
        named = provider_id if self.named else None
        if self.says == "running":
            return running(named)
        if self.says == "failed":
            return failed(provider_id=named)
        return succeeded(
            *([""] if self.says == "empty" else urls(int(self.says))), provider_id=named
        )


@dataclass
class Expected:
    """The expected state of a job after the reports so far."""

    end: str | None = None  # what the first end said
    empty_before: bool = False
    queries: int = 0

    def receive(self, report: GivenReport) -> None:
        """Add a report."""
        self.queries += 1
        if self.end is not None or report.says == "running":
            return
        if report.says != "empty":
            self.end = report.says
        elif report.source is Source.POLL and self.empty_before:
            self.end = "failed"
        self.empty_before |= report.says == "empty"

    @property
    def results(self) -> int:
        """Return the expected number of assets."""
        return int(self.end) if self.end and self.end.isdigit() else 0


@dataclass
class Life:
    """One job, and what we expect of it."""

    ledger: LedgerHarness
    ref: str
    provider_id: str
    expected: Expected = field(default_factory=Expected)
    held: list[Claimed[Asset]] = field(default_factory=list)
    final: JobState | None = None

    def receive(self, report: GivenReport) -> None:
        """Deliver a report."""
        self.expected.receive(report)
        self.ledger.deliver(self.ref, report.body(self.provider_id), report.source)

    def work(self, deed: str) -> None:
        """Let a worker do something, or fail."""
        match deed:
            case "answer":
                self.ledger.jobs.record_accepted(self.ref, self.provider_id)
            case "claim":
                self.held += self.ledger.assets.claim(1) or self.ledger.assets.claim(
                    1, suspects=True
                )
            case "lease ends":
                self.ledger.clock.advance(60)
            case "restart":
                self.ledger.claims.take_over()
            case "finish":
                self._finish()
            case "conclude":
                self._conclude()

    def _finish(self) -> None:
        """Let the oldest claim finish, also if it is lost."""
        if self.held:
            claimed = self.held.pop(0)
            try:
                self.ledger.assets.finish(claimed, stored(claimed))
            except ClaimLostError:
                return

    def _conclude(self) -> None:
        for claimed in self.ledger.jobs.claim(100):
            done = claimed.row.state is JobState.ARCHIVING and not self.ledger.pending(
                claimed.row.ref
            )
            if done:
                self.ledger.jobs.conclude(claimed, JobState.ARCHIVED)
            else:
                self.ledger.jobs.release(claimed, self.ledger.clock() + 30)

    def check(self) -> None:
        """Check that the job is as expected, and that nothing final changed."""
        job, assets = self.ledger.job(self.ref), self.ledger.assets_of(self.ref)
        assert [asset.idx for asset in assets] == list(range(self.expected.results))
        assert len(self.ledger.queries.deliveries(self.ref)) == self.expected.queries
        allowed = {
            None: {JobState.SUBMITTING, JobState.WAITING},
            "failed": {JobState.FAILED},
        }.get(self.expected.end, {JobState.ARCHIVING, JobState.ARCHIVED})
        assert job.state in allowed
        assert self.final in {None, job.state}
        if job.state in FINAL_STATES:
            self.final = job.state
            assert {asset.state for asset in assets} <= {AssetState.ARCHIVED}
        archived = sum(asset.state is AssetState.ARCHIVED for asset in assets)
        types = self.ledger.event_types(self.ref)
        assert (types.count("asset.archived"), len(types)) == (
            archived,
            archived + (self.final is not None),
        )


SOURCES = [Source.CALLBACK, Source.POLL, Source.STREAM]
REPORTS = st.builds(
    GivenReport,
    st.sampled_from(["running", "failed", "empty", "1", "2", "3"]),
    st.sampled_from(SOURCES),
    st.booleans(),
)
DEEDS = st.sampled_from(["answer", "claim", "finish", "lease ends", "restart", "conclude"])
STEPS = st.lists(st.tuples(st.integers(0, 1), REPORTS | DEEDS), max_size=14)


def lives_in(ledger: LedgerHarness, number: int) -> list[Life]:
    """Empty the ledger and submit ``number`` jobs."""
    ledger.database.write(
        lambda connection: [
            connection.execute(delete(table)) for table in reversed(metadata.sorted_tables)
        ]
    )
    return [Life(ledger, ledger.submitting(), f"task-{name}") for name in range(number)]


@PACE
@given(steps=STEPS)
def test_the_first_end_counts_once_in_whatever_order_things_happen(
    ledger: LedgerHarness, steps: list[tuple[int, GivenReport | str]]
) -> None:
    lives = lives_in(ledger, 2)
    for which, step in steps:
        if isinstance(step, GivenReport):
            lives[which].receive(step)
        else:
            lives[which].work(step)
        for life in lives:
            life.check()
        assert ledger.totals.audit().ok


@PACE
@given(queries=st.lists(REPORTS, min_size=1, max_size=6), data=st.data())
def test_reports_that_come_again_change_nothing(
    ledger: LedgerHarness, queries: list[GivenReport], data: st.DataObject
) -> None:
    (life,) = lives_in(ledger, 1)
    for report in queries:
        life.receive(report)
    if life.expected.end is None:
        life.receive(GivenReport("2", Source.CALLBACK, named=True))
    before = ledger.job(life.ref), ledger.assets_of(life.ref), ledger.event_types(life.ref)
    for report in data.draw(st.permutations(queries)):
        life.receive(GivenReport(report.says, Source.CALLBACK, report.named))
    assert (
        ledger.job(life.ref),
        ledger.assets_of(life.ref),
        ledger.event_types(life.ref),
    ) == before
    life.check()


@PACE
@given(
    results=st.integers(1, 3),
    order=st.permutations([*["claim", "finish"] * 3, "lease ends", "restart", "conclude"]),
)
def test_every_job_is_archived_whatever_happened_to_its_workers(
    ledger: LedgerHarness, results: int, order: list[str]
) -> None:
    (life,) = lives_in(ledger, 1)
    life.receive(GivenReport(str(results), Source.CALLBACK, named=True))
    for deed in order:
        life.work(deed)
    life.check()
    for deed in ("lease ends", *["claim", "finish"] * 6, "conclude"):
        life.work(deed)
    life.check()
    assert ledger.job(life.ref).state is JobState.ARCHIVED
    assert ledger.totals.audit().ok
