"""No silent job: lost callbacks, odd answers, dead providers and dying URLs, hints of strangers, and how a job is concluded."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from ledgers import NOW, TIMING, Books, failed, opened, running, stored, succeeded, urls
from sqlalchemy import Connection, delete, update
from waiting import until

from receiver.archive.address import AddressPolicy
from receiver.archive.fetch import Fetcher
from receiver.archive.manifest import manifest_key, timestamp
from receiver.archive.pipeline import Archiver
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import MissingObjectError, NoSuchTaskError, ProviderUnavailableError
from receiver.ledger import tables
from receiver.ledger.rows import Asset, Job
from receiver.model import Api, AssetState, JobState, Mode, Reason, Source, Submission
from receiver.providers.grsai_client import GrsaiClient
from receiver.reconcile import ARCHIVE_PAUSE, MOST_HINT_LOOKS, MOST_UNKNOWN, NOT_YET, Asker, Reconciler
from submitter.sandbox import Sandbox

SIZE = 20_000
PICTURE, PAGE, LATE = AssetState.ARCHIVED, AssetState.FAILED, AssetState.EXPIRED


class Provider:
    """Answers a reconciler as a test says, in turn, the last answer again and again: a body, an error, or what a function returns."""

    def __init__(self, *answers: bytes | Exception | Callable[[], bytes]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def result(self, base_url: str, api: Api, provider_id: str) -> bytes:  # noqa: ARG002 - there is one task here
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else answer()


class WitnessedStore(DirectoryStore):
    """A directory that calls ``witness`` before a manifest is written."""

    witness: Callable[[], object] = bool

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        self.witness()
        super().replace(key, data, content_type=content_type)


class Office:
    """A ledger with a clock set by hand, an archive, and a reconciler that asks the sandbox, or whom a test puts in its place."""

    def __init__(self, books: Books, folder: Path, sandbox: Sandbox) -> None:
        self.books = books
        self.sandbox = sandbox
        self.root = folder / "archive"
        self.store = WitnessedStore(self.root)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.asks(GrsaiClient("any"))

    def asks(self, asker: Asker | None) -> None:
        """Have the reconciler ask another provider, or nobody."""
        books = self.books
        self.reconciler = Reconciler(books.ledger, books.reports, books.inbox, self.store, asker, self.sandbox.url)

    def ordered(self, api: Api = Api.DRAW, variants: int = 1, **script: Any) -> str:
        """Have the sandbox make pictures; return the task's id. It is done, unless it has a delay."""
        path = {Api.DRAW: "/v1/draw/completions", Api.NEWER: "/v1/api/generate"}[api]
        body = {"model": "m", "prompt": "a fox", "size": "64x48", "variants": variants, "sandbox": script, "webHook": "-1"}
        headers = {"Authorization": "Bearer any"}
        answer = requests.post(self.sandbox.url + path, json={**body, "replyType": "async"}, headers=headers, timeout=10).json()
        task_id = str(answer.get("data", answer)["id"])
        if not script.get("delay"):
            until(lambda: self.sandbox.task(task_id)["status"] != "running", what=f"the end of {task_id}")
        return task_id

    def posted(self, api: Api = Api.DRAW, variants: int = 1, mode: Mode = Mode.WEBHOOK, **script: Any) -> str:
        """Submit a job whose callbacks are lost; return its ref."""
        submission = Submission("ein Fuchs, 一只狐狸", "m", {"size": "64x48", "variants": variants}, mode, api=api)
        ref = self.books.ledger.submit(submission, self.sandbox.url).ref
        self.books.ledger.accepted(ref, self.ordered(api, variants, **script))
        return ref

    def look(self, ref: str) -> Job:
        """Look at a job when it is due; return it as it stands then."""
        job = self.books.job(ref)
        assert job.due_at is not None
        self.books.clock.now = max(self.books.clock.now, job.due_at)
        (claimed,) = self.books.ledger.claim_jobs(2)
        self.reconciler.look(claimed)
        return self.books.job(ref)

    def looks(self, ref: str) -> Iterator[Job]:
        """Look at a job each time it is due until it is final; give the job after each look."""
        job = self.look(ref)
        yield job
        while job.finished_at is None:
            job = self.look(ref)
            yield job

    def look_into_hint(self) -> None:
        """Look into the one hint that is due."""
        (claimed,) = self.books.ledger.claim_hints(2)
        self.reconciler.look_into(claimed)

    def bring_home(self, ref: str) -> list[Asset]:
        """Archive what is due of a job."""
        policy = AddressPolicy.parse([f"127.0.0.1:{self.sandbox.port}"], ())
        archiver = Archiver(self.books.ledger, Fetcher(policy, max_bytes=10 * SIZE, timeout=10), self.store, self.scratch)
        for claimed in self.books.ledger.claim_assets(10):
            archiver.archive(claimed)
        return self.books.assets(ref)

    def ended(self, *ends: AssetState) -> str:
        """Have a job whose assets ended so; return its ref."""
        ref = self.books.archiving(len(ends))
        for claimed in self.books.ledger.claim_assets(len(ends)):
            end = ends[claimed.row.idx]
            if end is PICTURE:
                self.books.ledger.finish_asset(claimed, stored(claimed))
            else:
                self.books.ledger.give_up_asset(claimed, end, {PAGE: "an HTML page", LATE: "too late"}[end])
        return ref

    def manifest(self, ref: str) -> dict[str, Any] | None:
        """Return a job's manifest; None where there is none."""
        try:
            with self.store.open(manifest_key(ref)) as file:
                return dict(json.loads(file.read()))
        except MissingObjectError:
            return None


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(script={"delay": 0, "bytes": SIZE}) as sandbox:
        yield sandbox


@pytest.fixture
def books(sqlite_url: str) -> Iterator[Books]:
    with opened(sqlite_url) as books:
        yield books


@pytest.fixture
def office(books: Books, sandbox: Sandbox, tmp_path: Path) -> Office:
    return Office(books, tmp_path, sandbox)


def pauses(jobs: list[Job], begin: float) -> list[float]:
    """Return the seconds from look to look of a job, as its row said after each."""
    dues = [begin, *(job.due_at for job in jobs if job.due_at is not None)]
    return [later - earlier for earlier, later in pairwise(dues)]


# The provider has no result


@pytest.mark.parametrize("api", [Api.DRAW, Api.NEWER])
def test_no_such_task_means_not_yet_at_first_and_gone_when_it_is_said_again_and_again(office: Office, api: Api) -> None:
    ref = office.posted(api, mode=Mode.POLL, result="gone")
    *young, gone = office.looks(ref)
    assert [job.state for job in young] == [JobState.WAITING] * (MOST_UNKNOWN - 1)
    assert young[0].due_at is not None
    assert young[0].due_at - young[0].submitted_at <= NOT_YET
    assert (gone.state, gone.provider_id in gone.message) == (JobState.EXPIRED, True)  # type: ignore[operator] # it has an id
    assert "does not know its task" in gone.message
    assert office.books.events(ref) == ["job.expired"]


def test_within_its_first_minute_no_task_is_gone_however_often_it_is_denied(office: Office) -> None:
    ref = office.posted(result="gone")
    for _ in range(2 * MOST_UNKNOWN):
        office.books.deliver(ref, running("another task"))  # has the job looked at now
        assert office.look(ref).state is JobState.WAITING
    office.books.clock.advance(NOT_YET + 1)
    assert office.look(ref).state is JobState.EXPIRED


def test_a_task_the_provider_knew_a_moment_ago_is_not_gone_when_it_is_denied_once(office: Office) -> None:
    unknown = NoSuchTaskError("no such task")
    office.asks(Provider(running(), running(), running(), unknown, succeeded()))
    ref = office.books.waiting()
    assert [office.look(ref).state for _ in range(5)] == [JobState.WAITING] * 4 + [JobState.ARCHIVING]


def test_a_gateway_in_trouble_is_asked_again_and_again(office: Office) -> None:
    ref = office.posted(result={"mode": "gateway", "times": 4})
    begin = office.books.job(ref).due_at
    assert begin is not None
    looked = [office.look(ref) for _ in range(5)]
    assert [job.state for job in looked] == [JobState.WAITING] * 4 + [JobState.ARCHIVING]
    interval = TIMING.poll_interval
    assert pauses(looked[:4], begin) == [interval, 2 * interval, 4 * interval, 4 * interval]


def test_a_task_under_way_is_asked_about_less_and_less_often(office: Office) -> None:
    ref = office.posted(delay=1000)
    looked = [office.look(ref) for _ in range(5)]
    assert {job.state for job in looked} == {JobState.WAITING}
    interval = TIMING.poll_interval
    begin = looked[0].submitted_at + TIMING.poll_after
    assert pauses(looked, begin) == [interval, 2 * interval, 4 * interval, 4 * interval, 4 * interval]
    assert set(office.books.verdicts(ref)) == {"progress"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (running(), "still calls it running"),
        (succeeded(""), "reports success, but no result"),
        (running(provider_id="task-2"), "answers with another task"),
        (b"{}", "answer cannot be read"),
        (ProviderUnavailableError("the gateway is down"), "the gateway is down"),
        (NoSuchTaskError("no such task"), "no such task"),
    ],
)
def test_at_the_deadline_there_is_one_last_poll_and_the_end_says_what_a_person_can_do(
    office: Office, answer: bytes | Exception, said: str
) -> None:
    provider = Provider(answer)
    office.asks(provider)
    ref = office.books.waiting()
    office.books.clock.advance(TIMING.job_timeout)
    job = office.look(ref)
    assert (provider.asked, job.state) == (1, JobState.EXPIRED)
    assert job.message.startswith("no result within 3600 s (")
    assert job.message.endswith(f"{said}); the provider knows it as task-1: `receiver retry {ref}` asks once more")
    assert office.books.events(ref) == ["job.expired"]


def test_a_result_found_by_the_last_poll_counts(office: Office) -> None:
    ref = office.posted()
    office.books.clock.advance(TIMING.job_timeout)
    assert office.look(ref).state is JobState.ARCHIVING


def test_a_job_whose_submit_answer_and_callback_are_lost_expires_at_its_deadline(office: Office) -> None:
    ref = office.books.submitting()
    (expired,) = office.looks(ref)
    assert office.books.clock.now == expired.deadline_at
    assert (expired.state, expired.provider_id) == (JobState.EXPIRED, None)
    assert "it may have been billed, look for it at the provider" in expired.message


def test_without_a_key_a_job_waits_for_its_callback_until_its_deadline(office: Office) -> None:
    office.asks(None)
    ref = office.books.waiting()
    waiting, expired = office.looks(ref)
    assert (waiting.state, waiting.due_at) == (JobState.WAITING, waiting.deadline_at)
    assert (expired.state, "GRSAI_API_KEY is not set" in expired.message) == (JobState.EXPIRED, True)


def test_success_without_a_url_is_asked_once_more_and_then_a_failure(office: Office) -> None:
    ref = office.posted(result="no_url")
    waiting, lost = office.looks(ref)
    assert (waiting.state, lost.state, lost.reason) == (JobState.WAITING, JobState.FAILED, Reason.NO_RESULT)
    assert office.books.verdicts(ref) == ["empty", "ended"]
    assert office.books.events(ref) == ["job.failed"]


def test_a_callback_without_a_url_has_the_result_asked_at_once(office: Office) -> None:
    ref = office.posted()
    office.books.deliver(ref, succeeded("", provider_id=office.books.job(ref).provider_id))
    assert office.books.job(ref).due_at == office.books.clock.now
    assert office.look(ref).state is JobState.ARCHIVING


@pytest.mark.parametrize(
    ("api", "fail", "reason"),
    [
        (Api.DRAW, "input_moderation", Reason.INPUT_MODERATION),
        (Api.DRAW, "output_moderation", Reason.OUTPUT_MODERATION),
        (Api.DRAW, "error", Reason.PROVIDER_ERROR),
        (Api.NEWER, "violation", Reason.VIOLATION),
    ],
)
def test_a_failure_found_by_a_poll_is_the_job_s_end(office: Office, api: Api, fail: str, reason: Reason) -> None:
    (job,) = office.looks(office.posted(api, fail=fail))
    assert (job.state, job.reason) == (JobState.FAILED, reason)


# Polled, and heard of meanwhile


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(running(), "late"), (failed(), "contradiction"), (succeeded(*urls(1, "callback")), "duplicate"), (b"{}", "unreadable")],
)
def test_a_callback_that_comes_during_a_poll_decides(office: Office, answer: bytes, verdict: str, late: bool) -> None:  # noqa: FBT001 - a column of the table
    ref = office.books.waiting()

    def answer_slowly() -> bytes:
        office.books.deliver(ref, succeeded(*urls(1, "callback")))
        return answer

    office.asks(Provider(answer_slowly))
    office.books.clock.advance(TIMING.job_timeout if late else 0)
    job = office.look(ref)
    assert (job.state, job.claim) == (JobState.ARCHIVING, None)
    assert [asset.url for asset in office.books.assets(ref)] == urls(1, "callback")
    assert office.books.verdicts(ref) == ["ended", verdict]


def test_a_callback_that_comes_while_the_provider_cannot_be_asked_decides(office: Office) -> None:
    ref = office.books.waiting()

    def fail_slowly() -> bytes:
        office.books.deliver(ref, failed("output_moderation"))
        raise ProviderUnavailableError("the gateway is down")

    office.asks(Provider(fail_slowly))
    office.books.clock.advance(TIMING.job_timeout)
    assert office.look(ref).state is JobState.FAILED


# Results whose URLs die


def test_a_job_near_the_end_of_its_urls_is_announced_once_in_a_round_and_fresh_urls_are_asked_for(office: Office) -> None:
    office.asks(Provider(ProviderUnavailableError("down"), succeeded(*urls(2, "first")), succeeded(*urls(2, "fresh"))))
    ref = office.books.archiving(2)
    begin = office.books.job(ref).due_at
    assert begin == office.books.clock.now + 0.75 * TIMING.url_lifetime
    assert office.look(ref).due_at == begin + TIMING.poll_interval
    assert "job.at_risk" in office.books.events(ref)
    office.look(ref)
    assert [asset.url for asset in office.books.assets(ref)] == urls(2, "first")
    office.look(ref)
    assert [(asset.url, asset.due_at) for asset in office.books.assets(ref)] == [(url, office.books.clock.now) for url in urls(2, "fresh")]
    office.books.clock.advance(TIMING.url_lifetime)
    office.look(ref)
    assert office.books.events(ref) == ["job.at_risk"]
    (event,) = office.books.reports.events()
    message = json.loads(event["payload"])["message"]
    assert message == "2 of its pictures not archived yet, the first URL dies in 1800 s: not tried yet"


def test_an_operator_s_retry_opens_a_round_in_which_the_risk_is_announced_again(office: Office) -> None:
    office.asks(Provider(ProviderUnavailableError("down")))
    ref = office.books.archiving()
    office.look(ref)
    (claimed,) = office.books.ledger.claim_assets(1)
    office.books.ledger.give_up_asset(claimed, AssetState.EXPIRED, "too late")
    assert office.look(ref).state is JobState.EXPIRED
    office.books.ledger.retry(ref)
    office.look(ref)
    assert office.books.events(ref).count("job.at_risk") == 1
    office.books.clock.advance(TIMING.url_lifetime)
    office.look(ref)
    assert office.books.events(ref) == ["job.at_risk", "job.expired", "job.at_risk"]


def test_a_url_that_was_dead_from_the_start_is_replaced_and_its_picture_archived(office: Office) -> None:
    ref = office.posted(file="expired")
    office.look(ref)
    for _ in range(3):
        (dead,) = office.bring_home(ref)
        assert dead.due_at is not None
        office.books.clock.now = dead.due_at
    assert office.look(ref).state is JobState.ARCHIVING
    (asset,) = office.bring_home(ref)
    assert asset.state is AssetState.ARCHIVED
    assert office.look(ref).state is JobState.ARCHIVED
    assert office.books.events(ref) == ["asset.archived", "job.archived"]


# Conclusions


@pytest.mark.parametrize(
    ("ends", "state", "reason", "message"),
    [
        ([PAGE], JobState.FAILED, Reason.BAD_ASSET, "asset 0: an HTML page"),
        ([LATE], JobState.EXPIRED, None, "asset 0: too late"),
        ([PAGE, LATE], JobState.EXPIRED, None, "asset 0: an HTML page; asset 1: too late"),
        ([PICTURE, PAGE], JobState.FAILED, Reason.BAD_ASSET, "asset 1: an HTML page"),
        ([LATE, PICTURE], JobState.EXPIRED, None, "asset 0: too late"),
        ([PICTURE], JobState.ARCHIVED, None, ""),
        ([PICTURE, PICTURE], JobState.ARCHIVED, None, ""),
    ],
)
def test_a_job_ends_as_its_assets_did(office: Office, ends: list[AssetState], state: JobState, reason: Reason | None, message: str) -> None:
    ref = office.ended(*ends)
    (job,) = office.looks(ref)
    assert (job.state, job.reason, job.message) == (state, reason, message)
    assert office.books.events(ref) == ["asset.archived"] * ends.count(PICTURE) + [f"job.{state}"]
    manifest = office.manifest(ref)
    assert (manifest is not None) is (PICTURE in ends)  # every object has its manifest beside it
    assert manifest is None or (manifest["state"], [asset["state"] for asset in manifest["assets"]]) == (state, ends)
    assert office.books.reports.audit().ok


def test_an_archive_that_is_away_delays_the_end_and_no_more(office: Office) -> None:
    ref = office.ended(PICTURE)
    office.root.write_text("a file where a directory should be")
    for _ in range(3):
        waiting = office.look(ref)
        assert (waiting.state, waiting.claim) == (JobState.ARCHIVING, None)
        assert waiting.due_at == office.books.clock.now + ARCHIVE_PAUSE
    office.root.unlink()
    assert office.look(ref).state is JobState.ARCHIVED
    assert office.manifest(ref)


def test_the_manifest_is_written_before_the_end_is_told(office: Office) -> None:
    ref = office.ended(PICTURE)
    seen: list[object] = []
    office.store.witness = lambda: seen.append((office.books.job(ref).state, office.books.events(ref)))
    office.look(ref)
    assert seen == [(JobState.ARCHIVING, ["asset.archived"])]


def test_who_lost_the_claim_while_the_manifest_was_written_ends_nothing(office: Office) -> None:
    ref = office.ended(PICTURE)
    office.store.witness = lambda: [office.books.ledger.take_over(), office.books.ledger.claim_jobs(1)]
    assert office.look(ref).state is JobState.ARCHIVING
    office.store.witness = bool
    assert office.look(ref).state is JobState.ARCHIVED
    assert office.books.events(ref) == ["asset.archived", "job.archived"]


def test_the_manifest_tells_all_the_ledger_knows_of_a_job(office: Office) -> None:
    ref = office.posted(variants=2)
    task_id = office.books.job(ref).provider_id
    office.books.deliver(ref, running(task_id, 30))
    office.books.clock.advance(0.1234)
    office.look(ref)
    office.bring_home(ref)
    office.books.deliver(ref, running(task_id, 40))
    office.look(ref)
    manifest, job = office.manifest(ref), office.books.job(ref)
    assert manifest is not None
    assert job.state is JobState.ARCHIVED
    names = ("ref", "state", "reason", "message", "provider", "base_url", "provider_id", "api", "mode", "key", "round")
    assert manifest == {
        "format": 1,
        **{name: getattr(job, name) for name in names},
        "request": {"model": "m", "prompt": "ein Fuchs, 一只狐狸", "params": {"size": "64x48", "variants": 2}},
        "submitted_at": timestamp(job.submitted_at),
        "ended_at": timestamp(job.ended_at),
        "finished_at": timestamp(job.finished_at),
        "deliveries": manifest["deliveries"],
        "assets": manifest["assets"],
    }
    deliveries = office.books.reports.deliveries(ref)
    assert [row.verdict for row in deliveries] == ["progress", "ended", "late"]
    assert manifest["deliveries"] == [
        {"source": row.source, "verdict": row.verdict, "received_at": timestamp(row.received_at), "sha256": row.digest}
        for row in deliveries
    ]
    assert manifest["assets"] == [as_told(asset) for asset in office.books.assets(ref)]
    assert len(manifest["assets"]) == 2


def test_an_adopted_job_keeps_the_manifest_of_an_earlier_ledger_that_knows_more(office: Office) -> None:
    ref = office.posted()
    office.look(ref)
    office.bring_home(ref)
    assert office.look(ref).state is JobState.ARCHIVED
    told = office.manifest(ref)
    # As if the ledger had been lost, and a late callback had made the new one adopt the job.
    adopted = {"model": "", "prompt": "", "params": "{}", "state": "archiving", "finished_at": None, "due_at": NOW}
    change = update(tables.jobs).where(tables.jobs.c.ref == ref).values(adopted)
    for statement in (change, delete(tables.events).where(tables.events.c.type == "job.archived")):
        office.books.database.write(partial(Connection.execute, statement=statement))
    assert office.look(ref).state is JobState.ARCHIVED
    assert office.manifest(ref) == told


def as_told(asset: Asset) -> dict[str, object]:
    """Return every column of an asset's row that means something when the work is over, as the manifest words it."""
    meant = [column.name for column in tables.assets.columns if column.name not in {"ref", "due_at", "claim", "crashes"}]
    told = {{"idx": "index", "url": "source_url"}.get(name, name): getattr(asset, name) for name in meant}
    return {name: timestamp(value) if name.endswith("_at") else value for name, value in told.items()}


# Hints of strangers


def test_a_hint_nobody_confirms_is_forgotten_after_some_looks(office: Office) -> None:
    office.books.ledger.hint("never-heard-of")
    for _ in range(MOST_HINT_LOOKS):
        assert office.books.reports.next_due("hints") == office.books.clock.now
        office.look_into_hint()
        office.books.clock.advance(TIMING.poll_interval)
    assert office.books.reports.next_due("hints") is None
    assert office.books.reports.jobs() == []


@pytest.mark.parametrize(
    "answer", [ProviderUnavailableError("down"), NoSuchTaskError("no such task"), b"{}", b'{"code":0,"msg":"success","data":{}}']
)
def test_an_answer_that_is_no_report_confirms_no_hint(office: Office, answer: bytes | Exception) -> None:
    office.asks(Provider(answer))
    office.books.ledger.hint("task-1")
    office.look_into_hint()
    assert office.books.reports.jobs() == []
    assert office.books.reports.next_due("hints") == office.books.clock.now + TIMING.poll_interval


@pytest.mark.parametrize("report", [running(), succeeded(*urls(1, "callback")), None])
def test_a_hint_whose_job_is_known_meanwhile_makes_no_second_job(office: Office, report: bytes | None) -> None:
    ref = ""

    def answer_slowly() -> bytes:
        nonlocal ref
        ref = office.books.submitting()
        if report is None:
            office.books.ledger.accepted(ref, "task-1")
        else:
            office.books.deliver(ref, report)
        return succeeded(*urls(1, "poll"))

    office.asks(Provider(answer_slowly))
    office.books.ledger.hint("task-1")
    office.look_into_hint()
    assert [job.ref for job in office.books.reports.jobs()] == [ref]
    assert office.books.reports.next_due("hints") is None


def test_a_confirmed_hint_becomes_a_job_and_what_is_archived_comes_from_the_read_back(office: Office) -> None:
    task_id = office.ordered()
    office.books.ledger.hint(task_id)
    office.look_into_hint()
    (job,) = office.books.reports.jobs()
    assert (job.state, job.provider_id, job.base_url) == (JobState.ARCHIVING, task_id, office.sandbox.url)
    (asset,) = office.bring_home(job.ref)
    assert asset.sha256 == office.sandbox.task(task_id)["files"][0]["sha256"]
    assert office.look(job.ref).state is JobState.ARCHIVED
    assert office.books.reports.next_due("hints") is None


def test_a_task_still_running_is_adopted_and_archived_when_it_is_done(office: Office) -> None:
    task_id = office.ordered(delay=0.3)
    office.books.ledger.hint(task_id)
    office.look_into_hint()
    (job,) = office.books.reports.jobs()
    assert (job.state, job.provider_id) == (JobState.WAITING, task_id)
    until(lambda: office.sandbox.task(task_id)["status"] == "succeeded", what="the end of the task")
    assert office.look(job.ref).state is JobState.ARCHIVING
    office.bring_home(job.ref)
    assert office.look(job.ref).state is JobState.ARCHIVED
    assert office.books.reports.audit().ok


# A job whose callback is lost goes home all the same


@pytest.mark.parametrize("api", [Api.DRAW, Api.NEWER])
def test_a_job_whose_callback_is_lost_is_polled_and_archived(office: Office, api: Api) -> None:
    ref = office.posted(api, variants=2)
    begin = office.books.clock.now
    assert office.look(ref).state is JobState.ARCHIVING
    assert office.books.clock.now == begin + TIMING.poll_after
    assert {asset.state for asset in office.bring_home(ref)} == {AssetState.ARCHIVED}
    assert office.look(ref).state is JobState.ARCHIVED
    assert [delivery.source for delivery in office.books.reports.deliveries(ref)] == [Source.POLL]
    assert office.books.events(ref) == ["asset.archived", "asset.archived", "job.archived"]
    assert office.books.reports.audit().ok
