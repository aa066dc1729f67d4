"""The direct route, with the real ``openai`` package against a server on this machine: paid once, and every picture brought home."""

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

from receiver.archive.archiver import Archiver
from receiver.archive.manifest import manifest_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ConfigurationError, ReceiverError
from receiver.ingest.tickets import Tickets
from receiver.jobs.reconcile import Reconciler
from receiver.jobs.retry import WAITS
from receiver.jobs.submit import BACK_OFF, SubmitService
from receiver.ledger.ledger import LEASE
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


class OpenAIHarness:
    """Everything between a submit and the archive, with the pauses of the desk noted down instead of made."""

    def __init__(self, books: Books, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.store = DirectoryStore(folder / "archive")
        self.pauses: list[float] = []
        self.on_pause: Callable[[], object] = list
        self.reconciler = Reconciler(
            books.ledger, books.queries, books.inbox, self.store, None, "https://grsai.test"
        )

    def submit_service(
        self, base_url: str, *, timeout: float = 10.0, largest_picture: int = MIB
    ) -> SubmitService:
        client = OpenAIClient("sk-test", base_url, timeout=timeout, largest_picture=largest_picture)
        tickets = Tickets(["0123456789abcdef"])
        books = self.books
        return SubmitService(
            books.ledger,
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
        archiver = Archiver(self.books.ledger, fetcher or nowhere, self.store, self.scratch)
        for asset in self.books.ledger.claim_assets(100):
            archiver.archive(asset)
        for job in self.books.ledger.claim_jobs(100):
            self.reconciler.look(job)
        assert list(self.scratch.iterdir()) == []

    def stored(self, ref: str) -> list[bytes]:
        return [self.read(asset.key or "") for asset in self.books.assets(ref)]

    def read(self, key: str) -> bytes:
        with self.store.open(key) as file:
            return file.read()

    def jobs(self) -> list[Job]:
        return self.books.queries.jobs()


@pytest.fixture
def harness(books: Books, tmp_path: Path) -> OpenAIHarness:
    return OpenAIHarness(books, tmp_path)


@pytest.fixture
def small_harness(sqlite_url: str, tmp_path: Path) -> Iterator[OpenAIHarness]:
    """Stand on SQLite alone, for what has nothing to do with the database."""
    with opened(sqlite_url) as books:
        yield OpenAIHarness(books, tmp_path)


def order(key: str | None = None, **params: object) -> Submission:
    return Submission("a fox", "gpt-image-1.5", params, Mode.SYNC, Provider.OPENAI, Api.IMAGES, key)


# Pictures.


def test_pictures_in_the_answer_are_archived_without_another_connection(
    harness: OpenAIHarness,
) -> None:
    with OpenAIServer(with_pictures(*PNGS)) as side:
        job = harness.submit_service(side.url).submit(order(n=3))
        assert (job.state, job.provider, job.provider_id, job.base_url) == (
            JobState.ARCHIVING,
            "openai",
            None,
            side.url,
        )
        harness.work()
        assert (len(side.calls), side.connections) == (1, 1)
    assert harness.books.job(job.ref).state is JobState.ARCHIVED
    assert harness.stored(job.ref) == list(PNGS)
    assert [asset.sha256 for asset in harness.books.assets(job.ref)] == [
        sha256(png).hexdigest() for png in PNGS
    ]
    written = json.loads(harness.read(manifest_key(job.ref)))
    assert [asset["source_url"] for asset in written["assets"]] == [
        "delivery:0",
        "delivery:1",
        "delivery:2",
    ]
    (delivery,) = harness.books.queries.deliveries(job.ref)
    assert (delivery.source, delivery.verdict) == (Source.SYNC, Decision.ENDED)
    assert [item["sha256"] for item in written["deliveries"]] == [sha256(delivery.body).hexdigest()]
    assert harness.books.queries.audit().ok


def test_pictures_behind_urls_are_fetched_and_archived(harness: OpenAIHarness) -> None:
    files = {f"{idx}.png": png for idx, png in enumerate(PNGS)}
    with OpenAIServer(with_urls(*files), files=files) as side:
        job = harness.submit_service(side.url).submit(order(n=3))
        harness.work(Fetcher(AddressPolicy.parse([side.address], ()), max_bytes=MIB, timeout=5))
        assert (len(side.calls), sorted(side.fetched)) == (1, ["/0.png", "/1.png", "/2.png"])
    assert harness.books.job(job.ref).state is JobState.ARCHIVED
    assert harness.stored(job.ref) == list(PNGS)


def test_the_call_says_what_was_asked_and_with_which_key(small_harness: OpenAIHarness) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as side:
        job = small_harness.submit_service(side.url).submit(
            order(variants=1, size="1024x1024", quality="high", style="vivid", of_tomorrow=[1])
        )
    (call,) = side.calls
    assert (call.path, call.authorization) == (PATH, "Bearer sk-test")
    asked = {"n": 1, "size": "1024x1024", "quality": "high", "style": "vivid", "of_tomorrow": [1]}
    assert call.body == {"model": "gpt-image-1.5", "prompt": "a fox", **asked}
    assert json.loads(small_harness.books.queries.params(job.ref))["variants"] == 1, (
        "the job keeps the caller's words"
    )


def test_the_row_is_written_before_the_call(harness: OpenAIHarness) -> None:
    seen: list[Job] = []

    def look_then_answer(asked: BaseHTTPRequestHandler) -> None:
        seen.extend(harness.jobs())
        with_pictures(PNGS[0])(asked)

    with OpenAIServer(look_then_answer) as side:
        job = harness.submit_service(side.url).submit(order())
    assert [(row.ref, row.state) for row in seen] == [(job.ref, JobState.SUBMITTING)]


@pytest.mark.parametrize("content", ["rubbish!", "bm8gcGljdHVyZQ=="])
def test_bytes_that_are_no_picture_fail_the_job_at_once_and_the_others_are_kept(
    small_harness: OpenAIHarness, content: str
) -> None:
    good = b64encode(PNGS[0]).decode()
    with OpenAIServer(answered({"data": [{"b64_json": content}, {"b64_json": good}]})) as side:
        job = small_harness.submit_service(side.url).submit(order(n=2))
    small_harness.work()
    ended = small_harness.books.job(job.ref)
    assert (ended.state, ended.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert [asset.state for asset in small_harness.books.assets(job.ref)] == [
        AssetState.FAILED,
        AssetState.ARCHIVED,
    ]
    assert small_harness.books.queries.audit().ok


# What else can come of a call.


@pytest.mark.parametrize(
    ("script", "state", "reason", "said"),
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
    small_harness: OpenAIHarness, script: Script, state: JobState, reason: Reason | None, said: str
) -> None:
    with OpenAIServer(script) as side:
        job = small_harness.submit_service(side.url).submit(order())
        assert len(side.calls) == 1
    assert (job.state, job.reason) == (state, reason)
    assert said in job.message
    assert ("it may have been billed" in job.message) == (state is JobState.EXPIRED)
    assert small_harness.pauses == []
    assert small_harness.books.queries.audit().ok


def test_a_silent_call_is_given_up_and_not_made_again(small_harness: OpenAIHarness) -> None:
    with OpenAIServer(silence) as side:
        job = small_harness.submit_service(side.url, timeout=0.2).submit(order())
        assert len(side.calls) == 1
    assert (job.state, "its answer was lost" in job.message) == (JobState.EXPIRED, True)


def test_an_answer_without_end_is_read_no_further_than_it_may(small_harness: OpenAIHarness) -> None:
    endless = Endless()
    with OpenAIServer(endless) as side:
        job = small_harness.submit_service(side.url, largest_picture=MIB).submit(order())
    assert (job.state, "longer than" in job.message) == (JobState.EXPIRED, True)
    assert endless.sent < 16 * MIB, "what is above the bound is the buffers of two sockets"


def test_what_was_moderated_is_kept_as_a_delivery(small_harness: OpenAIHarness) -> None:
    with OpenAIServer(BLOCKED) as side:
        job = small_harness.submit_service(side.url).submit(order())
    (delivery,) = small_harness.books.queries.deliveries(job.ref)
    assert (delivery.source, delivery.verdict, b"moderation_blocked" in delivery.body) == (
        Source.SYNC,
        Decision.ENDED,
        True,
    )


def test_after_a_rate_limit_the_call_is_made_again_and_there_is_one_job(
    harness: OpenAIHarness,
) -> None:
    with OpenAIServer(TOO_MANY, TOO_MANY, with_pictures(PNGS[0])) as side:
        job = harness.submit_service(side.url).submit(order())
        assert len(side.calls) == 3
    assert harness.pauses == list(BACK_OFF[:2])
    assert [(row.ref, row.state) for row in harness.jobs()] == [(job.ref, JobState.ARCHIVING)]


def test_a_rate_limit_without_end_ends_the_job_as_refused(small_harness: OpenAIHarness) -> None:
    with OpenAIServer(TOO_MANY) as side:
        job = small_harness.submit_service(side.url).submit(order())
        assert len(side.calls) == 1 + len(BACK_OFF)
    assert small_harness.pauses == list(BACK_OFF)
    assert (job.state, job.reason, job.message) == (
        JobState.FAILED,
        Reason.REFUSED,
        "never sent: Rate limit reached",
    )


def test_where_nobody_listens_nothing_was_sent(small_harness: OpenAIHarness) -> None:
    job = small_harness.submit_service(f"http://127.0.0.1:{free_port()}/v1").submit(order())
    assert small_harness.pauses == list(BACK_OFF)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.REFUSED)
    assert "never sent: no connection to http://127.0.0.1" in job.message


# Keys.


@pytest.mark.parametrize(
    "script", [with_pictures(PNGS[0]), BLOCKED, cut_off], ids=["pictures", "moderated", "lost"]
)
def test_a_key_is_spent_by_whatever_may_have_cost_or_would_be_said_again(
    harness: OpenAIHarness, script: Script
) -> None:
    with OpenAIServer(script) as side:
        first = harness.submit_service(side.url).submit(order(key="mine"))
        assert harness.submit_service(side.url).submit(order(key="mine")) == first
        assert len(side.calls) == 1


def test_a_refusal_does_not_spend_the_key(small_harness: OpenAIHarness) -> None:
    with OpenAIServer(wrong(400, None, "Invalid size"), with_pictures(PNGS[0])) as side:
        first = small_harness.submit_service(side.url).submit(order(key="mine"))
        second = small_harness.submit_service(side.url).submit(order(key="mine"))
    assert (first.state, second.state) == (JobState.FAILED, JobState.ARCHIVING)


def test_one_key_in_many_hands_at_once_is_paid_once(harness: OpenAIHarness) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as side:
        submit_service = harness.submit_service(side.url)
        jobs = side_by_side([lambda: submit_service.submit(order(key="mine"))] * 6)
        assert len(side.calls) == 1
    assert {job.ref for job in jobs} == {job.ref for job in harness.jobs()}
    assert len(harness.jobs()) == 1


# Afterwards.


def test_a_lost_asset_whose_bytes_are_in_the_ledger_can_be_retried(harness: OpenAIHarness) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as side:
        job = harness.submit_service(side.url).submit(order())
    in_the_way = harness.folder / "archive"
    in_the_way.write_text("of the folder of that name")
    harness.books.clock.advance(2 * 7200)
    harness.work()
    harness.books.clock.advance(LEASE)
    harness.work()
    assert harness.books.job(job.ref).state is JobState.EXPIRED
    in_the_way.unlink()
    assert harness.books.ledger.retry(job.ref).state is JobState.ARCHIVING
    harness.work()
    assert harness.books.job(job.ref).state is JobState.ARCHIVED
    assert harness.stored(job.ref) == [PNGS[0]]
    assert (len(side.calls), side.connections) == (1, 1)
    assert harness.books.queries.audit().ok


def test_a_retry_that_cannot_help_says_so(small_harness: OpenAIHarness) -> None:
    with OpenAIServer(cut_off) as side:
        job = small_harness.submit_service(side.url).submit(order())
    with pytest.raises(
        ReceiverError,
        match=r"no id at the provider.*look for it at the provider before you submit it again",
    ):
        small_harness.books.ledger.retry(job.ref)


def test_a_job_whose_submitter_died_expires_at_its_deadline_with_words_for_a_person(
    harness: OpenAIHarness,
) -> None:
    ref = harness.books.ledger.submit(order(), "https://api.openai.test/v1").ref
    harness.work()
    assert harness.books.job(ref).state is JobState.SUBMITTING
    harness.books.clock.advance(3600)
    harness.work()
    job = harness.books.job(ref)
    assert job.state is JobState.EXPIRED
    assert "died or was stopped before the answer came" in job.message
    assert "it may have been billed" in job.message
    assert "callback" not in job.message


def test_an_answer_that_the_ledger_cannot_take_now_is_kept_until_it_can(
    small_harness: OpenAIHarness,
) -> None:
    def answer_into_a_broken_ledger(asked: BaseHTTPRequestHandler) -> None:
        small_harness.books.execute("ALTER TABLE deliveries RENAME TO away")
        with_pictures(PNGS[0])(asked)

    small_harness.on_pause = lambda: small_harness.books.execute(
        "ALTER TABLE away RENAME TO deliveries"
    )
    with OpenAIServer(answer_into_a_broken_ledger) as side:
        job = small_harness.submit_service(side.url).submit(order())
        assert len(side.calls) == 1
    assert (job.state, small_harness.pauses) == (JobState.ARCHIVING, [WAITS[0]])


def test_a_replayed_answer_changes_nothing_and_its_pictures_stay_within_reach(
    harness: OpenAIHarness,
) -> None:
    with OpenAIServer(with_pictures(PNGS[0])) as side:
        job = harness.submit_service(side.url).submit(order())
    (kept,) = harness.books.queries.deliveries(job.ref)
    again = Delivery(job.ref, Source.SYNC, kept.body, kept.received_at)
    assert harness.books.inbox.accept(again, replayed=kept.id) is Decision.DUPLICATE
    harness.work()
    assert harness.stored(job.ref) == [PNGS[0]]


# Before anything happens.


def test_without_a_key_nothing_happens(small_harness: OpenAIHarness) -> None:
    submit_service = SubmitService(
        small_harness.books.ledger,
        small_harness.books.inbox,
        None,
        Tickets(["0123456789abcdef"]),
        base_url="unused",
        public_url=None,
    )
    with pytest.raises(ConfigurationError, match=r"^OPENAI_API_KEY: not set"):
        submit_service.submit(order())
    assert small_harness.jobs() == []


def test_without_the_package_nothing_happens_and_the_remedy_is_named(
    small_harness: OpenAIHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with OpenAIServer(with_pictures(PNGS[0])) as side:
        with pytest.raises(
            ConfigurationError, match=r"pip install 'webhook-image-receiver\[openai\]'"
        ):
            small_harness.submit_service(side.url).submit(order())
        assert side.connections == 0
    assert small_harness.jobs() == []
