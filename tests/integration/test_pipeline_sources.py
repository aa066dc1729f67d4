"""The way of one asset into the archive with every fault of its source, up to the end of its URL."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archiving import LIFETIME, PNG, SIZE, Bench, due, source
from ledgers import opened
from outside_network import answer

from receiver.archive.archiver import (
    BACK_OFF,
    MOST_BAD_FILES,
    SUSPICIOUS_ATTEMPTS,
)
from receiver.archive.stores.directory import DirectoryStore
from receiver.clock import back_off
from receiver.model import AssetState, Decision, Source
from submitter.sandbox import Sandbox


@pytest.fixture
def bench(sqlite_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Bench]:
    with opened(sqlite_url) as books:
        yield Bench(books, DirectoryStore(tmp_path / "archive"), tmp_path, sandbox)


# Faults of the source


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"mode": "not_ready"}, "answered 404"),
        ({"mode": "error"}, "answered 500"),
        ({"mode": "reset", "times": 1}, "Connection reset by peer|cut short"),
        ({"mode": "reset", "times": 1, "at": 0}, "Connection reset by peer"),
        ({"mode": "truncated", "times": 1}, r"cut short, \d+ of \d+ bytes came"),
        ({"mode": "truncated", "times": 1, "length": False}, "PNG"),
        ({"mode": "wrong_length", "times": 1}, "PNG"),
        ({"mode": "empty", "times": 1}, "answered with nothing"),
        ({"mode": "placeholder", "times": 1}, "an HTML page, not a picture"),
    ],
)
def test_a_source_that_fails_once_is_asked_again_a_second_later(
    bench: Bench, file: dict[str, Any], said: str
) -> None:
    ref, task_id = bench.made(**file)
    failed, archived = bench.attempts()
    assert re.search(said, failed.error)
    assert (failed.state, failed.attempts, failed.claim) == (AssetState.PENDING, 1, None)
    assert 0.75 <= due(failed) - failed.announced_at <= 1.25
    assert (archived.state, archived.attempts, archived.error) == (AssetState.ARCHIVED, 2, "")
    assert (
        archived.sha256
        == bench.file(task_id)["sha256"]
        == hashlib.sha256(bench.stored(archived.key)).hexdigest()
    )
    assert bench.books.events(ref) == ["asset.archived"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"mode": "placeholder"}, "an HTML page, not a picture"),
        ({"mode": "truncated", "length": False}, "PNG"),
        ({"mode": "wrong_length"}, "PNG"),
    ],
)
def test_a_source_that_never_serves_a_picture_fails_the_asset_within_minutes(
    bench: Bench, file: dict[str, Any], said: str
) -> None:
    ref, _ = bench.made(**file)
    tried = list(bench.attempts())
    assert [asset.state for asset in tried] == [AssetState.PENDING] * (MOST_BAD_FILES - 1) + [
        AssetState.FAILED
    ]
    assert said in tried[-1].error
    assert 60 < bench.books.clock.now - tried[-1].announced_at < 300
    assert bench.books.events(ref) == []
    assert bench.asked_now(ref)


def test_only_bad_files_count_towards_a_failure(bench: Bench) -> None:
    trouble = [answer(status="500 Oops", body=b"")] * (MOST_BAD_FILES + 2)
    with source(*trouble, answer(body=PNG[: SIZE // 2]), answer(body=PNG)) as server:
        bench.announced(server)
        *_, last = bench.attempts()
    assert (last.state, last.attempts) == (AssetState.ARCHIVED, MOST_BAD_FILES + 4)


def test_a_url_that_is_not_there_again_and_again_is_taken_for_dead_and_a_fresh_one_is_used(
    bench: Bench,
) -> None:
    ref, task_id = bench.made(mode="expired")
    for _ in range(SUSPICIOUS_ATTEMPTS - 1):
        dead = bench.attempt()
        assert "answered 403" in dead.error
        assert not bench.asked_now(ref)  # it may still come
        bench.books.clock.now = due(dead)
    dead = bench.attempt()
    assert bench.asked_now(ref)
    assert bench.books.deliver(ref, bench.result(task_id), Source.POLL) is Decision.REFRESHED
    archived = bench.attempt()
    assert (archived.state, archived.sha256) == (AssetState.ARCHIVED, bench.file(task_id)["sha256"])
    assert archived.url != dead.url


def test_a_source_that_is_only_broken_is_not_taken_for_dead(bench: Bench) -> None:
    ref, _ = bench.made(mode="error", times=5)
    for asset in bench.attempts():
        assert bench.asked_now(ref) is (asset.state is AssetState.ARCHIVED)


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        (
            {"mode": "redirect", "to": "http://169.254.169.254/latest/meta-data"},
            {},
            r"169\.254\.169\.254: .*metadata",
        ),
        ({"mode": "redirect", "to": "http://10.0.0.1/x.png"}, {}, r"10\.0\.0\.1: .*FETCH_ALLOW"),
        ({"mode": "redirect", "to": "ftp://10.0.0.1/x.png"}, {}, "not an http or https URL"),
        ({}, {"ports": ()}, r"127\.0\.0\.1.*FETCH_ALLOW"),
        ({}, {"max_bytes": SIZE - 1}, f"more than {SIZE - 1} bytes .FETCH_MAX_BYTES."),
    ],
)
def test_what_may_not_be_fetched_fails_at_once_and_says_why(
    bench: Bench, file: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    ref, _ = bench.made(**file)
    bench.fetch_from(*options.pop("ports", (bench.sandbox.port,)), **options)
    failed = bench.attempt()
    assert failed.state is AssetState.FAILED
    assert re.search(said, failed.error)
    assert bench.asked_now(ref)


def test_a_redirect_to_a_place_that_may_be_fetched_is_followed(bench: Bench) -> None:
    _, task_id = bench.made(mode="redirect")
    assert bench.attempt().state is AssetState.ARCHIVED
    assert bench.file(task_id)["gets"] == 2


# The end of a URL


@pytest.mark.parametrize("attempts", [1, 2, 3, 6, 7, 50, 1100])
def test_the_pause_doubles_with_each_attempt_up_to_a_minute_give_or_take_a_quarter(
    attempts: int,
) -> None:
    pause = min(2 ** (attempts - 1), BACK_OFF[-1])
    pauses = [back_off(attempts, BACK_OFF) for _ in range(200)]
    assert 0.75 * pause <= min(pauses) < 0.85 * pause
    assert 1.15 * pause < max(pauses) <= 1.25 * pause


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"mode": "error", "times": 0}, "answered 500"),
        ({"mode": "not_ready", "times": 0}, "answered 404"),
    ],
)
def test_the_last_chance_is_at_the_url_s_end_and_its_loss_is_explained(
    bench: Bench, file: dict[str, Any], said: str
) -> None:
    ref, _ = bench.made(**file)
    bench.books.clock.advance(LIFETIME - 10)
    *tried, last, lost = bench.attempts()
    assert len(tried) >= SUSPICIOUS_ATTEMPTS
    assert due(last) == last.expires_at == bench.books.clock.now
    assert lost.state is AssetState.EXPIRED
    assert re.search(
        rf"URL lived.*until 2027-01-15T10:00:00.000Z.*{lost.attempts} attempts.*{said}", lost.error
    )
    assert bench.books.events(ref) == []
    assert bench.asked_now(ref)


def test_who_comes_after_the_url_s_end_asks_for_a_fresh_one_before_giving_up(bench: Bench) -> None:
    ref, task_id = bench.made(mode="expired")
    bench.books.clock.advance(LIFETIME + 3600)  # nobody worked all night
    late = bench.attempt()
    assert (late.state, bench.asked_now(ref)) == (AssetState.PENDING, True)
    bench.books.deliver(ref, bench.result(task_id), Source.POLL)
    assert bench.attempt().state is AssetState.ARCHIVED


def test_who_comes_after_the_url_s_end_and_gets_no_fresh_one_gives_up_soon(bench: Bench) -> None:
    bench.made(mode="expired", times=0)
    bench.books.clock.advance(LIFETIME + 3600)
    tried = list(bench.attempts())
    assert [asset.state for asset in tried] == [AssetState.PENDING] * (SUSPICIOUS_ATTEMPTS - 1) + [
        AssetState.EXPIRED
    ]
    assert "answered 403" in tried[-1].error
