"""The direct route, with the real ``openai`` package against a local server.

Each job is paid only once, and every picture is archived.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NoReturn

import pytest
from ledgers import Books, opened
from openai_server import (
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
from side_by_side import side_by_side

from receiver.archive.manifest import manifest_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ConfigurationError, ReceiverError
from receiver.ingest.tickets import Tickets
from receiver.jobs.retry import WAITS
from receiver.jobs.submit import BACK_OFF, SubmitService
from receiver.ledger.claims import LEASE
from receiver.ledger.rows import Job
from receiver.model import (
    Api,
    AssetState,
    Decision,
    Delivery,
    JobState,
    Mode,
    Provider,
    Reason,
    Source,
    Submission,
)
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.openai.client import OpenAIClient

MIB = 1024 * 1024
TOO_MANY = wrong(429, "rate_limit_exceeded", "Rate limit reached")
BLOCKED = wrong(
    400,
    "moderation_blocked",
    "Your request was rejected by the safety system.",
    type="image_generation_user_error",
)


def forbidden(*_: object) -> NoReturn:
    raise AssertionError("a connection for bytes that are here already")


class DirectRoute:
    """Everything from a submit to the archive; pauses are recorded instead of made."""

    def __init__(self, books: Books, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.store = DirectoryStore(folder / "archive")
        self.pauses: list[float] = []
        self.on_pause: Callable[[], object] = list
        self.reconciler = books.reconciler(self.store, None, "https://grsai.test")

    def submit_service(
        self, base_url: str, *, timeout: float = 10.0, max_picture_size: int = MIB
    ) -> SubmitService:
        client = OpenAIClient(
            "sk-test", base_url, timeout=timeout, max_picture_size=max_picture_size
        )
        tickets = Tickets(["0123456789abcdef"])
        books = self.books
        return SubmitService(
            books.jobs,
            books.inbox,
            None,
            tickets,
            openai=client,
            base_url="unused",
            public_url=None,
            pause=self._pause,
        )

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.on_pause()

    def work(self, fetcher: Fetcher | None = None) -> None:
        """Do once what a worker finds due."""
        nowhere = Fetcher(
            AddressPolicy.parse((), ()),
            max_bytes=MIB,
            timeout=5,
            resolve=forbidden,
            connect=forbidden,
        )
        archiver = self.books.archiver(fetcher or nowhere, self.store, self.scratch)
        for asset in self.books.assets.claim(100):
            archiver.archive(asset)
        for job in self.books.jobs.claim(100):
            self.reconciler.reconcile_job(job)
        assert list(self.scratch.iterdir()) == []

    def stored(self, ref: str) -> list[bytes]:
        return [self.read(asset.key or "") for asset in self.books.assets_of(ref)]

    def read(self, key: str) -> bytes:
        with self.store.open(key) as file:
            return file.read()

    def jobs(self) -> list[Job]:
        return self.books.queries.jobs()


@pytest.fixture
def route(books: Books, tmp_path: Path) -> DirectRoute:
    return DirectRoute(books, tmp_path)


@pytest.fixture
def sqlite_route(sqlite_url: str, tmp_path: Path) -> Iterator[DirectRoute]:
    """Stand on SQLite alone, for what has nothing to do with the database."""
    with opened(sqlite_url) as books:
        yield DirectRoute(books, tmp_path)


def submission(key: str | None = None, **params: object) -> Submission:
    return Submission("a fox", "gpt-image-1.5", params, Mode.SYNC, Provider.OPENAI, Api.IMAGES, key)


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
    assert route.books.job(job.ref).state is JobState.ARCHIVED
    assert route.stored(job.ref) == list(PNGS)
    assert [asset.sha256 for asset in route.books.assets_of(job.ref)] == [
        sha256(png).hexdigest() for png in PNGS
    ]
    written = json.loads(route.read(manifest_key(job.ref)))
    assert [asset["source_url"] for asset in written["assets"]] == [
        "delivery:0",
        "delivery:1",
        "delivery:2",
    ]
    (delivery,) = route.books.queries.deliveries(job.ref)
    assert (delivery.source, delivery.verdict) == (Source.SYNC, Decision.ENDED)
    assert [item["sha256"] for item in written["deliveries"]] == [sha256(delivery.body).hexdigest()]
    assert route.books.totals.audit().ok


def test_pictures_behind_urls_are_fetched_and_archived(route: DirectRoute) -> None:
    files = {f"{idx}.png": png for idx, png in enumerate(PNGS)}
    with OpenAIServer(with_urls(*files), files=files) as server:
        job = route.submit_service(server.url).submit(submission(n=3))
        route.work(Fetcher(AddressPolicy.parse([server.address], ()), max_bytes=MIB, timeout=5))
        assert (len(server.calls), sorted(server.fetched)) == (1, ["/0.png", "/1.png", "/2.png"])
    assert route.books.job(job.ref).state is JobState.ARCHIVED
    assert route.stored(job.ref) == list(PNGS)


def test_the_call_says_what_was_asked_and_with_which_key(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as server:
        job = sqlite_route.submit_service(server.url).submit(
            submission(variants=1, size="1024x1024", quality="high", style="vivid", of_tomorrow=[1])
        )
    (call,) = server.calls
    assert (call.path, call.authorization) == (PATH, "Bearer sk-test")
    request = {"n": 1, "size": "1024x1024", "quality": "high", "style": "vivid", "of_tomorrow": [1]}
    assert call.body == {"model": "gpt-image-1.5", "prompt": "a fox", **request}
    assert json.loads(sqlite_route.books.queries.params(job.ref))["variants"] == 1, (
        "the job keeps the caller's words"
    )


def test_the_row_is_written_before_the_call(route: DirectRoute) -> None:
    seen: list[Job] = []

    def look_then_answer(request: BaseHTTPRequestHandler) -> None:
        seen.extend(route.jobs())
        with_pictures(PNGS[0])(request)

    with OpenAIServer(look_then_answer) as server:
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
    ended = sqlite_route.books.job(job.ref)
    assert (ended.state, ended.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert [asset.state for asset in sqlite_route.books.assets_of(job.ref)] == [
        AssetState.FAILED,
        AssetState.ARCHIVED,
    ]
    assert sqlite_route.books.totals.audit().ok


# What else can come of a call.


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
def test_whatever_comes_of_a_call_it_is_made_once(
    sqlite_route: DirectRoute, script: Script, state: JobState, reason: Reason | None, message: str
) -> None:
    with OpenAIServer(script) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
        assert len(server.calls) == 1
    assert (job.state, job.reason) == (state, reason)
    assert message in job.message
    assert ("it may have been billed" in job.message) == (state is JobState.EXPIRED)
    assert sqlite_route.pauses == []
    assert sqlite_route.books.totals.audit().ok


def test_a_silent_call_is_given_up_and_not_made_again(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(silence) as server:
        job = sqlite_route.submit_service(server.url, timeout=0.2).submit(submission())
        assert len(server.calls) == 1
    assert (job.state, "its answer was lost" in job.message) == (JobState.EXPIRED, True)


def test_an_answer_without_end_is_read_no_further_than_it_may(sqlite_route: DirectRoute) -> None:
    endless = Endless()
    with OpenAIServer(endless) as server:
        job = sqlite_route.submit_service(server.url, max_picture_size=MIB).submit(submission())
    assert (job.state, "longer than" in job.message) == (JobState.EXPIRED, True)
    assert endless.sent < 16 * MIB, "what is above the bound is the buffers of two sockets"


def test_what_was_moderated_is_kept_as_a_delivery(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(BLOCKED) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
    (delivery,) = sqlite_route.books.queries.deliveries(job.ref)
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


# Keys.


@pytest.mark.parametrize(
    "script", [with_pictures(PNGS[0]), BLOCKED, cut_off], ids=["pictures", "moderated", "lost"]
)
def test_a_key_is_spent_by_whatever_may_have_cost_or_would_be_said_again(
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
    in_the_way = route.folder / "archive"
    in_the_way.write_text("of the folder of that name")
    route.books.clock.advance(2 * 7200)
    route.work()
    route.books.clock.advance(LEASE)
    route.work()
    assert route.books.job(job.ref).state is JobState.EXPIRED
    in_the_way.unlink()
    assert route.books.operator.retry(job.ref).state is JobState.ARCHIVING
    route.work()
    assert route.books.job(job.ref).state is JobState.ARCHIVED
    assert route.stored(job.ref) == [PNGS[0]]
    assert (len(server.calls), server.connections) == (1, 1)
    assert route.books.totals.audit().ok


def test_a_retry_that_cannot_help_says_so(sqlite_route: DirectRoute) -> None:
    with OpenAIServer(cut_off) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
    with pytest.raises(
        ReceiverError,
        match=r"no id at the provider.*look for it at the provider before you submit it again",
    ):
        sqlite_route.books.operator.retry(job.ref)


def test_a_job_whose_submitter_died_expires_at_its_deadline_with_words_for_a_person(
    route: DirectRoute,
) -> None:
    ref = route.books.jobs.submit(submission(), "https://api.openai.test/v1").ref
    route.work()
    assert route.books.job(ref).state is JobState.SUBMITTING
    route.books.clock.advance(3600)
    route.work()
    job = route.books.job(ref)
    assert job.state is JobState.EXPIRED
    assert "the process that submitted it ended before the answer came" in job.message
    assert "it may have been billed" in job.message
    assert "callback" not in job.message


def test_an_answer_that_the_ledger_cannot_take_now_is_kept_until_it_can(
    sqlite_route: DirectRoute,
) -> None:
    def answer_into_a_broken_ledger(request: BaseHTTPRequestHandler) -> None:
        sqlite_route.books.execute("ALTER TABLE deliveries RENAME TO away")
        with_pictures(PNGS[0])(request)

    sqlite_route.on_pause = lambda: sqlite_route.books.execute(
        "ALTER TABLE away RENAME TO deliveries"
    )
    with OpenAIServer(answer_into_a_broken_ledger) as server:
        job = sqlite_route.submit_service(server.url).submit(submission())
        assert len(server.calls) == 1
    assert (job.state, sqlite_route.pauses) == (JobState.ARCHIVING, [WAITS[0]])


def test_a_replayed_answer_changes_nothing_and_its_pictures_stay_within_reach(
    route: DirectRoute,
) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as server:
        job = route.submit_service(server.url).submit(submission())
    (kept,) = route.books.queries.deliveries(job.ref)
    again = Delivery(job.ref, Source.SYNC, kept.body, kept.received_at)
    assert route.books.inbox.accept(again, replayed=kept.id) is Decision.DUPLICATE
    route.work()
    assert route.stored(job.ref) == [PNGS[0]]


# Before anything happens.


def test_without_a_key_nothing_happens(sqlite_route: DirectRoute) -> None:
    submit_service = SubmitService(
        sqlite_route.books.jobs,
        sqlite_route.books.inbox,
        None,
        Tickets(["0123456789abcdef"]),
        base_url="unused",
        public_url=None,
    )
    with pytest.raises(ConfigurationError, match=r"^OPENAI_API_KEY: not set"):
        submit_service.submit(submission())
    assert sqlite_route.jobs() == []


def test_without_the_package_nothing_happens_and_the_remedy_is_named(
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
