"""The threads of a batch, and their limit on submits per second."""

import threading
import time

import pytest

from submitter.batch.workers import SubmitRate, Workers


def test_the_rate_limits_submits_of_all_threads_together() -> None:
    rate, stopping = SubmitRate(50), threading.Event()
    began = time.monotonic()
    workers = Workers(4, range(11), lambda _: rate.wait(stopping), stopping)
    assert workers.done(within=60)
    assert time.monotonic() - began >= 10 / 50


def test_a_submit_does_not_wait_for_its_turn_after_a_stop() -> None:
    rate, stopping = SubmitRate(0.001), threading.Event()
    assert rate.wait(stopping)
    stopping.set()
    assert not rate.wait(stopping)


def test_an_error_of_one_thread_stops_all_and_is_raised() -> None:
    stopping = threading.Event()
    workers = Workers(4, ["1", "x", *["2"] * 1000], int, stopping)
    with pytest.raises(ValueError, match="'x'"):
        workers.done(within=60)
    assert stopping.is_set()
