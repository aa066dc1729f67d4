"""Heartbeats of workers, on both databases: written, renewed, missed and ended."""

from contextlib import closing
from pathlib import Path

import pytest
from ledgers import LedgerHarness
from sqlalchemy import text
from waiting import until

from receiver import clock
from receiver.data_dir import locked
from receiver.doctor.checks import Trouble
from receiver.doctor.machine import workers as doctor_workers
from receiver.ledger.workers import Worker, Workers
from receiver.services import Services
from receiver.settings import Settings
from receiver.worker import heartbeat as module
from receiver.worker.heartbeat import heartbeat

pytestmark = pytest.mark.both_databases


@pytest.fixture
def workers(ledger: LedgerHarness) -> Workers:
    return Workers(ledger.database)


def settings_for(ledger_url: str, tmp_path: Path) -> Settings:
    """Return settings with this ledger."""
    environ = {
        "DATA_DIR": str(tmp_path / "data"),
        "DATABASE_URL": ledger_url.replace("+psycopg", ""),
        "CALLBACK_SECRETS": "a-planted-secret-0123",
        "ARCHIVE_URL": "s3://never-opened",
        "ADMIN_TOKEN": "a-planted-token-0123",
    }
    return Settings.load(environ)


def age_by(ledger: LedgerHarness, seconds: float) -> None:
    """Make the last heartbeat of all workers this old."""
    ledger.execute(f"UPDATE workers SET seen_at = seen_at - {seconds}")  # noqa: S608 - a number of ours


def test_a_worker_is_alive_until_it_was_silent_for_long(
    ledger: LedgerHarness, workers: Workers
) -> None:
    me = Worker(host="here", pid=7)
    assert not workers.are_alive()
    workers.begin(me, alone=False)
    assert workers.are_alive()
    age_by(ledger, 41)
    assert not workers.are_alive()
    assert workers.renew(me, {"listening": True})
    (seen,) = workers.seen()
    assert (seen.host, seen.pid, seen.report) == ("here", 7, {"listening": True})
    assert -1 < seen.age < 5
    workers.end(me)
    assert workers.seen() == []


def test_workers_beside_each_other_keep_their_rows_and_one_that_is_alone_has_the_only_one(
    workers: Workers,
) -> None:
    first, second, third = Worker(), Worker(), Worker()
    workers.begin(first, alone=False)
    workers.begin(second, alone=False)
    assert len(workers.seen()) == 2
    workers.begin(third, alone=True)
    assert len(workers.seen()) == 1
    assert not workers.renew(first, {})


def test_a_worker_that_died_is_shown_for_an_hour(ledger: LedgerHarness, workers: Workers) -> None:
    workers.begin(Worker(), alone=False)
    age_by(ledger, 3000)
    assert [worker.is_alive for worker in workers.seen()] == [False]
    age_by(ledger, 3000)
    assert workers.seen() == []
    workers.begin(Worker(), alone=False)
    assert len(ledger.everything()["workers"]) == 1


def test_a_sign_from_the_future_is_of_no_living_worker(
    ledger: LedgerHarness, workers: Workers
) -> None:
    me = Worker()
    workers.begin(me, alone=False)
    age_by(ledger, -7200)
    assert not workers.are_alive()
    assert workers.renew(me, {})
    assert workers.are_alive()


@pytest.mark.parametrize("step", [-7200, 7200])
def test_a_worker_that_began_after_the_clock_was_set_is_seen_by_those_before(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    settings = settings_for(ledger_url, tmp_path)
    with closing(Services(settings).open()) as web, closing(Services(settings).open()) as later:
        with monkeypatch.context() as patch:
            patch.setattr(later, "now", lambda: clock.now() + step)
            later.workers.begin(Worker(), alone=True)
        assert web.has_worker()
        assert [-1 < seen.age < 5 for seen in web.workers.seen()] == [True]


def test_signs_are_given_until_the_end_and_begun_again_after_the_row_was_deleted(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.001)
    with heartbeat(workers, lambda: {"disks": []}, alone=False):
        until(workers.are_alive, what="a sign")
        workers.begin(Worker(), alone=True)
        until(lambda: len(workers.seen()) == 2, what="another sign")
    assert len(workers.seen()) == 1


def test_a_ledger_knows_whether_a_worker_of_any_machine_serves_it(
    ledger_url: str, tmp_path: Path
) -> None:
    with closing(Services(settings_for(ledger_url, tmp_path)).open()) as services:
        assert not services.has_worker()
        services.workers.begin(Worker(), alone=False)
        assert services.has_worker()
        assert len(services.ledger_id) == 32
    with closing(Services(settings_for(ledger_url, tmp_path)).open()) as again:
        assert again.ledger_id == services.ledger_id


def test_a_worker_that_holds_its_lock_and_was_silent_for_long_hangs(
    ledger_url: str, tmp_path: Path
) -> None:
    settings = settings_for(ledger_url, tmp_path)
    with closing(Services(settings).open()) as services, locked(settings.data_dir / "worker.lock"):
        assert services.has_worker() is settings.embedded  # it has not sent a heartbeat yet
        services.workers.begin(Worker(), alone=True)
        services.database.write(
            lambda connection: connection.execute(text("UPDATE workers SET seen_at = seen_at - 41"))
        )
        assert not services.has_worker()
        with pytest.raises(Trouble, match="no worker serves this ledger"):
            doctor_workers(services)
