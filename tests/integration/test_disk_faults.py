"""Real full or read-only disks under the scratch folder, the archive and the ledger.

Work waits, and continues by itself when the disk is usable again.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from archiving import LIFETIME, PNG, ArchivingHarness, due, scripted_source
from ledgers import LedgerHarness, opened
from outside_network import answer
from small_disks import SmallDisk, small_disk
from waiting import until
from web_client import SUCCEEDED, web_client

from receiver.archive.stores.directory import DirectoryStore
from receiver.model import AssetState
from submitter.sandbox import Sandbox

Trouble = Callable[[SmallDisk], AbstractContextManager[None]]
TROUBLES = pytest.mark.parametrize(
    ("trouble", "message"),
    [(SmallDisk.full, "disk is full|No space left"), (SmallDisk.read_only, "read-only|Read-only")],
    ids=["full", "read-only"],
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kilobytes=2000) as disk:
        yield disk


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    with opened(sqlite_url) as ledger:
        yield ledger


@pytest.fixture(params=["scratch", "archive"])
def harness(
    request: pytest.FixtureRequest,
    ledger: LedgerHarness,
    disk: SmallDisk,
    sandbox: Sandbox,
    tmp_path: Path,
) -> ArchivingHarness:
    """Put either the scratch folder or the archive on the small disk."""
    places = {"scratch": tmp_path, "archive": tmp_path, request.param: disk.root}
    return ArchivingHarness(
        ledger, DirectoryStore(places["archive"] / "archive"), places["scratch"], sandbox
    )


@TROUBLES
def test_the_asset_waits_uncounted_and_is_archived_when_the_disk_is_mended(
    harness: ArchivingHarness, disk: SmallDisk, trouble: Trouble, message: str
) -> None:
    with scripted_source(answer(body=PNG)) as server:
        ref = harness.announce(server)
        with trouble(disk):
            for _ in range(2):
                waiting = harness.attempt()
                assert (waiting.state, waiting.attempts, waiting.claim) == (
                    AssetState.PENDING,
                    0,
                    None,
                )
                assert re.search(message, waiting.error)
                harness.ledger.clock.now = due(waiting)
        asset = harness.attempt()
    assert (asset.state, harness.stored(asset.key)) == (AssetState.ARCHIVED, PNG)
    assert harness.ledger.event_types(ref) == ["asset.archived", "job.archived"]
    assert not [
        path
        for path in disk.root.rglob("*")
        if path.is_file() and path.suffix not in {".png", ".json"}
    ], "nothing is left of the attempts"


def test_a_disk_that_stays_full_loses_the_asset_only_a_lifetime_after_its_url(
    harness: ArchivingHarness, disk: SmallDisk
) -> None:
    with scripted_source(answer(body=PNG)) as server, disk.full():
        harness.announce(server)
        harness.ledger.clock.advance(2 * LIFETIME - 1)
        waiting, lost = harness.attempts()
    assert (waiting.state, lost.state) == (AssetState.PENDING, AssetState.EXPIRED)


@pytest.mark.parametrize("trouble", [SmallDisk.full, SmallDisk.read_only])
def test_a_callback_the_ledger_s_disk_cannot_take_is_answered_503_and_readiness_says_so(
    disk: SmallDisk, sqlite_template: Path, tmp_path: Path, trouble: Trouble
) -> None:
    path = disk.root / "ledger.sqlite3"
    shutil.copy(sqlite_template, path)
    with web_client(tmp_path / "data", {"DATABASE_URL": f"sqlite:///{path}"}) as web:
        assert web.callback(web.ticket(), SUCCEEDED).status_code == 200
        ticket = web.ticket()
        web.services.database.close()  # a disk with open files cannot become read-only
        with trouble(disk):
            for _ in range(2):
                answered = web.callback(ticket, SUCCEEDED)
                assert (answered.status_code, answered.headers["Retry-After"]) == (503, "5")
            ready = web.client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json["ledger"].startswith("the ledger cannot be used now")
            web.services.database.close()
        assert web.callback(ticket, SUCCEEDED).status_code == 200
        assert web.verdicts(ticket.partition(".")[0]) == ["ended"]
        until(lambda: web.client.get("/readyz").status_code == 200, what="that it is ready again")
