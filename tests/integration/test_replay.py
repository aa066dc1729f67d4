"""A report that could not be read, or came too late, is replayed from the stored delivery."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import Books, failed, stored, succeeded, urls
from web_client import SUCCEEDED, web_client

from receiver.errors import UnreadableError
from receiver.model import AssetState, Decision, Delivery, JobState, Source
from receiver.providers.grsai.dialect import Grsai

# Deliveries


def fail_to_read(_body: bytes) -> None:
    raise ZeroDivisionError("hunter2")


def test_a_report_that_we_cannot_read_is_stored_and_replayed_after_the_fix(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = books.waiting()
    with monkeypatch.context() as patched:
        patched.setattr(Grsai, "read_report", staticmethod(fail_to_read))
        with pytest.raises(UnreadableError, match="ZeroDivisionError") as raised:
            books.deliver(ref, succeeded())
    assert "hunter2" not in str(raised.value)
    (stored_report,) = books.queries.deliveries(ref)
    assert (stored_report.verdict, stored_report.body, books.job(ref).state) == (
        "unreadable",
        succeeded(),
        JobState.WAITING,
    )
    assert replay(books, stored_report.id) is Decision.ENDED
    assert (books.verdicts(ref), books.pending(ref)) == (["ended"], [0])


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


def replay(books: Books, number: int) -> Decision:
    row = books.queries.delivery(number)
    assert row is not None
    return books.inbox.accept(
        Delivery(row.ref, Source(row.source), row.body, row.received_at), replayed=number
    )


@pytest.mark.parametrize("end", [Books.failed, Books.expired])
def test_a_success_that_came_too_late_is_replayed_and_reopens_its_job(
    books: Books, end: Callable[[Books], str]
) -> None:
    ref = end(books)
    books.deliver(ref, succeeded(*urls(2)))
    number = books.queries.deliveries(ref)[-1].id
    assert replay(books, number) is Decision.ENDED
    job = books.job(ref)
    assert (job.state, job.round, books.pending(ref)) == (JobState.ARCHIVING, 1, [0, 1])
    for claimed in books.assets.claim(2):
        books.assets.finish(claimed, stored(claimed))
    books.conclude(ref)
    assert books.job(ref).state is JobState.ARCHIVED
    assert books.totals.audit().ok


def test_replaying_a_success_tries_only_the_lost_assets_of_its_job_again(books: Books) -> None:
    ref = books.archiving(2)
    for claimed in books.assets.claim(2):
        if claimed.row.idx:
            books.assets.give_up(claimed, AssetState.EXPIRED, "too late")
        else:
            books.assets.finish(claimed, stored(claimed))
    books.conclude(ref, JobState.EXPIRED)
    assert replay(books, books.queries.deliveries(ref)[0].id) is Decision.REFRESHED
    assert (books.job(ref).state, books.pending(ref)) == (JobState.ARCHIVING, [1])


@pytest.mark.parametrize("body", [failed(), succeeded("")])
def test_replaying_a_report_without_a_result_reopens_nothing(books: Books, body: bytes) -> None:
    ref = books.expired()
    books.deliver(ref, body)
    replay(books, books.queries.deliveries(ref)[-1].id)
    assert (books.job(ref).state, books.job(ref).round) == (JobState.EXPIRED, 0)
