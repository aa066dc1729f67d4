"""A report that could not be read, or came too late, is replayed from the stored delivery."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import LedgerHarness, failed, stored, succeeded, urls
from web_client import SUCCEEDED, web_client

from receiver.errors import UnreadableError
from receiver.model import AssetState, Decision, Delivery, JobState, Source
from receiver.providers.grsai.dialect import Grsai

# Deliveries


def fail_to_read(_body: bytes) -> None:
    raise ZeroDivisionError("hunter2")


def test_a_report_that_we_cannot_read_is_stored_and_replayed_after_the_fix(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ledger.waiting()
    with monkeypatch.context() as patched:
        patched.setattr(Grsai, "read_report", staticmethod(fail_to_read))
        with pytest.raises(UnreadableError, match="ZeroDivisionError") as raised:
            ledger.deliver(ref, succeeded())
    assert "hunter2" not in str(raised.value)
    (stored_report,) = ledger.queries.deliveries(ref)
    assert (stored_report.verdict, stored_report.body, ledger.job(ref).state) == (
        "unreadable",
        succeeded(),
        JobState.WAITING,
    )
    assert replay(ledger, stored_report.id) is Decision.ENDED
    assert (ledger.verdicts(ref), ledger.pending(ref)) == (["ended"], [0])


def test_a_report_that_raises_an_error_is_answered_400_and_the_next_one_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_client(tmp_path) as web:
        ticket, other = web.ticket(), web.ticket()
        with monkeypatch.context() as patched:
            patched.setattr(Grsai, "read_report", staticmethod(fail_to_read))
            answer = web.callback(ticket, SUCCEEDED)
        assert (answer.status_code, answer.json["ok"]) == (400, False)
        assert "hunter2" not in answer.text
        assert web.verdicts(ticket.partition(".")[0]) == ["unreadable"]
        assert web.callback(other, SUCCEEDED).status_code == 200


def replay(ledger: LedgerHarness, number: int) -> Decision:
    row = ledger.queries.delivery(number)
    assert row is not None
    return ledger.inbox.accept(
        Delivery(row.ref, Source(row.source), row.body, row.received_at), replayed=number
    )


@pytest.mark.parametrize("end", [LedgerHarness.failed, LedgerHarness.expired])
def test_a_success_that_came_too_late_is_replayed_and_reopens_its_job(
    ledger: LedgerHarness, end: Callable[[LedgerHarness], str]
) -> None:
    ref = end(ledger)
    ledger.deliver(ref, succeeded(*urls(2)))
    number = ledger.queries.deliveries(ref)[-1].id
    assert replay(ledger, number) is Decision.ENDED
    job = ledger.job(ref)
    assert (job.state, job.round, ledger.pending(ref)) == (JobState.ARCHIVING, 1, [0, 1])
    for claimed in ledger.assets.claim(2):
        ledger.assets.finish(claimed, stored(claimed))
    ledger.conclude(ref)
    assert ledger.job(ref).state is JobState.ARCHIVED
    assert ledger.totals.audit().ok


def test_replaying_a_success_tries_only_the_lost_assets_of_its_job_again(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.archiving(2)
    for claimed in ledger.assets.claim(2):
        if claimed.row.idx:
            ledger.assets.give_up(claimed, AssetState.EXPIRED, "too late")
        else:
            ledger.assets.finish(claimed, stored(claimed))
    ledger.conclude(ref, JobState.EXPIRED)
    assert replay(ledger, ledger.queries.deliveries(ref)[0].id) is Decision.REFRESHED
    assert (ledger.job(ref).state, ledger.pending(ref)) == (JobState.ARCHIVING, [1])


@pytest.mark.parametrize("body", [failed(), succeeded("")])
def test_replaying_a_report_without_a_result_reopens_nothing(
    ledger: LedgerHarness, body: bytes
) -> None:
    ref = ledger.expired()
    ledger.deliver(ref, body)
    replay(ledger, ledger.queries.deliveries(ref)[-1].id)
    assert (ledger.job(ref).state, ledger.job(ref).round) == (JobState.EXPIRED, 0)
