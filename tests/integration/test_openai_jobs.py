"""Jobs of the direct route: their keys, retries, deadline and replays; a missing configuration."""

import sys
from http.server import BaseHTTPRequestHandler

import pytest
from direct_route import DirectRoute, submission
from openai_server import (
    BLOCKED,
    PNGS,
    OpenAIServer,
    Script,
    cut_off,
    with_pictures,
    wrong,
)
from side_by_side import side_by_side

from receiver.errors import ConfigurationError, ReceiverError
from receiver.ingest.tickets import Tickets
from receiver.jobs.retry import WAITS
from receiver.jobs.submit import SubmitService
from receiver.ledger.claims import LEASE
from receiver.model import (
    Decision,
    Delivery,
    JobState,
    Provider,
    Source,
)
from receiver.providers.client import Clients

# Keys.


@pytest.mark.parametrize(
    "script", [with_pictures(PNGS[0]), BLOCKED, cut_off], ids=["pictures", "moderated", "lost"]
)
def test_a_key_is_spent_by_each_call_that_may_have_cost_or_would_end_the_same(
    route: DirectRoute, script: Script
) -> None:
    with OpenAIServer(script) as server:
        first = route.submit_service(server.url).submit(submission(key="mine"))
        assert route.submit_service(server.url).submit(submission(key="mine")) == first
        assert len(server.calls) == 1


def test_a_refusal_does_not_spend_the_key(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(wrong(400, None, "Invalid size"), with_pictures(PNGS[0])) as server:
        first = sqlite_route.submit_service(server.url).submit(submission(key="mine"))
        second = sqlite_route.submit_service(server.url).submit(submission(key="mine"))
    assert (first.state, second.state) == (JobState.FAILED, JobState.ARCHIVING)


def test_one_key_used_many_times_at_once_is_paid_once(route: DirectRoute) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as server:
        submit_service = route.submit_service(server.url)
        jobs = side_by_side([lambda: submit_service.submit(submission(key="mine"))] * 6)
        assert len(server.calls) == 1
    assert {job.ref for job in jobs} == {job.ref for job in route.jobs()}
    assert len(route.jobs()) == 1


# Afterwards.


def test_a_lost_asset_whose_bytes_are_in_the_ledger_can_be_retried(route: DirectRoute) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as server:
        job = route.submit_service(server.url).submit(submission())
    obstacle = route.folder / "archive"
    obstacle.write_text("of the folder of that name")
    route.ledger.clock.advance(2 * 7200)
    route.work()
    route.ledger.clock.advance(LEASE)
    route.work()
    assert route.ledger.job(job.ref).state is JobState.EXPIRED
    obstacle.unlink()
    assert route.ledger.operator.retry(job.ref).state is JobState.ARCHIVING
    route.work()
    assert route.ledger.job(job.ref).state is JobState.ARCHIVED
    assert route.stored(job.ref) == [PNGS[0]]
    assert (len(server.calls), server.connections) == (1, 1)
    assert route.ledger.totals.audit().ok


def test_a_retry_that_cannot_help_is_refused(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(cut_off) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
    with pytest.raises(
        ReceiverError,
        match=r"no id at the provider.*look for it at the provider before you submit it again",
    ):
        sqlite_route.ledger.operator.retry(job.ref)


def test_a_job_whose_submitter_died_expires_at_its_deadline_with_an_explanation(
    route: DirectRoute,
) -> None:
    ref = route.ledger.jobs.submit(submission(), "https://api.openai.test/v1").ref
    route.work()
    assert route.ledger.job(ref).state is JobState.SUBMITTING
    route.ledger.clock.advance(3600)
    route.work()
    job = route.ledger.job(ref)
    assert job.state is JobState.EXPIRED
    assert "the process that submitted it ended before the answer came" in job.message
    assert "it may have been billed" in job.message
    assert "callback" not in job.message


def test_an_answer_that_the_ledger_cannot_take_now_is_kept_until_it_can(
    sqlite_route: DirectRoute,
) -> None:
    def answer_into_a_broken_ledger(request: BaseHTTPRequestHandler) -> None:
        sqlite_route.ledger.execute("ALTER TABLE deliveries RENAME TO away")
        with_pictures(PNGS[0])(request)

    sqlite_route.on_pause = lambda: sqlite_route.ledger.execute(
        "ALTER TABLE away RENAME TO deliveries"
    )
    with OpenAIServer(answer_into_a_broken_ledger) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
        assert len(server.calls) == 1
    assert (job.state, sqlite_route.pauses) == (JobState.ARCHIVING, [WAITS[0]])


def test_a_replayed_answer_changes_nothing_and_its_pictures_are_still_archived(
    route: DirectRoute,
) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as server:
        job = route.submit_service(server.url).submit(submission())
    (delivery,) = route.ledger.queries.deliveries(job.ref)
    again = Delivery(job.ref, Source.SYNC, delivery.body, delivery.received_at, Provider.OPENAI)
    assert route.ledger.inbox.accept(again, replayed=delivery.id) is Decision.DUPLICATE
    route.work()
    assert route.stored(job.ref) == [PNGS[0]]


# Before anything happens.


def test_without_an_api_key_nothing_is_sent(sqlite_route: DirectRoute) -> None:
    submit_service = SubmitService(
        sqlite_route.ledger.jobs,
        sqlite_route.ledger.inbox,
        Clients({}),
        Tickets(["0123456789abcdef"]),
        public_url=None,
    )
    with pytest.raises(ConfigurationError, match=r"^OPENAI_API_KEY: not set"):
        submit_service.submit(submission())
    assert sqlite_route.jobs() == []


def test_without_the_package_nothing_is_sent_and_the_remedy_is_named(
    sqlite_route: DirectRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with OpenAIServer(with_pictures(PNGS[0])) as server:
        with pytest.raises(
            ConfigurationError, match=r"pip install 'webhook-image-receiver\[openai\]'"
        ):
            sqlite_route.submit_service(server.url).submit(submission())
        assert server.connections == 0
    assert sqlite_route.jobs() == []
