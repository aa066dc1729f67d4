"""A value that is read in the background: which caller waits, how long, and what others get."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import pytest
from side_by_side import side_by_side
from waiting import until

from receiver.web.background import BackgroundValue


class Question:
    """Counts how often it is asked; it hangs while ``may_answer`` is not set."""

    def __init__(self) -> None:
        self.asked = 0
        self.now = 100.0
        self.may_answer = Event()
        self.may_answer.set()
        self.fails = False

    def clock(self) -> float:
        return self.now

    def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        assert self.may_answer.wait(20)
        if self.fails:
            raise OSError("planted")
        return number

    @contextmanager
    def hanging(self) -> Iterator[None]:
        self.may_answer.clear()
        try:
            yield
        finally:
            self.may_answer.set()


def test_an_answer_is_kept_for_its_lifetime() -> None:
    question = Question()
    value = BackgroundValue("question", question, 5.0, clock=question.clock)
    assert (value.get().value, value.get().value) == (1, 1)
    question.now += 4
    answer = value.get()
    assert (answer.value, answer.age, answer.late) == (1, 4.0, False)
    question.now += 1
    answer = value.get()
    assert (answer.value, answer.age) == (2, 0.0), "who starts the question waits for its answer"


def test_while_a_question_hangs_one_caller_waits_and_all_others_get_the_last_answer_at_once() -> (
    None
):
    question = Question()
    value = BackgroundValue("question", question, 0.0, limit=0.05, clock=question.clock)
    value.get()
    with question.hanging():
        first = value.get()
        assert (first.value, first.late) == (1, True)
        began = time.perf_counter()
        others = side_by_side([value.get] * 40)
        assert {other.value for other in others} == {1}
        assert question.asked == 2, "one thread asks"
        assert time.perf_counter() - began < 2, "no caller waits for an answer that may never come"
        assert not value.get().late, "asked just now"
        question.now += 1
        assert value.get().late
    until(lambda: value.get().value not in (None, 1), what="the answer")


def test_before_the_first_answer_there_is_neither_value_nor_age() -> None:
    question = Question()
    value = BackgroundValue("question", question, 0.0, limit=0.05, clock=question.clock)
    with question.hanging():
        answers = [value.get(), value.get()]
    assert [(answer.value, answer.error, answer.age) for answer in answers] == [
        (None, None, None)
    ] * 2


def test_an_error_is_an_answer_too() -> None:
    question = Question()
    question.fails = True
    value = BackgroundValue("question", question, 5.0, clock=question.clock)
    assert str(value.get().error) == "planted"
    assert (value.get().value, question.asked) == (None, 1)
    question.fails, question.now = False, question.now + 5
    assert (value.get().error, value.get().value) == (None, 2)


def test_without_a_thread_the_question_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    question = Question()
    value = BackgroundValue("question", question, 0.0, clock=question.clock)
    monkeypatch.setattr("receiver.web.background.Thread.start", start)
    assert (str(value.get().error), question.asked) == ("can't start new thread", 0)
    monkeypatch.undo()
    assert value.get().value == 1
