"""Keys of the archive, which depend only on job and index; and manifests, which are not trusted."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from archives import manifest_content
from hypothesis import given
from hypothesis import strategies as st

from receiver.archive.manifest import asset_key, manifest_key, parse_key, read_manifest
from receiver.archive.stores import is_key
from receiver.errors import UnreadableError
from receiver.model import new_ref, timestamp

LAST_MOMENT = datetime(2026, 12, 31, 23, 59, 59, 999_000, UTC).timestamp()


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def _anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the machine into another time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_anywhere")
@pytest.mark.parametrize(
    ("moment", "folder"),
    [(LAST_MOMENT, "2026/12/31"), (LAST_MOMENT + 0.001, "2027/01/01"), (0.0, "1970/01/01")],
)
def test_the_date_of_a_key_is_the_ref_s_in_utc_wherever_the_machine_is(
    moment: float, folder: str
) -> None:
    ref = new_ref(moment)
    assert manifest_key(ref) == f"{folder}/{ref}/job.json"
    assert asset_key(ref, 0, "png") == f"{folder}/{ref}/0.png"


def test_a_key_depends_on_nothing_but_job_index_and_type() -> None:
    assert (
        asset_key("01ARYZ6S41TSV4RRFFQ69G5FAV", 31, "webp")
        == "2016/07/30/01ARYZ6S41TSV4RRFFQ69G5FAV/31.webp"
    )
    assert (
        manifest_key("01ARYZ6S41TSV4RRFFQ69G5FAV")
        == "2016/07/30/01ARYZ6S41TSV4RRFFQ69G5FAV/job.json"
    )


@given(
    st.floats(0, 2**47 / 1000),
    st.integers(0, 31),
    st.sampled_from(["png", "jpg", "webp", "gif", "avif", "mp4"]),
)
def test_every_store_takes_every_key(moment: float, idx: int, extension: str) -> None:
    ref = new_ref(moment)
    assert is_key(asset_key(ref, idx, extension))
    assert is_key(manifest_key(ref))


@pytest.mark.usefixtures("_anywhere")
@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (None, None),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (LAST_MOMENT, "2026-12-31T23:59:59.999Z"),
        (1_800_000_000.1239, "2027-01-15T08:00:00.123Z"),
        (1_800_000_000, "2027-01-15T08:00:00.000Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_with_milliseconds(
    moment: float | None, text: str | None
) -> None:
    assert timestamp(moment) == text


REF = "01JZ2Q7V3N0123456789ABCDEF"
KEY = asset_key(REF, 0, "png")


def test_a_key_tells_whose_it_is() -> None:
    assert parse_key(KEY) == (REF, "0.png")
    assert parse_key(manifest_key(REF)) == (REF, "job.json")


@pytest.mark.parametrize(
    "name",
    [
        "",
        REF,
        KEY.replace("2025", "2024"),  # another day than the ref's
        KEY.replace(REF, REF.lower()),
        KEY.replace("/0.png", "/00.png"),
        KEY.replace("/0.png", "/0.PNG"),
        KEY.replace("/0.png", "/0.png/a"),
        KEY.replace("/0.png", "/job.json.bak"),
        f"more/{KEY}",
        f"{KEY}\n",
        "9999/12/31/7ZZZZZZZZZZZZZZZZZZZZZZZZZ/0.png",  # a time beyond all calendars
    ],
)
def test_a_name_that_is_no_key_belongs_to_no_job(name: str) -> None:
    assert parse_key(name) is None


def manifest(**values: object) -> dict[str, Any]:
    return {**manifest_content(REF, KEY, b"picture"), **values}


def asset(**values: object) -> dict[str, Any]:
    return manifest(assets=[{**manifest()["assets"][0], **values}])


def without(name: str) -> dict[str, Any]:
    return {field: value for field, value in manifest().items() if field != name}


def read(content: object) -> Any:
    return read_manifest(json.dumps(content).encode(), REF)


def test_a_manifest_is_read_as_it_is_written() -> None:
    found = read(manifest())
    assert (found.ref, found.state, found.request.prompt, found.key) == (
        REF,
        "archived",
        "fox 0",
        "order-0",
    )
    assert (found.submitted_at, found.assets[0].index, found.assets[0].key) == (
        1_790_043_200.0,
        0,
        KEY,
    )


def test_a_manifest_of_the_first_release_and_one_of_a_later_release_are_read_too() -> None:
    late = manifest(
        invented_later={"what": "ever"}, assets=[{**manifest()["assets"][0], "colours": 3}]
    )
    first = {
        name: value
        for name, value in manifest().items()
        if name not in {"reason", "message", "finished_at", "round"}
    }
    assert read(late) == read(manifest())
    assert (
        read(first).reason,
        read(first).message,
        read(first).finished_at,
        read(first).round,
    ) == (None, "", None, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "Input should be an object"),
        ({}, "format: Field required; ref: Field required; state: Field required$"),
        (manifest(format=2), "format: Input should be 1"),
        (manifest(format="1"), "format: "),
        (manifest(ref="01JZ2Q7V3N0123456789ABCDEG"), "asset 0 has a key that is not its own"),
        (manifest(state="done"), "state: "),
        (manifest(state="archiving"), "the job is archiving, which is not a final state"),
        (manifest(state="expired"), "the job is expired, but 1 of its 1 assets are archived"),
        (manifest(reason="bad_asset"), "the job is archived, yet has a reason to have failed"),
        (manifest(provider=""), "provider: "),
        (
            manifest(request={"model": "m", "prompt": "a\0b", "params": {}}),
            "request.prompt: a text holds a NUL character",
        ),
        (manifest(submitted_at=1_790_000_000), "submitted_at: a time is RFC 3339 text"),
        (manifest(submitted_at="2026-09-22"), "submitted_at: a time names its zone"),
        (manifest(submitted_at="soon"), "submitted_at: "),
        (manifest(assets=[]), "assets: "),
        (manifest(assets=manifest()["assets"] * 2), "two assets have the same index"),
        (manifest(deliveries=[{"source": "callback"}]), "deliveries.0.verdict: Field required"),
        (asset(index=-1), "assets.0.index: "),
        (asset(state="pending"), "assets.0.state: "),
        (asset(state="expired"), "the job is archived, but 0 of its 1 assets are archived"),
        (asset(sha256=None), "asset 0 is archived without a key, SHA-256, size or type"),
        (asset(sha256="A" * 64), "assets.0.sha256: "),
        (asset(size=0), "assets.0.size: "),
        (asset(size=2**63), "assets.0.size: "),
        (asset(key=KEY.replace("2025", "2024")), "asset 0 has a key that is not its own"),
        (asset(key=asset_key(REF, 1, "png")), "asset 0 has a key that is not its own"),
        (asset(key="../../etc/passwd"), "asset 0 has a key that is not its own"),
        *(
            (without(name), f"{name}: Field required")
            for name in ("provider_id", "key", "base_url", "api", "mode", "ended_at", "assets")
        ),
    ],
)
def test_a_manifest_that_is_broken_says_where(content: object, said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        read(content)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[" * 100_000, b"null", json.dumps(manifest()).encode()[:-1]]
)
def test_a_manifest_that_is_no_json_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_manifest(data, REF)


def test_another_job_s_manifest_is_not_this_one_s() -> None:
    with pytest.raises(UnreadableError, match=f"it is the manifest of {REF}"):
        read_manifest(json.dumps(manifest()).encode(), "01JZ2Q7V3N0123456789ABCDEG")
