"""Archiving one asset, with every fault of its source, up to the end of its URL."""

import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archiving import LIFETIME, PNG, SIZE, ArchivingHarness, due, scripted_source
from ledgers import opened
from outside_network import Script, answer, chunked

from receiver.archive.archiver import (
    ATTEMPTS_BEFORE_REFRESH,
    BACK_OFF,
    MAX_BAD_FILES,
)
from receiver.archive.stores.directory import DirectoryStore
from receiver.clock import back_off
from receiver.model import AssetState, Decision, JobState, Source
from submitter.sandbox import Sandbox


@pytest.fixture
def harness(sqlite_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[ArchivingHarness]:
    with opened(sqlite_url) as ledger:
        yield ArchivingHarness(ledger, DirectoryStore(tmp_path / "archive"), tmp_path, sandbox)


# Faults of the source


@pytest.mark.parametrize(
    ("file", "message"),
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
    harness: ArchivingHarness, file: dict[str, Any], message: str
) -> None:
    ref, task_id = harness.picture_made(**file)
    failed, archived = harness.attempts()
    assert re.search(message, failed.error)
    assert (failed.state, failed.attempts, failed.claim) == (AssetState.PENDING, 1, None)
    assert 0.75 <= due(failed) - failed.announced_at <= 1.25
    assert (archived.state, archived.attempts, archived.error) == (AssetState.ARCHIVED, 2, "")
    assert (
        archived.sha256
        == harness.file(task_id)["sha256"]
        == hashlib.sha256(harness.stored(archived.key)).hexdigest()
    )
    assert harness.ledger.event_types(ref) == ["asset.archived", "job.archived"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"mode": "truncated", "length": False}, "PNG"),
        ({"mode": "wrong_length"}, "PNG"),
    ],
)
def test_a_source_that_sends_the_same_bad_file_twice_is_not_asked_again(
    harness: ArchivingHarness, file: dict[str, Any], message: str
) -> None:
    ref, task_id = harness.picture_made(**file)
    first, last = harness.attempts()
    assert (first.state, last.state) == (AssetState.PENDING, AssetState.FAILED)
    assert message in first.error
    assert (
        last.error
        == f"{first.error}; the source sent the same file twice, so it is not downloaded again"
    )
    assert harness.file(task_id)["gets"] == 2
    assert harness.job_due_now(ref)


def test_a_source_that_never_serves_a_picture_fails_the_asset_within_minutes(
    harness: ArchivingHarness,
) -> None:
    message = "an HTML page, not a picture"
    ref, _ = harness.picture_made(mode="placeholder")
    tried = list(harness.attempts())
    assert [asset.state for asset in tried] == [AssetState.PENDING] * (MAX_BAD_FILES - 1) + [
        AssetState.FAILED
    ]
    assert message in tried[-1].error
    assert 60 < harness.ledger.clock.now - tried[-1].announced_at < 300
    assert harness.ledger.event_types(ref) == []
    assert harness.job_due_now(ref)


def test_only_bad_files_count_towards_a_failure(harness: ArchivingHarness) -> None:
    trouble = [answer(status="500 Oops", body=b"")] * (MAX_BAD_FILES + 2)
    with scripted_source(*trouble, answer(body=PNG[: SIZE // 2]), answer(body=PNG)) as server:
        harness.announce(server)
        *_, last = harness.attempts()
    assert (last.state, last.attempts) == (AssetState.ARCHIVED, MAX_BAD_FILES + 4)


def test_a_url_that_is_not_there_again_and_again_is_taken_for_dead_and_a_fresh_one_is_used(
    harness: ArchivingHarness,
) -> None:
    ref, task_id = harness.picture_made(mode="expired")
    for _ in range(ATTEMPTS_BEFORE_REFRESH - 1):
        dead = harness.attempt()
        assert "answered 403" in dead.error
        assert not harness.job_due_now(ref)  # it may still come
        harness.ledger.clock.now = due(dead)
    dead = harness.attempt()
    assert harness.job_due_now(ref)
    assert harness.ledger.deliver(ref, harness.result(task_id), Source.POLL) is Decision.REFRESHED
    archived = harness.attempt()
    assert (archived.state, archived.sha256) == (
        AssetState.ARCHIVED,
        harness.file(task_id)["sha256"],
    )
    assert archived.url != dead.url


def test_a_source_that_is_only_broken_is_not_taken_for_dead(harness: ArchivingHarness) -> None:
    ref, _ = harness.picture_made(mode="error", times=5)
    for _ in harness.attempts():
        assert not harness.job_due_now(ref)
    assert harness.ledger.job(ref).state is JobState.ARCHIVED


@pytest.mark.parametrize(
    ("file", "options", "message"),
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
    harness: ArchivingHarness, file: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    ref, _ = harness.picture_made(**file)
    harness.fetch_from(*options.pop("ports", (harness.sandbox.port,)), **options)
    failed = harness.attempt()
    assert failed.state is AssetState.FAILED
    assert re.search(message, failed.error)
    assert harness.job_due_now(ref)


def test_a_redirect_to_a_place_that_may_be_fetched_is_followed(harness: ArchivingHarness) -> None:
    _, task_id = harness.picture_made(mode="redirect")
    assert harness.attempt().state is AssetState.ARCHIVED
    assert harness.file(task_id)["gets"] == 2


@pytest.mark.parametrize(
    ("odd", "decoded"),
    [
        (chunked(PNG, end=b""), ""),
        (answer("Content-Encoding: gzip", body=gzip.compress(PNG)), "gzip"),
        (answer("Content-Encoding: utf-8", body=PNG), ""),
    ],
    ids=["the last chunk is missing", "gzip", "no encoding"],
)
def test_a_whole_picture_in_an_odd_answer_is_archived_at_once(
    harness: ArchivingHarness, odd: Script, decoded: str
) -> None:
    with scripted_source(odd) as server:
        harness.announce(server)
        archived = harness.attempt()
    assert (archived.state, archived.error, archived.decoded) == (AssetState.ARCHIVED, "", decoded)
    assert harness.stored(archived.key) == PNG


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
    ("file", "message"),
    [
        ({"mode": "error", "times": 0}, "answered 500"),
        ({"mode": "not_ready", "times": 0}, "answered 404"),
    ],
)
def test_the_last_chance_is_at_the_url_s_end_and_its_loss_is_explained(
    harness: ArchivingHarness, file: dict[str, Any], message: str
) -> None:
    ref, _ = harness.picture_made(**file)
    harness.ledger.clock.advance(LIFETIME - 10)
    *tried, last, lost = harness.attempts()
    assert len(tried) >= ATTEMPTS_BEFORE_REFRESH
    assert due(last) == last.expires_at == harness.ledger.clock.now
    assert lost.state is AssetState.EXPIRED
    assert re.search(
        rf"URL was valid.*until 2027-01-15T10:00:00.000Z.*{lost.attempts} attempts.*{message}",
        lost.error,
    )
    assert harness.ledger.event_types(ref) == []
    assert harness.job_due_now(ref)


def test_who_comes_after_the_url_s_end_asks_for_a_fresh_one_before_giving_up(
    harness: ArchivingHarness,
) -> None:
    ref, task_id = harness.picture_made(mode="expired")
    harness.ledger.clock.advance(LIFETIME + 3600)  # no worker was running
    late = harness.attempt()
    assert (late.state, harness.job_due_now(ref)) == (AssetState.PENDING, True)
    harness.ledger.deliver(ref, harness.result(task_id), Source.POLL)
    assert harness.attempt().state is AssetState.ARCHIVED


def test_who_comes_after_the_url_s_end_and_gets_no_fresh_one_gives_up_soon(
    harness: ArchivingHarness,
) -> None:
    harness.picture_made(mode="expired", times=0)
    harness.ledger.clock.advance(LIFETIME + 3600)
    tried = list(harness.attempts())
    assert [asset.state for asset in tried] == [AssetState.PENDING] * (
        ATTEMPTS_BEFORE_REFRESH - 1
    ) + [AssetState.EXPIRED]
    assert "answered 403" in tried[-1].error
