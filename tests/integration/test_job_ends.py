"""Jobs that end together with their last assets, many in one transaction."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ledgers import Clock, LedgerHarness, stored
from sqlalchemy import Connection, text

from receiver.archive.conclusion import Conclusion
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ClaimLostError
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database, Work
from receiver.ledger.group_commit import Batch
from receiver.ledger.rows import Asset, End
from receiver.model import JobState, Mark

T = TypeVar("T")
Item = TypeVar("Item")

pytestmark = pytest.mark.both_databases


class Gathering:
    """A database that handles the items of a batch together when asked, or one by one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.read, self.write, self.close = database.read, database.write, database.close
        self.items: list[Any] = []

    def write_item(self, batch: Batch[Item, T], item: Item) -> T:
        self._one, self._many = batch.one, batch.many
        self.items.append(item)
        return True  # type: ignore[return-value]  # nothing is written yet

    def together(self) -> list[Any]:
        """Handle all items in one transaction."""
        return self.write(lambda connection: self._many(connection, self.items))

    def one_by_one(self) -> list[Any]:
        """Handle each item by itself, as if it were not ordinary."""
        return [self._alone(item) for item in self.items]

    def _alone(self, item: Any) -> Any:
        return self.write(lambda connection: self._one(connection, item))


@pytest.fixture
def conclusion(ledger: LedgerHarness, tmp_path: Path) -> Conclusion:
    return Conclusion(ledger.queries, DirectoryStore(tmp_path / "archive"), ledger.clock)


def claimed_jobs(ledger: LedgerHarness, count: int) -> list[Claimed[Asset]]:
    """Return the claimed assets of new jobs, by job."""
    refs = [ledger.archiving(1, f"task-{number}") for number in range(count)]
    found = {claimed.row.ref: claimed for claimed in ledger.assets.claim(count)}
    return [found[ref] for ref in refs]


def gathered(
    ledger: LedgerHarness, ended: Sequence[tuple[Claimed[Asset], End | None]], clock: Clock
) -> Gathering:
    """Return what waits for its transaction after these assets were finished."""
    gathering = Gathering(ledger.database)
    assets = LedgerHarness(gathering, clock).assets
    for claimed, end in ended:
        assets.finish(claimed, replace(stored(claimed), marks=(Mark("c2pa", "caBX", 7),)), end)
    return gathering


def rows_of(ledger: LedgerHarness, ref: str) -> str:
    """Return all that the ledger has about a job, without its own ref and ids."""

    def read(connection: Connection) -> str:
        number = ledger.job(ref).provider_id or ""
        tables = {"jobs": "ref", "assets": "ref, idx", "events": "ref, id"}
        rows = [
            dict(row)
            for table, order in tables.items()
            for row in connection.execute(
                text(f"SELECT * FROM {table} WHERE ref = :ref ORDER BY {order}"),  # noqa: S608 - our own names
                {"ref": ref},
            ).mappings()
        ]
        for row in rows:
            row.pop("id", None)
        return json.dumps(rows).replace(ref, "REF").replace(number, "TASK")

    work: Work[str] = read
    return ledger.database.read(work)


def test_jobs_that_end_together_have_the_rows_of_jobs_that_end_one_by_one(
    ledger: LedgerHarness, conclusion: Conclusion
) -> None:
    claimed = claimed_jobs(ledger, 5)
    ends = [(one, conclusion.prepare_with_last(one, stored(one))) for one in claimed]
    assert gathered(ledger, ends[:4], ledger.clock).together() == [True] * 4
    assert gathered(ledger, ends[4:], ledger.clock).one_by_one() == [True]
    assert len({rows_of(ledger, one.row.ref) for one in claimed}) == 1
    assert ledger.job(claimed[0].row.ref).state is JobState.ARCHIVED
    assert ledger.event_types(claimed[0].row.ref) == ["asset.archived", "job.archived"]
    assert ledger.totals.audit().ok


def test_what_is_not_as_it_was_is_left_and_the_others_end(
    ledger: LedgerHarness, conclusion: Conclusion
) -> None:
    ordinary, taken, reopened, unprepared = claimed_jobs(ledger, 4)
    ends = {one.row.ref: conclusion.prepare_with_last(one, stored(one)) for one in
            (ordinary, taken, reopened)}  # fmt: skip
    ledger.execute("UPDATE assets SET claim = 'other' WHERE ref = :ref", ref=taken.row.ref)
    ledger.execute("UPDATE jobs SET round = round + 1 WHERE ref = :ref", ref=reopened.row.ref)
    before = {one.row.ref: rows_of(ledger, one.row.ref) for one in (taken, reopened, unprepared)}
    all_of_them = [(one, ends.get(one.row.ref)) for one in (taken, ordinary, reopened, unprepared)]
    assert gathered(ledger, all_of_them, ledger.clock).together() == [None, True, None, None]
    assert ledger.job(ordinary.row.ref).state is JobState.ARCHIVED
    assert {ref: rows_of(ledger, ref) for ref in before} == before
    with pytest.raises(ClaimLostError):
        ledger.assets.finish(taken, stored(taken), ends[taken.row.ref])
    for one in (reopened, unprepared):
        assert ledger.assets.finish(one, stored(one), ends.get(one.row.ref)) is False
        assert ledger.job(one.row.ref).due_at == ledger.clock.now


def test_two_claims_of_one_asset_end_it_once(ledger: LedgerHarness, conclusion: Conclusion) -> None:
    (claimed,) = claimed_jobs(ledger, 1)
    end = conclusion.prepare_with_last(claimed, stored(claimed))
    late = replace(claimed, token="another worker's")
    found = gathered(ledger, [(late, end), (claimed, end)], ledger.clock).together()
    assert found == [None, True]
    assert ledger.event_types(claimed.row.ref) == ["asset.archived", "job.archived"]
