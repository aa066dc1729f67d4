"""The direct route, with the real ``openai`` package against a local server: one call a job."""

import json
from base64 import b64encode
from hashlib import sha256
from http.server import BaseHTTPRequestHandler

import pytest
from direct_route import MIB, DirectRoute, submission
from openai_server import (
    BLOCKED,
    PATH,
    PNGS,
    Endless,
    OpenAIServer,
    Script,
    answered,
    cut_off,
    cut_short,
    silence,
    with_pictures,
    with_urls,
    wrong,
)
from processes import free_port

from receiver.archive.manifest import manifest_key
from receiver.jobs.submit import BACK_OFF
from receiver.ledger.rows import Job
from receiver.model import (
    AssetState,
    Decision,
    JobState,
    Reason,
    Source,
)
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy

TOO_MANY = wrong(429, "rate_limit_exceeded", "Rate limit reached")

# Pictures.


def test_pictures_in_the_answer_are_archived_without_another_connection(route: DirectRoute) -> None:
    with OpenAIServer(with_pictures(*PNGS)) as server:
        job = route.submit_service(server.url).submit(submission(n=3))
        assert (job.state, job.provider, job.provider_id, job.base_url) == (
            JobState.ARCHIVING,
            "openai",
            None,
            server.url,
        )
        route.work()
        assert (len(server.calls), server.connections) == (1, 1)
    assert route.ledger.job(job.ref).state is JobState.ARCHIVED
    assert route.stored(job.ref) == list(PNGS)
    assert [asset.sha256 for asset in route.ledger.assets_of(job.ref)] == [
        sha256(png).hexdigest() for png in PNGS
    ]
    written = json.loads(route.read(manifest_key(job.ref)))
    assert [asset["source_url"] for asset in written["assets"]] == [
        "delivery:0",
        "delivery:1",
        "delivery:2",
    ]
    (delivery,) = route.ledger.queries.deliveries(job.ref)
    assert (delivery.source, delivery.verdict) == (Source.SYNC, Decision.ENDED)
    assert [item["sha256"] for item in written["deliveries"]] == [sha256(delivery.body).hexdigest()]
    assert route.ledger.totals.audit().ok


def test_pictures_behind_urls_are_fetched_and_archived(route: DirectRoute) -> None:
    files = {f"{idx}.png": png for idx, png in enumerate(PNGS)}
    with OpenAIServer(with_urls(*files), files=files) as server:
        job = route.submit_service(server.url).submit(submission(n=3))
        route.work(Fetcher(AddressPolicy.parse([server.address], ()), max_bytes=MIB, timeout=5))
        assert (len(server.calls), sorted(server.fetched)) == (1, ["/0.png", "/1.png", "/2.png"])
    assert route.ledger.job(job.ref).state is JobState.ARCHIVED
    assert route.stored(job.ref) == list(PNGS)


def test_the_call_has_the_parameters_and_the_api_key(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as server:
        job = sqlite_route.submit_service(server.url).submit(
            submission(variants=1, size="1024x1024", quality="high", style="vivid", of_tomorrow=[1])
        )
    (call,) = server.calls
    assert (call.path, call.authorization) == (PATH, "Bearer sk-test")
    request = {"n": 1, "size": "1024x1024", "quality": "high", "style": "vivid", "of_tomorrow": [1]}
    assert call.body == {"model": "gpt-image-1.5", "prompt": "a fox", **request}
    assert json.loads(sqlite_route.ledger.queries.params(job.ref))["variants"] == 1, (
        "the job keeps the caller's parameters"
    )


def test_the_row_is_written_before_the_call(route: DirectRoute) -> None:
    seen: list[Job] = []

    def read_jobs_then_answer(request: BaseHTTPRequestHandler) -> None:
        seen.extend(route.jobs())
        with_pictures(PNGS[0])(request)

    with OpenAIServer(read_jobs_then_answer) as server:
        job = route.submit_service(server.url).submit(submission())
    assert [(row.ref, row.state) for row in seen] == [(job.ref, JobState.SUBMITTING)]


@pytest.mark.parametrize("content", ["rubbish!", "bm8gcGljdHVyZQ=="])
def test_bytes_that_are_no_picture_fail_the_job_at_once_and_the_others_are_kept(
    sqlite_route: DirectRoute, content: str
) -> None:
    good = b64encode(PNGS[0]).decode()
    with OpenAIServer(answered({"data": [{"b64_json": content}, {"b64_json": good}]})) as server:
        job = sqlite_route.submit_service(server.url).submit(submission(n=2))
    sqlite_route.work()
    ended = sqlite_route.ledger.job(job.ref)
    assert (ended.state, ended.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert [asset.state for asset in sqlite_route.ledger.assets_of(job.ref)] == [
        AssetState.FAILED,
        AssetState.ARCHIVED,
    ]
    assert sqlite_route.ledger.totals.audit().ok


# Other ends of a call.


@pytest.mark.parametrize(
    ("script", "state", "reason", "message"),
    [
        (
            wrong(400, "invalid_value", "Invalid size"),
            JobState.FAILED,
            Reason.REFUSED,
            "Invalid size",
        ),
        (
            wrong(401, "invalid_api_key", "Incorrect API key"),
            JobState.FAILED,
            Reason.REFUSED,
            "Incorrect API key",
        ),
        (wrong(403, None, "must be verified"), JobState.FAILED, Reason.REFUSED, "must be verified"),
        (
            wrong(404, "model_not_found", "no such model"),
            JobState.FAILED,
            Reason.REFUSED,
            "no such model",
        ),
        (
            wrong(429, "insufficient_quota", "exceeded your quota"),
            JobState.FAILED,
            Reason.REFUSED,
            "exceeded your quota",
        ),
        (BLOCKED, JobState.FAILED, Reason.INPUT_MODERATION, "safety system"),
        (answered({"data": []}), JobState.FAILED, Reason.NO_RESULT, "no picture"),
        (wrong(408, None, "timed out"), JobState.EXPIRED, None, "HTTP 408"),
        (wrong(500, "server_error", "The server had an error"), JobState.EXPIRED, None, "HTTP 500"),
        (answered(b"<html>", 503, **{"Retry-After": "0"}), JobState.EXPIRED, None, "HTTP 503"),
        (answered(b"", 307, Location=PATH), JobState.EXPIRED, None, "HTTP 307"),
        (answered(b"<html>"), JobState.EXPIRED, None, "cannot be read"),
        (cut_off, JobState.EXPIRED, None, "its answer was lost"),
        (cut_short, JobState.EXPIRED, None, "its answer was lost"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_call_is_made_once_whatever_its_end(
    sqlite_route: DirectRoute, script: Script, state: JobState, reason: Reason | None, message: str
) -> None:
    with OpenAIServer(script) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
        assert len(server.calls) == 1
    assert (job.state, job.reason) == (state, reason)
    assert message in job.message
    assert ("it may have been billed" in job.message) == (state is JobState.EXPIRED)
    assert sqlite_route.pauses == []
    assert sqlite_route.ledger.totals.audit().ok


def test_a_call_without_an_answer_is_given_up_and_not_repeated(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(silence) as server:
        job = sqlite_route.submit_service(server.url, timeout=0.2).submit(submission())
        assert len(server.calls) == 1
    assert (job.state, "its answer was lost" in job.message) == (JobState.EXPIRED, True)


def test_an_endless_answer_is_read_up_to_a_limit(sqlite_route: DirectRoute) -> None:
    endless = Endless()
    with OpenAIServer(endless) as server:
        job = sqlite_route.submit_service(server.url, max_picture_size=MIB).submit(submission())
    assert (job.state, "longer than" in job.message) == (JobState.EXPIRED, True)
    assert endless.sent < 16 * MIB, "what is above the bound is the buffers of two sockets"


def test_what_was_moderated_is_kept_as_a_delivery(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(BLOCKED) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
    (delivery,) = sqlite_route.ledger.queries.deliveries(job.ref)
    assert (delivery.source, delivery.verdict, b"moderation_blocked" in delivery.body) == (
        Source.SYNC,
        Decision.ENDED,
        True,
    )


def test_after_a_rate_limit_the_call_is_made_again_and_there_is_one_job(route: DirectRoute) -> None:
    with OpenAIServer(TOO_MANY, TOO_MANY, with_pictures(PNGS[0])) as server:
        job = route.submit_service(server.url).submit(submission())
        assert len(server.calls) == 3
    assert route.pauses == list(BACK_OFF[:2])
    assert [(row.ref, row.state) for row in route.jobs()] == [(job.ref, JobState.ARCHIVING)]


def test_a_rate_limit_without_end_ends_the_job_as_refused(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(TOO_MANY) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
        assert len(server.calls) == 1 + len(BACK_OFF)
    assert sqlite_route.pauses == list(BACK_OFF)
    assert (job.state, job.reason, job.message) == (
        JobState.FAILED,
        Reason.REFUSED,
        "never sent: Rate limit reached",
    )


def test_without_a_server_nothing_was_sent(sqlite_route: DirectRoute) -> None:
    job = sqlite_route.submit_service(f"http://127.0.0.1:{free_port()}/v1").submit(submission())
    assert sqlite_route.pauses == list(BACK_OFF)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.REFUSED)
    assert "never sent: no connection to http://127.0.0.1" in job.message
