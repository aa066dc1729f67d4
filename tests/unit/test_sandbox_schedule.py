"""The sandbox's schedule: actions run in the order in which they are due, by few threads."""

import logging
import threading
from collections.abc import Iterator

import pytest

from submitter.sandbox.schedule import Schedule


@pytest.fixture
def schedule() -> Iterator[Schedule]:
    made = Schedule(threads=1)
    yield made
    made.stop()


def test_actions_happen_in_the_order_in_which_they_are_due(schedule: Schedule) -> None:
    seen, done = list[str](), threading.Event()
    schedule.after(0.06, done.set)
    schedule.after(0.04, lambda: seen.append("later"))
    schedule.after(0.02, lambda: seen.append("sooner"))
    schedule.after(0.04, lambda: seen.append("later too"))
    assert done.wait(10)
    assert seen == ["sooner", "later", "later too"]


def test_an_action_that_fails_is_logged_and_the_others_go_on(
    schedule: Schedule, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    with caplog.at_level(logging.ERROR):
        schedule.after(0, lambda: int("seven"))
        schedule.after(0, done.set)
        assert done.wait(10)
    assert "ValueError" in caplog.text


def test_thousands_may_wait_and_are_forgotten_at_the_end() -> None:
    before = set(threading.enumerate())
    waiting = Schedule(threads=4)
    happened = threading.Event()
    for _ in range(10_000):
        waiting.after(600, happened.set)
    assert len(set(threading.enumerate()) - before) == 1
    waiting.stop()
    assert not set(threading.enumerate()) - before
    assert not happened.is_set()
