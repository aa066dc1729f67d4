"""The job object: what is shown of a request, what is wanted next, which folders are allowed."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from receiver.archive.manifest import (
    JobKey,
    asset_key,
    manifest_key,
    parse_job_key,
    parse_quarantine_key,
    quarantine_key,
)
from receiver.archive.stores import is_key
from receiver.jobs.job_object import NextView
from receiver.jobs.request import MAX_METADATA, JobRequest
from receiver.ledger.caller_fields import MAX_SHOWN, searchable, shown_params
from receiver.ledger.rows import Asset, Job
from receiver.model import Api, AssetState, JobState, Mode, Reason, is_folder
from receiver.telemetry.redaction import without_url_secrets

REF = "01JZ2Q7V3N0123456789ABCDEF"

# Folders.


@pytest.mark.parametrize("folder", ["a", "shop/summer", "_x", "Team-A/2026/07", "a..b", "x" * 200])
def test_a_folder_becomes_the_first_part_of_the_key(folder: str) -> None:
    key = asset_key(REF, 0, "png", folder)
    assert key == f"{folder}/{asset_key(REF, 0, 'png')}"
    assert is_key(key)
    assert parse_job_key(key) == JobKey(folder, REF, "0.png")
    assert parse_job_key(manifest_key(REF, folder)) == JobKey(folder, REF, "job.json")
    assert JobRequest(prompt="a fox", folder=folder).submission().folder == folder


@pytest.mark.parametrize(
    "folder",
    [
        "..", ".", "../a", "a/..", "a/../b", "/a", "a/", "a//b", ".hidden", "a/.b", "a b", "a\nb",
        "ü", "a\\b", "a\x00b", "~", "a:b", "2026", "2026/07", "0", "quarantine", "quarantine/x",
        "x" * 201, "a\n",
    ],
)  # fmt: skip
def test_a_folder_that_could_leave_the_archive_or_be_taken_for_another_is_refused(
    folder: str,
) -> None:
    assert not is_folder(folder)
    assert parse_job_key(asset_key(REF, 0, "png", folder)) is None
    if folder == folder.strip():
        with pytest.raises(ValidationError, match="folder"):
            JobRequest(prompt="a fox", folder=folder)


def test_without_a_folder_keys_are_what_they_were() -> None:
    assert parse_job_key(asset_key(REF, 3, "png")) == JobKey("", REF, "3.png")
    rejected = quarantine_key(REF, 0, "a" * 64)
    assert (parse_job_key(rejected), parse_quarantine_key(rejected)) == (None, REF)


# Metadata.


@pytest.mark.parametrize(
    "metadata",
    [
        {"": 1},
        {"x" * 101: 1},
        {str(n): n for n in range(51)},
        {"a": "x" * MAX_METADATA},
        {"a": "\0"},
    ],
)
def test_metadata_are_small(metadata: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobRequest(prompt="a fox", metadata=metadata)


def test_a_job_is_found_by_the_plain_values_of_its_metadata() -> None:
    values = {"order": 4711, "paid": True, "who": "Ada", "none": None, "deep": {"a": 1}, "l": [1]}
    assert searchable({**values, "long": "x" * 501}) == {
        "order": "4711",
        "paid": "true",
        "who": "Ada",
        "none": "null",
    }


# The request that is shown.


def test_short_params_are_shown_as_they_are_and_long_ones_without_their_pictures() -> None:
    assert shown_params({"aspectRatio": "1:1"}) is None
    picture = "data:image/png;base64," + "A" * 5_000_000
    found = json.loads(shown_params({"urls": [picture, "https://a.test/b.png"], "n": 1}) or "")
    assert found["n"] == 1
    assert found["urls"][1] == "https://a.test/b.png"
    assert found["urls"][0].startswith("data:image/png;base64,AAAA")
    assert found["urls"][0].endswith("(5000022 characters)")


@pytest.mark.parametrize(
    "params",
    [
        {f"{n}{'n' * 1000}": "x" * 1000 for n in range(500)},
        {"many": ["x" * 150] * 100_000},
        {"deep": {"a": {"b": ["y" * 10_000] * 1000}}},
    ],
)
def test_whatever_the_params_are_what_is_shown_stays_small(params: dict[str, object]) -> None:
    assert len(json.dumps(params)) > MAX_SHOWN
    assert len(shown_params(params) or "") < 80_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.test/b.png?size=2", "https://a.test/b.png?size=2"),
        ("https://me:pw@a.test/b", "https://[secret]@a.test/b"),
        (
            "https://b.test/k?X-Amz-Date=1&X-Amz-Signature=abc123&x=1",
            "https://b.test/k?X-Amz-Date=1&X-Amz-Signature=[secret]&x=1",
        ),
        ("https://b.test/k?sig=a%2Fb#top", "https://b.test/k?sig=[secret]#top"),
        ("token=abc", "token=abc"),
    ],
)
def test_the_secrets_in_a_url_are_not_shown(text: str, shown: str) -> None:
    assert without_url_secrets(text) == shown


# What is wanted next.


def job(state: JobState, **values: Any) -> Job:
    given: dict[str, Any] = dict.fromkeys(
        ("provider_id", "key", "outcome", "reason", "ended_at", "finished_at", "due_at", "claim")
    )
    given |= {"provider": "grsai", "base_url": "", "api": Api.DRAW, "mode": Mode.WEBHOOK}
    given |= {"model": "m", "prompt": "p", "message": "", "progress": 0, "submitted_at": 0.0}
    given |= {"deadline_at": 9.0, "round": 0, "attempts": 0}
    return Job(REF, state=state, **{**given, **values})


def asset(state: AssetState, due_at: float | None = None, **values: Any) -> Asset:
    given: dict[str, Any] = dict.fromkeys(
        ("claim", "key", "sha256", "size", "content_type", "width", "height", "finished_at")
    )
    given |= {"url": "https://f.test", "announced_at": 0.0, "expires_at": 9.0, "attempts": 1}
    return Asset(REF, 0, state, due_at=due_at, error="", **{**given, **values})


PENDING, LOST = asset(AssetState.PENDING, 2.0), asset(AssetState.EXPIRED)
KEPT = asset(AssetState.FAILED, rejected_sha256="a" * 64, quarantined_at=1.0)


@pytest.mark.parametrize(
    ("found", "assets", "step"),
    [
        (job(JobState.SUBMITTING, due_at=5.0), [], ("callback", 5)),
        (job(JobState.WAITING, due_at=5.0, provider_id="t"), [], ("poll", 5)),
        (job(JobState.ARCHIVING, due_at=5.0), [PENDING, LOST], ("archive", 2)),
        (job(JobState.ARCHIVING, due_at=5.0), [LOST], ("conclude", 5)),
        (job(JobState.ARCHIVED), [asset(AssetState.ARCHIVED)], None),
        (job(JobState.EXPIRED, provider_id="t"), [LOST], ("retry", None)),
        (job(JobState.EXPIRED), [], None),
        (job(JobState.FAILED, reason=Reason.BAD_ASSET, provider_id="t"), [KEPT], ("accept", None)),
        (job(JobState.FAILED, reason=Reason.BAD_ASSET, provider_id="t"), [LOST], ("retry", None)),
        (job(JobState.FAILED, reason=Reason.VIOLATION, provider_id="t"), [], None),
    ],
)
def test_a_job_says_what_it_waits_for(
    found: Job, assets: list[Asset], step: tuple[str, int | None] | None
) -> None:
    told = NextView.of(found, assets)
    when = None if step is None or step[1] is None else f"1970-01-01T00:00:0{step[1]}.000Z"
    assert told == (None if step is None else NextView(step=step[0], at=when))  # type: ignore[arg-type]  # pydantic reads the word
