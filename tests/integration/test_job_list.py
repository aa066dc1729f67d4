"""Queries of the job list on both databases: pages, searches and counts."""

from dataclasses import replace
from functools import partial

import pytest
from ledgers import NOW, LedgerHarness

from receiver.ledger import text_index
from receiver.ledger.queries import job_list
from receiver.ledger.queries.job_list import Count, JobListQueries, Page, Wanted
from receiver.ledger.text_index import find
from receiver.model import JobState, Submission, first_ref

pytestmark = pytest.mark.both_databases


def refs(page: Page) -> list[str]:
    return [job.ref for job in page.jobs]


def several(ledger: LedgerHarness, *prompts: str) -> list[str]:
    """Submit jobs a second apart; return their refs, newest first."""
    made = []
    for prompt in prompts:
        made.append(ledger.submitting(prompt))
        ledger.clock.advance(1)
    return made[::-1]


def test_pages_follow_each_other_without_gap_or_overlap_and_the_last_one_says_so(
    ledger: LedgerHarness,
) -> None:
    made = several(ledger, *"abcde")
    first = ledger.job_list.page(Wanted(), limit=2)
    second = ledger.job_list.page(Wanted(), after=first.next or "", limit=2)
    third = ledger.job_list.page(Wanted(), after=second.next or "", limit=2)
    assert [*refs(first), *refs(second), *refs(third)] == made
    assert (first.next, second.next, third.next) == (made[1], made[3], None)
    assert ledger.job_list.page(Wanted(), limit=5).next is None, (
        "a page that just fits is the last one"
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(folder="shop"), [4, 2, 0]),
        (Wanted(folder="shop/eu"), [3]),
        (Wanted(folder="sho"), []),
        (Wanted(folder="shop/"), []),
        (Wanted(folder="shop", until=NOW + 3), [2, 0]),
        (Wanted(folder="shop", state=JobState.FAILED), []),
        (Wanted(folder="shop", model="m"), [4, 2, 0]),
        (Wanted(folder="shop", batch="b"), [4]),
        (Wanted(folder="shop", text="fox"), [4, 2, 0]),
        (Wanted(folder="shop/eu", text="fox", batch="b"), []),
    ],
)
def test_jobs_are_narrowed_by_exactly_their_folder(
    ledger: LedgerHarness, wanted: Wanted, found: list[int]
) -> None:
    made = []
    for folder, batch in (("shop", None), ("", "b"), ("shop", None), ("shop/eu", None)):
        asked = Submission("a fox", "m", {}, folder=folder, batch=batch)
        made.append(ledger.jobs.submit(asked, "https://provider.test").ref)
        ledger.clock.advance(1)
    asked = Submission("a fox", "m", {}, folder="shop", batch="b")
    made.append(ledger.jobs.submit(asked, "https://provider.test").ref)
    assert refs(ledger.job_list.page(wanted)) == [made[number] for number in found]
    assert ledger.job_list.count(wanted) == Count(len(found))
    if wanted == Wanted(folder="shop"):
        first = JobListQueries(ledger.database, window=1).page(wanted, limit=2)
        assert (refs(first), first.next) == ([made[4], made[2]], made[2]), "found by its index"


@pytest.mark.parametrize("value", [None, "red"])
def test_metadata_are_read_in_windows_of_the_jobs_that_have_them(
    ledger: LedgerHarness, value: str | None
) -> None:
    made = []
    for number in range(6):
        metadata = {"shelf": "red"} if number % 2 else {}
        asked = Submission("a fox", "m", {}, metadata=metadata)
        made.append(ledger.jobs.submit(asked, "https://provider.test").ref)
        ledger.clock.advance(1)
    ledger.jobs.record_refused(made[1], "no")
    narrow, wanted = JobListQueries(ledger.database, window=2), Wanted(metadata=("shelf", value))
    first = narrow.page(wanted)
    assert (refs(first), first.next) == ([made[5], made[3]], made[3])
    assert refs(narrow.page(wanted, made[3])) == [made[1]]
    assert narrow.count(wanted) == Count(2, is_partial=True)
    assert ledger.job_list.count(wanted) == Count(3)
    failed = replace(wanted, state=JobState.FAILED)
    assert narrow.page(failed) == Page([], made[3]), "it is not among the newest two"
    assert refs(narrow.page(failed, made[3])) == [made[1]]
    assert (narrow.newer(wanted, made[1]), narrow.newer(wanted, made[5])) == (
        ledger.job(made[3]),
        None,
    )
    period = replace(wanted, since=NOW + 2, until=NOW + 5)
    assert refs(narrow.page(period)) == [made[3]]
    assert refs(narrow.page(replace(wanted, text="fox"))) == [made[5], made[3], made[1]]


def test_jobs_are_narrowed_by_state_model_and_time(ledger: LedgerHarness) -> None:
    old, lost = ledger.submitting("old"), ledger.failed()
    ledger.clock.advance(60)
    new = ledger.submitting("new", model="nano-banana")
    assert refs(ledger.job_list.page(Wanted(state=JobState.FAILED))) == [lost]
    assert refs(ledger.job_list.page(Wanted(model="nano-banana"))) == [new]
    assert refs(ledger.job_list.page(Wanted(since=NOW + 60))) == [new]
    assert set(refs(ledger.job_list.page(Wanted(until=NOW + 60)))) == {old, lost}
    assert refs(ledger.job_list.page(Wanted(state=JobState.FAILED, model="nano-banana"))) == []
    assert ledger.job_list.models() == ["gpt-image-1.5", "nano-banana"]


def test_a_time_is_a_place_among_the_refs(ledger: LedgerHarness) -> None:
    ref = ledger.submitting()
    assert first_ref(NOW) <= ref < first_ref(NOW + 0.001)
    assert first_ref(-5.0) == "0" * 26
    assert first_ref(1e18) > "7Z"


@pytest.mark.parametrize("words", ["FOX", "fox", "gpt-im", "100%", "_", "task-"])
def test_a_text_is_found_in_prompt_model_and_provider_id_whatever_its_case(
    ledger: LedgerHarness, words: str
) -> None:
    ref = ledger.submitting("a Fox_trot, 100% red")
    ledger.jobs.record_accepted(ref, "task-1")
    several(ledger, "an owl") if words != "gpt-im" else None
    assert refs(ledger.job_list.page(Wanted(text=words))) == [ref]


def test_model_and_state_together_are_searched_for_by_the_rarer_of_the_two(
    ledger: LedgerHarness,
) -> None:
    lost = ledger.failed("task-1")
    several(ledger, *"abc")
    narrow = JobListQueries(ledger.database, window=2)
    both = Wanted(state=JobState.FAILED, model="gpt-image-1.5")
    assert (refs(narrow.page(both)), narrow.count(both)) == ([lost], Count(1)), (
        "there is one failed job: one window is enough"
    )
    assert narrow.page(Wanted(state=JobState.FAILED, model="none")) == Page([], None)
    safe = Wanted(state=JobState.ARCHIVED, model="gpt-image-1.5")
    assert narrow.page(safe).next is not None, (
        "of the model's jobs the newest two are not archived, but there are more"
    )
    assert narrow.page(Wanted(state=JobState.ARCHIVED, model="none")) == Page([], None)


def test_what_is_named_in_full_is_found_at_once_wherever_it_is(ledger: LedgerHarness) -> None:
    ref = ledger.waiting("task-77")
    several(ledger, *(f"task-77 {number}" for number in range(5)))
    narrow = JobListQueries(ledger.database, window=2)
    for name in (ref, ref.lower(), "task-77"):
        assert refs(narrow.page(Wanted(text=name))) == [ref]
        assert narrow.count(Wanted(text=name)) == Count(1)
    assert refs(narrow.page(Wanted(text=ref, state=JobState.FAILED))) == [], (
        "the other conditions hold all the same"
    )


def test_a_search_stops_after_its_window_and_goes_on_from_there(ledger: LedgerHarness) -> None:
    # Two letters are too few for the index of texts.
    made = several(ledger, "owl", "ox", "owl", "owl", "owl")
    narrow = JobListQueries(ledger.database, window=2)
    first = narrow.page(Wanted(text="ox"))
    assert (refs(first), first.next) == ([], made[1]), (
        "nothing in the first two, but that was not all"
    )
    second = narrow.page(Wanted(text="ox"), after=first.next or "")
    assert (refs(second), second.next) == ([made[3]], made[3])
    last = narrow.page(Wanted(text="ox"), after=second.next or "")
    assert (refs(last), last.next) == ([], None)
    assert narrow.page(Wanted(text="ox"), after=made[-1]) == Page([], None)


def test_a_full_page_of_a_search_goes_on_behind_its_last_job(ledger: LedgerHarness) -> None:
    made = several(ledger, "fox", "fox", "fox")
    narrow = JobListQueries(ledger.database, window=10)
    first = narrow.page(Wanted(text="fox"), limit=2)
    assert (refs(first), first.next) == (made[:2], made[1])
    assert refs(narrow.page(Wanted(text="fox"), after=made[1], limit=2)) == made[2:]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("狐狸", [0]),
        ("狐", [0]),
        ("雪 金色", [0]),
        ("golden SNOW", [1]),
        ("snow", [1]),
        ("olde", [1]),
        ("shop-2026", [2]),
        ("night-run", [2]),
        ("nano-ban lamp", [2]),
        ("lamp snow", []),
        ("owl", [3]),
    ],
)
def test_the_index_finds_parts_of_words_in_every_script_however_far_back(
    ledger: LedgerHarness, words: str, found: list[int]
) -> None:
    submissions = [
        Submission("雪地里的一只金色狐狸", "m", {}),
        Submission("a golden hare in the snow", "m", {}),
        Submission("a lamp", "nano-banana", {}, key="shop-2026/7", batch="night-run-3"),
        Submission("an owl", "m", {}),
    ]
    made = []
    for submission in submissions:
        made.append(ledger.jobs.submit(submission, "https://provider.test").ref)
        ledger.clock.advance(1)
    narrow = JobListQueries(ledger.database, window=1)  # the scan would end after one job
    assert refs(narrow.page(Wanted(text=words))) == [made[number] for number in found]
    assert narrow.count(Wanted(text=words)).number == len(found)


def test_what_the_index_finds_is_narrowed_and_paged(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "_PORTION", 2)
    made = several(ledger, *["a red fox"] * 5, "an owl")[1:]
    wanted = Wanted(text="fox")
    first = ledger.job_list.page(wanted, limit=3)
    assert (refs(first), first.next) == (made[:3], made[2])
    assert refs(ledger.job_list.page(wanted, made[2], 3)) == made[3:]
    ledger.jobs.record_refused(made[4], "no")
    assert refs(ledger.job_list.page(Wanted(text="fox", state=JobState.FAILED))) == [made[4]]
    assert refs(ledger.job_list.page(Wanted(text="fox", since=NOW + 3))) == made[:2]
    assert refs(ledger.job_list.page(Wanted(text="fox", until=NOW + 2))) == made[3:]
    assert ledger.job_list.page(Wanted(text="fox", state=JobState.ARCHIVED)).jobs == []
    newer = ledger.job_list.newer(wanted, made[3])
    assert newer is not None
    assert newer.ref == made[2]
    assert ledger.job_list.newer(wanted, made[0]) is None


@pytest.mark.parametrize("near", [1, 2, 3, 100])
@pytest.mark.parametrize("many", [0, 1, 100])
def test_portions_of_the_index_follow_each_other_without_gap_or_overlap(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch, near: int, many: int
) -> None:
    monkeypatch.setattr(text_index, "_NEAR_ROWS", near)
    monkeypatch.setattr(text_index, "_MANY_NEAR", many)
    made = several(ledger, "fox", "owl", "owl", "owl", "fox", "fox", "owl", "fox")
    foxes = [made[number] for number in (0, 2, 3, 7)]
    for most in (1, 2, 3, 9):
        assert found_by_portions(ledger, most, up=False) == foxes
        assert found_by_portions(ledger, most, up=True) == foxes[::-1]


def found_by_portions(ledger: LedgerHarness, most: int, *, up: bool) -> list[str]:
    """Return the jobs of foxes that the index finds, ``most`` at a time."""
    found: list[str] = []
    low, high = "0" * 26, "7" + "Z" * 25
    for _ in range(20):
        portion = ledger.database.read(
            partial(find, wanted=["fox"], low=low, high=high, most=most, up=up)
        )
        assert len(portion.refs) <= most
        found += portion.refs
        if portion.next is None:
            return found
        low, high = (portion.next, high) if up else (low, portion.next)
    raise AssertionError("the portions do not end")


def test_a_job_that_is_withdrawn_leaves_the_index(ledger: LedgerHarness) -> None:
    ref = ledger.submitting("a walrus")
    ledger.jobs.withdraw(ref)
    assert ledger.job_list.page(Wanted(text="walrus")) == Page([], None)
    found = ledger.database.read(
        lambda connection: find(connection, ["wal"], "0" * 26, "7" + "Z" * 25, 5, up=False)
    )
    assert (found.refs, found.next) == ([], None)


def test_what_matches_is_counted_up_to_a_bound(ledger: LedgerHarness) -> None:
    several(ledger, "fox", "owl", "fox")
    assert ledger.job_list.count(Wanted()) == Count(3)
    assert ledger.job_list.count(Wanted(text="fox")) == Count(2)
    assert ledger.job_list.count(Wanted(), most=2) == Count(2, is_partial=True)
    assert ledger.job_list.count(Wanted(state=JobState.ARCHIVED)) == Count(0)


def test_a_count_that_ended_with_its_window_says_so(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "_COUNTED", 2)
    several(ledger, "a fox", "a fox", "a fox", "a fox", "a fox")
    assert JobListQueries(ledger.database, 2).count(Wanted(text="fox")) == Count(2, is_partial=True)
    assert JobListQueries(ledger.database, 2).count(Wanted(text="fo")) == Count(2, is_partial=True)
    assert JobListQueries(ledger.database, 9).count(Wanted(text="fox"), 4).is_partial
    assert JobListQueries(ledger.database, 9).count(Wanted(text="fox")) == Count(5)


def test_the_count_is_of_the_jobs_that_the_list_shows(ledger: LedgerHarness) -> None:
    ledger.jobs.submit(Submission("ÄPFEL und Лиса", "m", {}), "https://provider.test")
    ref = ledger.failed("task-4711")
    for words in ("äpfel", "ЛИСА", "ask-47", ref[5:].lower()):
        assert len(ledger.job_list.page(Wanted(text=words)).jobs) == 1, words
        assert ledger.job_list.count(Wanted(text=words)) == Count(1), words
