"""What `receiver jobs` and `receiver show` print, and to which extent they search."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ledgers import LedgerHarness, migrated_file, opened

from receiver.cli import main
from receiver.ledger.queries.job_list import JobListQueries

# Jobs that a search of one command reads here.
WINDOW = 2


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a DATA_DIR whose path has 410 characters: SQLite opens paths of at most 512."""
    monkeypatch.setattr(
        "receiver.ledger.parts.JobListQueries",
        lambda database: JobListQueries(database, window=WINDOW),
    )
    room = 410 - len(str(tmp_path)) - 2
    folder = tmp_path / ("a" * (room // 2)) / ("b" * (room - room // 2))
    monkeypatch.setenv("DATA_DIR", str(folder))
    return folder


@pytest.fixture
def ledger(data: Path) -> Iterator[LedgerHarness]:
    with opened(migrated_file(data / "ledger.sqlite3")) as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def umask_as_it_was() -> Iterator[None]:
    before = os.umask(0o077)
    os.umask(before)
    yield
    os.umask(before)


def receiver(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_what_is_shown_in_a_file_is_neither_cut_nor_wrapped(
    ledger: LedgerHarness, data: Path
) -> None:
    ref = ledger.archived()
    (asset,) = ledger.assets_of(ref)
    path = str(data / "archive" / str(asset.key))
    lines = receiver("show", ref).stdout.splitlines()
    assert any(path in line for line in lines)
    assert {"delivery", "asset"} <= {line.partition("\t")[0] for line in lines}


def test_defect_doubt_and_marks_of_a_file_are_shown(ledger: LedgerHarness) -> None:
    ref = ledger.archived()
    marks = '[{"kind":"c2pa","name":"caBX","size":9}]'
    ledger.execute("UPDATE assets SET defect = 'd', doubt = 'e', marks = :marks", marks=marks)
    shown = receiver("show", ref).stdout
    assert "defect: d; perhaps damaged: e; c2pa (caBX, 9 bytes)" in shown


def test_a_search_reads_a_limited_number_of_jobs_and_says_how_to_continue(
    ledger: LedgerHarness,
) -> None:
    # Two letters: the index of texts finds three or more, however many jobs there are.
    refs = [ledger.waiting(f"task-{number}") for number in range(4)]
    ledger.execute("UPDATE jobs SET prompt = 'an ax' WHERE ref = :ref", ref=refs[0])
    first = receiver("jobs", "-q", "ax", "--json")
    assert (first.exit_code, first.stdout) == (0, "")
    hint = f"older jobs were not searched; to continue, add: --after {refs[2]}\n"
    assert first.stderr == hint
    second = receiver("jobs", "-q", "ax", "--json", "--after", refs[2])
    assert refs[0] in second.stdout


def test_a_list_that_is_full_says_how_to_continue(ledger: LedgerHarness) -> None:
    refs = [ledger.waiting(f"task-{number}") for number in range(3)]
    page = receiver("jobs", "--limit", "2")
    assert page.stderr == f"there are more jobs; to continue, add: --after {refs[1]}\n"
    assert refs[0] not in page.stdout
    rest = receiver("jobs", "--limit", "2", "--after", refs[1])
    assert (refs[0] in rest.stdout, rest.stderr) == (True, "")
