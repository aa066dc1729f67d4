"""Keys and dates of the archive: a pure function of job and index, the same on every machine."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.archive.manifest import asset_key, manifest_key, timestamp
from receiver.archive.stores.keys import is_key
from receiver.model import new_ref

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
@pytest.mark.parametrize(("moment", "folder"), [(LAST_MOMENT, "2026/12/31"), (LAST_MOMENT + 0.001, "2027/01/01"), (0.0, "1970/01/01")])
def test_the_date_of_a_key_is_the_ref_s_in_utc_wherever_the_machine_is(moment: float, folder: str) -> None:
    ref = new_ref(moment)
    assert manifest_key(ref) == f"{folder}/{ref}/job.json"
    assert asset_key(ref, 0, "png") == f"{folder}/{ref}/0.png"


def test_a_key_depends_on_nothing_but_job_index_and_type() -> None:
    assert asset_key("01ARYZ6S41TSV4RRFFQ69G5FAV", 31, "webp") == "2016/07/30/01ARYZ6S41TSV4RRFFQ69G5FAV/31.webp"
    assert manifest_key("01ARYZ6S41TSV4RRFFQ69G5FAV") == "2016/07/30/01ARYZ6S41TSV4RRFFQ69G5FAV/job.json"


@given(st.floats(0, 2**47 / 1000), st.integers(0, 31), st.sampled_from(["png", "jpg", "webp", "gif", "avif", "mp4"]))
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
def test_times_are_rfc_3339_in_utc_with_milliseconds(moment: float | None, text: str | None) -> None:
    assert timestamp(moment) == text
