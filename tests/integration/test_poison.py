"""A row that crashes workers is found, worked on alone and set aside; other rows are not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgers import NOW, Books, failed, stored, succeeded, urls
from web_client import SUCCEEDED, web_client

from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import ProviderUnavailableError, ReceiverError, UnreadableError
from receiver.jobs.reconcile import MOST_HINT_ATTEMPTS
from receiver.ledger.claims import CRASH_PAUSE, LEASE, MOST_CRASHES, SUSPICIOUS_CRASHES, Claimed
from receiver.ledger.rows import Asset, Job
from receiver.model import Api, AssetState, Decision, Delivery, JobState, Reason, Source
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.grsai import reports as grsai
from receiver.services import Services
from receiver.settings import Settings

THREADS = 16


class Silent:
    """A provider that is never there."""

    def result(self, base_url: str, api: Api, provider_id: str) -> bytes:
        raise ProviderUnavailableError(
            f"{base_url} has no {api} today, so nothing about {provider_id}"
        )


class Yard:
    """A ledger with archiver and reconciler; no source answers, so that every download fails."""

    def __init__(self, books: Books, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.store = DirectoryStore(folder / "archive")
        fetcher = Fetcher(AddressPolicy(), max_bytes=1, timeout=1, resolve=lambda _host, _port: [])
        self.archiver = books.archiver(fetcher, self.store, folder)
        self.reconciler = books.reconciler(self.store, Silent(), "https://provider.test")

    def look(self, limit: int = 1) -> None:
        """Do for the suspect jobs that are due what is to be done."""
        for claimed in self.books.jobs.claim_suspects(limit):
            self.reconciler.reconcile_job(claimed)

    def has_objects(self) -> bool:
        """Say whether anything was written to the archive."""
        return any(path.is_file() for path in self.folder.rglob("archive/**/*"))


@pytest.fixture
def yard(books: Books, tmp_path: Path) -> Yard:
    return Yard(books, tmp_path)


def queue_of(books: Books, row: Asset | Job) -> str:
    """Claim this row when it is due; return the queue that gets it."""
    asset = isinstance(row, Asset)
    others = books.assets.claim(1) if asset else books.jobs.claim(1, complete=False)
    if others:
        return "others"
    due = books.queries.next_due("assets" if asset else "jobs", suspects=True)
    assert due is not None
    assert due <= books.clock.now, "the engine looks for suspects that are due"
    return (
        "suspects"
        if (books.assets.claim(1, suspects=True) if asset else books.jobs.claim_suspects(1))
        else "none"
    )


def asset_row(books: Books) -> Callable[[], Asset]:
    ref = books.archiving()
    return lambda: books.assets_of(ref)[0]


def job_row(books: Books) -> Callable[[], Job]:
    ref = books.waiting()
    books.clock.advance(books.timing.poll_after)
    return lambda: books.job(ref)


Begin = Callable[[Books], Callable[[], Asset | Job]]
ROWS = pytest.mark.parametrize("begin", [asset_row, job_row])


def killed_workers(
    books: Books, look: Callable[[], Asset | Job]
) -> Iterator[tuple[int, str, float]]:
    """Kill worker after worker that has the row.

    Yield the crashes it was claimed with, its queue, and its pause, which has passed.
    """
    while True:
        queue = queue_of(books, look())
        books.claims.take_over()
        pause = (look().due_at or 0.0) - books.clock.now
        books.clock.advance(pause)
        yield look().crashes, queue, pause


@ROWS
def test_each_kill_counts_and_from_the_second_on_the_row_is_alone_and_paused_longer_and_longer(
    books: Books, begin: Begin
) -> None:
    kills = killed_workers(books, begin(books))
    seen = [next(kills) for _ in range(MOST_CRASHES + 1)]
    assert [crashes for crashes, _, _ in seen] == list(range(MOST_CRASHES + 1))
    assert [queue for _, queue, _ in seen] == ["others"] * SUSPICIOUS_CRASHES + ["suspects"] * (
        MOST_CRASHES + 1 - SUSPICIOUS_CRASHES
    )
    assert [pause for _, _, pause in seen] == pytest.approx(
        [0, 0, *(CRASH_PAUSE * number for number in range(1, MOST_CRASHES))]
    )


@ROWS
def test_a_lease_that_ended_without_a_word_counts_like_a_kill(books: Books, begin: Begin) -> None:
    look = begin(books)
    for crashes in range(3):
        assert queue_of(books, look()) == ("others" if crashes < SUSPICIOUS_CRASHES else "suspects")
        assert look().crashes == crashes
        books.clock.advance(LEASE)


def give_back(books: Books, claimed: Claimed[Asset] | Claimed[Job]) -> None:
    books.claims.release([claimed])


def say_so(books: Books, claimed: Claimed[Asset] | Claimed[Job]) -> None:
    if isinstance(claimed.row, Asset):
        books.assets.retry(
            Claimed(claimed.row, claimed.token), books.clock.now, "the source was away"
        )
    else:
        books.jobs.release(Claimed(claimed.row, claimed.token), books.clock.now)


@ROWS
@pytest.mark.parametrize("end", [give_back, say_so])
def test_a_worker_that_reports_its_result_has_not_crashed(
    books: Books, begin: Begin, end: Callable[[Books, object], None]
) -> None:
    look = begin(books)
    for _ in range(2 * MOST_CRASHES):
        (claimed,) = books.assets.claim(1) or books.jobs.claim(1)
        end(books, claimed)
    assert (look().crashes, look().claim) == (0, None)


@ROWS
def test_an_attempt_that_ended_with_a_word_makes_good_for_the_crashes_before(
    books: Books, begin: Begin
) -> None:
    look = begin(books)
    kills = killed_workers(books, look)
    for _ in range(MOST_CRASHES):
        next(kills)
    (claimed,) = books.assets.claim(1, suspects=True) or books.jobs.claim_suspects(1)
    say_so(books, claimed)
    assert look().crashes == 0
    assert queue_of(books, look()) == "others"


@ROWS
def test_a_drain_keeps_what_is_known_of_a_row(books: Books, begin: Begin) -> None:
    look = begin(books)
    kills = killed_workers(books, look)
    for _ in range(3):
        next(kills)
    (claimed,) = books.assets.claim(1, suspects=True) or books.jobs.claim_suspects(1)
    give_back(books, claimed)
    assert (look().crashes, queue_of(books, look())) == (3, "suspects")


# Assets


def test_an_asset_is_set_aside_and_an_operator_s_retry_brings_it_home(yard: Yard) -> None:
    books = yard.books
    ref = books.archiving()
    kills = killed_workers(books, lambda: books.assets_of(ref)[0])
    for _ in range(MOST_CRASHES):
        next(kills)
    (claimed,) = books.assets.claim(1, suspects=True)
    yard.archiver.archive(claimed)
    (asset,) = books.assets_of(ref)
    assert (asset.state, asset.crashes) == (AssetState.FAILED, MOST_CRASHES)
    assert asset.error.startswith(
        f"set aside: the worker was gone {MOST_CRASHES} times with it in hand"
    )
    assert f"`receiver retry {ref}`" in asset.error
    (complete,) = books.jobs.claim(1, complete=True)
    yard.reconciler.reconcile_job(complete)
    job = books.job(ref)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert "set aside" in job.message
    assert books.totals.audit().ok
    books.operator.retry(ref)
    (again,) = books.assets.claim(1)
    assert again.row.crashes == 0
    books.assets.finish(again, stored(again))
    assert books.assets_of(ref)[0].state is AssetState.ARCHIVED


class Workshop:
    """Workers of so many threads, one after the other; the asset ``poison`` kills each."""

    def __init__(self, yard: Yard, poison: str, *, at_once: bool) -> None:
        self.yard = yard
        self.books = yard.books
        self.poison = poison
        self.at_once = at_once  # whether it kills before or after all other threads
        self.kills = 0

    def run(self) -> None:
        """Let workers work, and be started again when they are killed, until nothing is pending."""
        while (due := self.books.queries.next_due("assets")) is not None:
            self.books.clock.now = max(self.books.clock.now, due)
            self._live()

    def _live(self) -> None:
        while claims := self.books.assets.claim(THREADS) + self.books.assets.claim(
            1, suspects=True
        ):
            for claimed in sorted(claims, key=self._when):
                if claimed.row.crashes >= MOST_CRASHES:
                    self.yard.archiver.archive(claimed)
                elif claimed.row.ref == self.poison:
                    self.kills += 1
                    self.books.claims.take_over()
                    return
                else:
                    self.books.assets.finish(claimed, stored(claimed))

    def _when(self, claimed: Claimed[Asset]) -> bool:
        return (claimed.row.ref == self.poison) is not self.at_once


@pytest.mark.parametrize("at_once", [True, False])
def test_the_one_that_kills_is_set_aside_and_no_other_however_many_run_beside_it(
    yard: Yard, *, at_once: bool
) -> None:
    refs = [yard.books.archiving(1, f"task-{number}") for number in range(3 * THREADS)]
    workshop = Workshop(yard, refs[THREADS // 2], at_once=at_once)
    workshop.run()
    ends = {ref: yard.books.assets_of(ref)[0].state for ref in refs}
    assert ends == {
        ref: AssetState.FAILED if ref == workshop.poison else AssetState.ARCHIVED for ref in refs
    }
    assert workshop.kills == MOST_CRASHES
    assert yard.books.clock.now - NOW < 2 * MOST_CRASHES * CRASH_PAUSE


def test_suspects_have_one_thread_each_for_assets_and_jobs(tmp_path: Path) -> None:
    services = Services(Settings.load({"DATA_DIR": str(tmp_path)})).open()
    widths = {queue.name: queue.concurrency for queue in services.work_queues(tmp_path)}
    services.close()
    assert (widths["suspect assets"], widths["suspect jobs"]) == (1, 1)


# Jobs and hints


def crash(books: Books, ref: str, times: int = MOST_CRASHES) -> None:
    """Have workers die over a job until it is due again with so many crashes."""
    for _ in range(times):
        books.clock.now = max(books.clock.now, books.job(ref).due_at or 0.0)
        assert books.jobs.claim(1)[0].row.ref == ref
        books.claims.take_over()
    books.clock.now = books.job(ref).due_at or 0.0


@pytest.mark.parametrize("begin", [Books.waiting, Books.submitting])
def test_a_job_without_a_result_over_which_workers_crash_expires_and_says_so(
    yard: Yard, begin: Callable[[Books], str]
) -> None:
    ref = begin(yard.books)
    crash(yard.books, ref)
    yard.look()
    job = yard.books.job(ref)
    assert (job.state, yard.books.event_types(ref)) == (JobState.EXPIRED, ["job.expired"])
    assert f"the worker was gone {MOST_CRASHES} times" in job.message


def test_a_complete_job_that_crashes_workers_has_no_manifest_until_an_operator_retries_it(
    yard: Yard,
) -> None:
    books = yard.books
    ref = books.archiving()
    (claimed,) = books.assets.claim(1)
    books.assets.finish(claimed, stored(claimed))
    crash(books, ref)
    yard.look()
    job = books.job(ref)
    assert job.state is JobState.ARCHIVED
    assert job.message.startswith("no manifest, set aside: ")
    assert not yard.has_objects()
    assert books.event_types(ref) == ["asset.archived", "job.archived"]
    assert books.operator.retry(ref).state is JobState.ARCHIVING
    (complete,) = books.jobs.claim(1, complete=True)
    yard.reconciler.reconcile_job(complete)
    job = books.job(ref)
    assert (job.state, job.message, job.crashes, yard.has_objects()) == (
        JobState.ARCHIVED,
        "",
        0,
        True,
    )
    assert books.event_types(ref) == ["asset.archived", "job.archived", "job.archived"]
    assert books.totals.audit().ok
    with pytest.raises(ReceiverError, match="nothing to retry"):
        books.operator.retry(ref)


def test_a_job_with_work_left_that_is_set_aside_still_ends_with_its_last_asset(yard: Yard) -> None:
    books = yard.books
    ref = books.archiving(2)
    crash(books, ref)
    yard.look()
    job = books.job(ref)
    assert (job.state, job.claim) == (JobState.ARCHIVING, None)
    assert job.due_at is not None
    assert job.due_at >= max(asset.expires_at for asset in books.assets_of(ref))
    for claimed in books.assets.claim(2):
        books.assets.finish(claimed, stored(claimed))
    (complete,) = books.jobs.claim(1, complete=True)
    yard.reconciler.reconcile_job(complete)
    assert books.job(ref).state is JobState.ARCHIVED
    assert books.job(ref).message == ""


def test_a_word_from_the_provider_clears_a_job_s_name(yard: Yard) -> None:
    books = yard.books
    ref = books.waiting()
    crash(books, ref, SUSPICIOUS_CRASHES)
    yard.look()  # the provider is away, which is a word all the same
    assert books.job(ref).crashes == 0


def test_a_hint_over_which_workers_crash_is_forgotten(yard: Yard) -> None:
    assert yard.books.hints.add("their-task")
    for _ in range(MOST_HINT_ATTEMPTS):
        assert yard.books.hints.claim(1)
        yard.books.claims.take_over()
    (claimed,) = yard.books.hints.claim(1)
    yard.reconciler.verify_hint(claimed)
    assert yard.books.everything()["hints"] == []


# Deliveries


def planted_mistake(_body: bytes) -> None:
    raise ZeroDivisionError("hunter2")


def test_a_report_we_stumble_over_is_kept_as_evidence_and_taken_in_after_the_fix(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = books.waiting()
    with monkeypatch.context() as patched:
        patched.setattr(grsai, "read_report", planted_mistake)
        with pytest.raises(UnreadableError, match="ZeroDivisionError") as raised:
            books.deliver(ref, succeeded())
    assert "hunter2" not in str(raised.value)
    (kept,) = books.queries.deliveries(ref)
    assert (kept.verdict, kept.body, books.job(ref).state) == (
        "unreadable",
        succeeded(),
        JobState.WAITING,
    )
    assert replay(books, kept.id) is Decision.ENDED
    assert (books.verdicts(ref), books.pending(ref)) == (["ended"], [0])


def test_a_report_that_raises_an_error_is_answered_400_and_the_next_one_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_client(tmp_path) as web:
        ticket, other = web.ticket(), web.ticket()
        with monkeypatch.context() as patched:
            patched.setattr(grsai, "read_report", planted_mistake)
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
def test_a_success_that_came_too_late_is_replayed_and_opens_its_job_again(
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
def test_replaying_what_brings_no_result_opens_nothing(books: Books, body: bytes) -> None:
    ref = books.expired()
    books.deliver(ref, body)
    replay(books, books.queries.deliveries(ref)[-1].id)
    assert (books.job(ref).state, books.job(ref).round) == (JobState.EXPIRED, 0)


def test_a_pause_does_not_start_again_when_another_worker_dies(books: Books) -> None:
    look = asset_row(books)
    kills = killed_workers(books, look)
    for _ in range(SUSPICIOUS_CRASHES):
        next(kills)
    books.assets.claim(1, suspects=True)
    books.claims.take_over()
    due_at = look().due_at
    books.clock.advance(CRASH_PAUSE / 2)
    assert books.claims.take_over() == 0, "the worker that dies now had no claim"
    assert look().due_at == due_at
