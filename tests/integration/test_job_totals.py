"""Kept totals of jobs: they are equal to direct counts whatever happens, on both databases."""

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from ledgers import BASE_URL, LedgerHarness
from sqlalchemy import func, insert, select

from receiver.errors import LedgerError
from receiver.ledger import job_totals
from receiver.ledger.job_totals import WIDTH, JobTotals, Snapshot, Total, changed_jobs
from receiver.ledger.postgres import PostgresDatabase
from receiver.ledger.queries.over_time import TimeQueries
from receiver.ledger.queries.spending import SpendingQueries
from receiver.ledger.tables import jobs
from receiver.model import JobState, Reason, Submission, first_ref

pytestmark = pytest.mark.both_databases


@pytest.fixture
def totals(ledger: LedgerHarness) -> JobTotals:
    """Return the part that keeps the totals, with the clock of the ledger."""
    return JobTotals(ledger.database, ledger.clock)


def submit(ledger: LedgerHarness, model: str = "a") -> str:
    return ledger.jobs.submit(Submission("a fox", model, {}), BASE_URL).ref


def counted(ledger: LedgerHarness) -> set[Total]:
    """Count every job directly."""
    columns = (jobs.c.provider, jobs.c.model, jobs.c.state, jobs.c.reason)
    sums = (func.count(), func.sum(func.coalesce(jobs.c.requested, 1)))
    query = select(*columns, *sums).group_by(*columns)
    rows = ledger.database.read(lambda connection: connection.execute(query).all())
    return {
        Total(provider, model, state, reason or "", number, int(pictures))
        for provider, model, state, reason, number, pictures in rows
    }


def read(ledger: LedgerHarness) -> set[Total]:
    return set(ledger.database.read(lambda connection: Snapshot(connection).of()))


def recorded(ledger: LedgerHarness) -> int:
    query = select(func.count()).select_from(changed_jobs)
    return int(ledger.database.read(lambda connection: connection.execute(query).scalar_one()))


def test_without_an_update_and_without_jobs_totals_are_right(
    ledger: LedgerHarness, totals: JobTotals
) -> None:
    assert (read(ledger), totals.update(), read(ledger)) == (set(), 0, set())
    submit(ledger)
    assert (totals.update(), read(ledger)) == (0, counted(ledger))


def test_jobs_that_are_summed_up_are_not_read_again(
    ledger: LedgerHarness, totals: JobTotals
) -> None:
    submit(ledger)
    ledger.clock.advance(3 * WIDTH)
    submit(ledger)
    ledger.clock.advance(3 * WIDTH)
    assert (totals.update(), totals.update()) == (2, 0)
    newest = submit(ledger)
    everything = counted(ledger)
    # Triggers would notice a change: here the totals themselves are changed.
    ledger.execute("UPDATE job_totals SET jobs = jobs + 100")
    assert {one.jobs for one in read(ledger)} == {one.jobs + 200 for one in everything}
    ledger.jobs.record_refused(newest, "no")
    assert recorded(ledger) == 0


CHANGES: dict[str, Callable[[LedgerHarness, str], object]] = {
    "state": lambda ledger, ref: ledger.jobs.record_refused(ref, "no"),
    "model": lambda ledger, ref: ledger.execute(
        "UPDATE jobs SET model = 'b' WHERE ref = :r", r=ref
    ),
    "pictures": lambda ledger, ref: ledger.execute(
        "UPDATE jobs SET requested = 4 WHERE ref = :r", r=ref
    ),
    "insertion of an old job": lambda ledger, _ref: submit(ledger, "late"),
    "deletion": lambda ledger, ref: ledger.execute("DELETE FROM jobs WHERE ref = :r", r=ref),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_summed_job_counts_at_once_and_after_the_next_update(
    ledger: LedgerHarness, totals: JobTotals, change: str
) -> None:
    ref, _other = submit(ledger), submit(ledger)
    ledger.clock.advance(4 * WIDTH)
    totals.update()
    before, ledger.clock.now = counted(ledger), ledger.clock.now - 4 * WIDTH
    CHANGES[change](ledger, ref)
    ledger.clock.advance(4 * WIDTH)
    assert counted(ledger) != before
    assert (read(ledger), recorded(ledger)) == (counted(ledger), 1)
    assert (totals.update(), recorded(ledger), read(ledger)) == (1, 0, counted(ledger))


def test_a_change_of_other_columns_is_not_recorded(
    ledger: LedgerHarness, totals: JobTotals
) -> None:
    ref = submit(ledger)
    ledger.clock.advance(4 * WIDTH)
    totals.update()
    ledger.execute("UPDATE jobs SET progress = 50, due_at = 1 WHERE ref = :ref", ref=ref)
    assert recorded(ledger) == 0


def test_a_change_while_its_half_hour_is_summed_up_is_not_lost(
    ledger: LedgerHarness, totals: JobTotals, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = submit(ledger)
    ledger.clock.advance(4 * WIDTH)
    sums = job_totals._sums

    def and_then_a_change(*values: object, **named: object) -> object:
        found = sums(*values, **named)  # type: ignore[arg-type] # passed on
        if ledger.job(ref).state == JobState.SUBMITTING:
            ledger.jobs.record_refused(ref, "no")
        return found

    monkeypatch.setattr(job_totals, "_sums", and_then_a_change)
    totals.update()
    assert read(ledger) == counted(ledger)
    assert {(one.state, one.reason) for one in read(ledger)} == {("failed", Reason.REFUSED)}


def test_older_sums_of_another_process_do_not_replace_newer_ones(
    ledger: LedgerHarness, totals: JobTotals, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = submit(ledger)
    ledger.clock.advance(4 * WIDTH)
    sums = job_totals._sums

    def meanwhile(*values: object, **named: object) -> object:
        found = sums(*values, **named)  # type: ignore[arg-type] # passed on
        monkeypatch.setattr(job_totals, "_sums", sums)
        ledger.jobs.record_refused(ref, "no")
        JobTotals(ledger.database, ledger.clock).update()
        return found

    monkeypatch.setattr(job_totals, "_sums", meanwhile)
    totals.update()
    assert read(ledger) == counted(ledger)


def test_totals_are_equal_to_direct_counts_after_any_changes(
    ledger: LedgerHarness, totals: JobTotals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_totals, "_PORTION", 3)
    dice, refs = random.Random(3), [submit(ledger)]  # noqa: S311 - no secret
    start = ledger.clock()
    for step in range(120):
        match dice.randrange(6):
            case 0 | 1:
                refs.append(submit(ledger, dice.choice("abc")))
            case 2:
                ledger.execute(
                    "UPDATE jobs SET requested = :n WHERE ref = :ref",
                    n=dice.randrange(5),
                    ref=dice.choice(refs),
                )
            case 3:
                ledger.execute("DELETE FROM jobs WHERE ref = :ref", ref=dice.choice(refs))
            case 4:
                totals.update()
            case _:
                ledger.clock.advance(dice.choice((60, WIDTH, 5 * WIDTH)))
        if step % 10 == 0:
            assert read(ledger) == counted(ledger)
            parts = range(int(start // WIDTH) * WIDTH, int(ledger.clock()) + WIDTH, 7 * 900)
            found = ledger.database.read(partial(_in_parts, edges=[*parts, parts[-1] + 7 * 900]))
            assert found == sum(one.jobs for one in counted(ledger))


def _in_parts(connection: object, edges: list[int]) -> int:
    snapshot = Snapshot(connection)  # type: ignore[arg-type] # a connection
    return sum(one.jobs for first, end in pairwise(edges) for one in snapshot.of(first, end))


def test_counts_usage_costs_and_charts_use_what_is_kept(
    ledger: LedgerHarness, totals: JobTotals
) -> None:
    ledger.failed("one")
    ledger.archived(2, "two")
    ledger.clock.advance(3 * 86400)
    submit(ledger)
    shown = (
        ledger.totals.counts,
        ledger.totals.usage,
        lambda: ledger.totals.recent_audit(ledger.clock()),
        lambda: SpendingQueries(ledger.database).days(ledger.clock(), 5),
        lambda: TimeQueries(ledger.database).parts(ledger.clock(), 6 * 3600, 20),
    )
    before: list[object] = [ask() for ask in shown]
    assert totals.update() > 0
    assert [ask() for ask in shown] == before


def test_with_very_many_changes_everything_is_counted(
    ledger: LedgerHarness, totals: JobTotals, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(ledger)
    ledger.clock.advance(4 * WIDTH)
    totals.update()
    ledger.execute("UPDATE job_totals SET jobs = 100")
    monkeypatch.setattr(job_totals, "_MOST_STALE", 3)
    rows = [{"ref": first_ref(number * WIDTH)} for number in range(4)]
    ledger.database.write(lambda connection: connection.execute(insert(changed_jobs), rows))
    assert read(ledger) == counted(ledger)
    totals.update()
    assert {one.jobs for one in read(ledger)} == {100}


def test_jobs_are_not_summed_up_while_a_transaction_changes_one(
    ledger: LedgerHarness, totals: JobTotals
) -> None:
    if not isinstance(ledger.database, PostgresDatabase):
        pytest.skip("SQLite has one writer")
    ref = submit(ledger)
    ledger.clock.advance(4 * WIDTH)

    def change_and_try(connection: object) -> None:
        connection.exec_driver_sql(  # type: ignore[attr-defined] # a connection
            "UPDATE jobs SET requested = 9 WHERE ref = %s", (ref,)
        )
        with pytest.raises(LedgerError, match="lock"):
            totals.update()

    ledger.database.write(change_and_try)
    assert (recorded(ledger), totals.update(), read(ledger)) == (0, 1, counted(ledger))
