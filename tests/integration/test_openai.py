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
    OpenAISide,
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


class Shop:
    """Everything between a submit and the archive, with the pauses of the desk noted down instead of made."""

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
        self, base_url: str, *, timeout: float = 10.0, largest_picture: int = MIB
    ) -> SubmitService:
        client = OpenAIClient("sk-test", base_url, timeout=timeout, largest_picture=largest_picture)
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
            self.reconciler.look(job)
        assert list(self.scratch.iterdir()) == []

    def stored(self, ref: str) -> list[bytes]:
        return [self.read(asset.key or "") for asset in self.books.assets_of(ref)]

    def read(self, key: str) -> bytes:
        with self.store.open(key) as file:
            return file.read()

    def jobs(self) -> list[Job]:
        return self.books.queries.jobs()


@pytest.fixture
def shop(books: Books, tmp_path: Path) -> Shop:
    return Shop(books, tmp_path)


@pytest.fixture
def small_shop(sqlite_url: str, tmp_path: Path) -> Iterator[Shop]:
    """Stand on SQLite alone, for what has nothing to do with the database."""
    with opened(sqlite_url) as books:
        yield Shop(books, tmp_path)


def order(key: str | None = None, **params: object) -> Submission:
    return Submission("a fox", "gpt-image-1.5", params, Mode.SYNC, Provider.OPENAI, Api.IMAGES, key)


# Pictures.


def test_pictures_in_the_answer_are_archived_without_another_connection(shop: Shop) -> None:
    with OpenAISide(with_pictures(*PNGS)) as side:
        job = shop.submit_service(side.url).submit(order(n=3))
        assert (job.state, job.provider, job.provider_id, job.base_url) == (
            JobState.ARCHIVING,
            "openai",
            None,
            side.url,
        )
        shop.work()
        assert (len(side.calls), side.connections) == (1, 1)
    assert shop.books.job(job.ref).state is JobState.ARCHIVED
    assert shop.stored(job.ref) == list(PNGS)
    assert [asset.sha256 for asset in shop.books.assets_of(job.ref)] == [
        sha256(png).hexdigest() for png in PNGS
    ]
    written = json.loads(shop.read(manifest_key(job.ref)))
    assert [asset["source_url"] for asset in written["assets"]] == [
        "delivery:0",
        "delivery:1",
        "delivery:2",
    ]
    (delivery,) = shop.books.queries.deliveries(job.ref)
    assert (delivery.source, delivery.verdict) == (Source.SYNC, Decision.ENDED)
    assert [item["sha256"] for item in written["deliveries"]] == [sha256(delivery.body).hexdigest()]
    assert shop.books.totals.audit().ok


def test_pictures_behind_urls_are_fetched_and_archived(shop: Shop) -> None:
    files = {f"{idx}.png": png for idx, png in enumerate(PNGS)}
    with OpenAISide(with_urls(*files), files=files) as side:
        job = shop.submit_service(side.url).submit(order(n=3))
        shop.work(Fetcher(AddressPolicy.parse([side.address], ()), max_bytes=MIB, timeout=5))
        assert (len(side.calls), sorted(side.fetched)) == (1, ["/0.png", "/1.png", "/2.png"])
    assert shop.books.job(job.ref).state is JobState.ARCHIVED
    assert shop.stored(job.ref) == list(PNGS)


def test_the_call_says_what_was_asked_and_with_which_key(small_shop: Shop) -> None:
    with OpenAISide(with_pictures(PNGS[0])) as side:
        job = small_shop.submit_service(side.url).submit(
            order(variants=1, size="1024x1024", quality="high", style="vivid", of_tomorrow=[1])
        )
    (call,) = side.calls
    assert (call.path, call.authorization) == (PATH, "Bearer sk-test")
    asked = {"n": 1, "size": "1024x1024", "quality": "high", "style": "vivid", "of_tomorrow": [1]}
    assert call.body == {"model": "gpt-image-1.5", "prompt": "a fox", **asked}
    assert json.loads(small_shop.books.queries.params(job.ref))["variants"] == 1, (
        "the job keeps the caller's words"
    )


def test_the_row_is_written_before_the_call(shop: Shop) -> None:
    seen: list[Job] = []

    def look_then_answer(asked: BaseHTTPRequestHandler) -> None:
        seen.extend(shop.jobs())
        with_pictures(PNGS[0])(asked)

    with OpenAISide(look_then_answer) as side:
        job = shop.submit_service(side.url).submit(order())
    assert [(row.ref, row.state) for row in seen] == [(job.ref, JobState.SUBMITTING)]


@pytest.mark.parametrize("content", ["rubbish!", "bm8gcGljdHVyZQ=="])
def test_bytes_that_are_no_picture_fail_the_job_at_once_and_the_others_are_kept(
    small_shop: Shop, content: str
) -> None:
    good = b64encode(PNGS[0]).decode()
    with OpenAISide(answered({"data": [{"b64_json": content}, {"b64_json": good}]})) as side:
        job = small_shop.submit_service(side.url).submit(order(n=2))
    small_shop.work()
    ended = small_shop.books.job(job.ref)
    assert (ended.state, ended.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert [asset.state for asset in small_shop.books.assets_of(job.ref)] == [
        AssetState.FAILED,
        AssetState.ARCHIVED,
    ]
    assert small_shop.books.totals.audit().ok


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
    small_shop: Shop, script: Script, state: JobState, reason: Reason | None, said: str
) -> None:
    with OpenAISide(script) as side:
        job = small_shop.submit_service(side.url).submit(order())
        assert len(side.calls) == 1
    assert (job.state, job.reason) == (state, reason)
    assert said in job.message
    assert ("it may have been billed" in job.message) == (state is JobState.EXPIRED)
    assert small_shop.pauses == []
    assert small_shop.books.totals.audit().ok


def test_a_silent_call_is_given_up_and_not_made_again(small_shop: Shop) -> None:
    with OpenAISide(silence) as side:
        job = small_shop.submit_service(side.url, timeout=0.2).submit(order())
        assert len(side.calls) == 1
    assert (job.state, "its answer was lost" in job.message) == (JobState.EXPIRED, True)


def test_an_answer_without_end_is_read_no_further_than_it_may(small_shop: Shop) -> None:
    endless = Endless()
    with OpenAISide(endless) as side:
        job = small_shop.submit_service(side.url, largest_picture=MIB).submit(order())
    assert (job.state, "longer than" in job.message) == (JobState.EXPIRED, True)
    assert endless.sent < 16 * MIB, "what is above the bound is the buffers of two sockets"


def test_what_was_moderated_is_kept_as_a_delivery(small_shop: Shop) -> None:
    with OpenAISide(BLOCKED) as side:
        job = small_shop.submit_service(side.url).submit(order())
    (delivery,) = small_shop.books.queries.deliveries(job.ref)
    assert (delivery.source, delivery.verdict, b"moderation_blocked" in delivery.body) == (
        Source.SYNC,
        Decision.ENDED,
        True,
    )


def test_after_a_rate_limit_the_call_is_made_again_and_there_is_one_job(shop: Shop) -> None:
    with OpenAISide(TOO_MANY, TOO_MANY, with_pictures(PNGS[0])) as side:
        job = shop.submit_service(side.url).submit(order())
        assert len(side.calls) == 3
    assert shop.pauses == list(BACK_OFF[:2])
    assert [(row.ref, row.state) for row in shop.jobs()] == [(job.ref, JobState.ARCHIVING)]


def test_a_rate_limit_without_end_ends_the_job_as_refused(small_shop: Shop) -> None:
    with OpenAISide(TOO_MANY) as side:
        job = small_shop.submit_service(side.url).submit(order())
        assert len(side.calls) == 1 + len(BACK_OFF)
    assert small_shop.pauses == list(BACK_OFF)
    assert (job.state, job.reason, job.message) == (
        JobState.FAILED,
        Reason.REFUSED,
        "never sent: Rate limit reached",
    )


def test_where_nobody_listens_nothing_was_sent(small_shop: Shop) -> None:
    job = small_shop.submit_service(f"http://127.0.0.1:{free_port()}/v1").submit(order())
    assert small_shop.pauses == list(BACK_OFF)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.REFUSED)
    assert "never sent: no connection to http://127.0.0.1" in job.message


# Keys.


@pytest.mark.parametrize(
    "script", [with_pictures(PNGS[0]), BLOCKED, cut_off], ids=["pictures", "moderated", "lost"]
)
def test_a_key_is_spent_by_whatever_may_have_cost_or_would_be_said_again(
    shop: Shop, script: Script
) -> None:
    with OpenAISide(script) as side:
        first = shop.submit_service(side.url).submit(order(key="mine"))
        assert shop.submit_service(side.url).submit(order(key="mine")) == first
        assert len(side.calls) == 1


def test_a_refusal_does_not_spend_the_key(small_shop: Shop) -> None:
    with OpenAISide(wrong(400, None, "Invalid size"), with_pictures(PNGS[0])) as side:
        first = small_shop.submit_service(side.url).submit(order(key="mine"))
        second = small_shop.submit_service(side.url).submit(order(key="mine"))
    assert (first.state, second.state) == (JobState.FAILED, JobState.ARCHIVING)


def test_one_key_in_many_hands_at_once_is_paid_once(shop: Shop) -> None:
    with OpenAISide(with_pictures(PNGS[0])) as side:
        submit_service = shop.submit_service(side.url)
        jobs = side_by_side([lambda: submit_service.submit(order(key="mine"))] * 6)
        assert len(side.calls) == 1
    assert {job.ref for job in jobs} == {job.ref for job in shop.jobs()}
    assert len(shop.jobs()) == 1


# Afterwards.


def test_a_lost_asset_whose_bytes_are_in_the_ledger_can_be_retried(shop: Shop) -> None:
    with OpenAISide(with_pictures(PNGS[0])) as side:
        job = shop.submit_service(side.url).submit(order())
    in_the_way = shop.folder / "archive"
    in_the_way.write_text("of the folder of that name")
    shop.books.clock.advance(2 * 7200)
    shop.work()
    shop.books.clock.advance(LEASE)
    shop.work()
    assert shop.books.job(job.ref).state is JobState.EXPIRED
    in_the_way.unlink()
    assert shop.books.operator.retry(job.ref).state is JobState.ARCHIVING
    shop.work()
    assert shop.books.job(job.ref).state is JobState.ARCHIVED
    assert shop.stored(job.ref) == [PNGS[0]]
    assert (len(side.calls), side.connections) == (1, 1)
    assert shop.books.totals.audit().ok


def test_a_retry_that_cannot_help_says_so(small_shop: Shop) -> None:
    with OpenAISide(cut_off) as side:
        job = small_shop.submit_service(side.url).submit(order())
    with pytest.raises(
        ReceiverError,
        match=r"no id at the provider.*look for it at the provider before you submit it again",
    ):
        small_shop.books.operator.retry(job.ref)


def test_a_job_whose_submitter_died_expires_at_its_deadline_with_words_for_a_person(
    shop: Shop,
) -> None:
    ref = shop.books.jobs.submit(order(), "https://api.openai.test/v1").ref
    shop.work()
    assert shop.books.job(ref).state is JobState.SUBMITTING
    shop.books.clock.advance(3600)
    shop.work()
    job = shop.books.job(ref)
    assert job.state is JobState.EXPIRED
    assert "died or was stopped before the answer came" in job.message
    assert "it may have been billed" in job.message
    assert "callback" not in job.message


def test_an_answer_that_the_ledger_cannot_take_now_is_kept_until_it_can(small_shop: Shop) -> None:
    def answer_into_a_broken_ledger(asked: BaseHTTPRequestHandler) -> None:
        small_shop.books.execute("ALTER TABLE deliveries RENAME TO away")
        with_pictures(PNGS[0])(asked)

    small_shop.on_pause = lambda: small_shop.books.execute("ALTER TABLE away RENAME TO deliveries")
    with OpenAISide(answer_into_a_broken_ledger) as side:
        job = small_shop.submit_service(side.url).submit(order())
        assert len(side.calls) == 1
    assert (job.state, small_shop.pauses) == (JobState.ARCHIVING, [WAITS[0]])


def test_a_replayed_answer_changes_nothing_and_its_pictures_stay_within_reach(shop: Shop) -> None:
    with OpenAISide(with_pictures(PNGS[0])) as side:
        job = shop.submit_service(side.url).submit(order())
    (kept,) = shop.books.queries.deliveries(job.ref)
    again = Delivery(job.ref, Source.SYNC, kept.body, kept.received_at)
    assert shop.books.inbox.accept(again, replayed=kept.id) is Decision.DUPLICATE
    shop.work()
    assert shop.stored(job.ref) == [PNGS[0]]


# Before anything happens.


def test_without_a_key_nothing_happens(small_shop: Shop) -> None:
    submit_service = SubmitService(
        small_shop.books.jobs,
        small_shop.books.inbox,
        None,
        Tickets(["0123456789abcdef"]),
        base_url="unused",
        public_url=None,
    )
    with pytest.raises(ConfigurationError, match=r"^OPENAI_API_KEY: not set"):
        submit_service.submit(order())
    assert small_shop.jobs() == []


def test_without_the_package_nothing_happens_and_the_remedy_is_named(
    small_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with OpenAISide(with_pictures(PNGS[0])) as side:
        with pytest.raises(
            ConfigurationError, match=r"pip install 'webhook-image-receiver\[openai\]'"
        ):
            small_shop.submit_service(side.url).submit(order())
        assert side.connections == 0
    assert small_shop.jobs() == []
