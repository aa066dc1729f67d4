"""The shapes of charts, and settings that are shown without their secrets."""

from pathlib import Path

import pytest

from receiver.settings import Settings
from receiver.web.dashboard.charts import HEIGHT, Stack, columns, round_up
from receiver.web.dashboard.settings_shown import MASK, settings_shown


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (0.03, 0.04), (0.2, 0.2), (1, 1), (3, 4), (9.7, 10), (10, 10), (11, 20), (81, 100)],
)
def test_a_chart_ends_at_a_round_number(value: float, top: float) -> None:
    assert round_up(value) == pytest.approx(top)


def test_parts_of_a_column_stand_on_each_other() -> None:
    drawn = columns([Stack("a", [("x", 2), ("y", 0), ("z", 6)]), Stack("b", [("x", 0)])])
    assert drawn.top == 8
    first, second = drawn.columns
    assert (first.total, first.rectangles) == (
        8,
        [("x", HEIGHT * 6 / 8, HEIGHT / 4), ("z", 0, HEIGHT * 3 / 4)],
    )
    assert (second.total, second.rectangles) == (0, [])
    assert first.start + first.width < second.start


def test_parts_may_stand_in_front_of_each_other() -> None:
    drawn = columns([Stack("a", [("most", 10), ("half", 5)])], overlaid=True)
    assert drawn.columns[0].rectangles == [("most", 0, HEIGHT), ("half", HEIGHT / 2, HEIGHT / 2)]
    assert columns([]).columns == []


SECRETS = {
    "GRSAI_API_KEY": "sk-very-secret",
    "ADMIN_TOKEN": "an-admin-token-of-ours",
    "CALLBACK_SECRETS": "callback-secret-one,callback-secret-two",
    "DATABASE_URL": "postgresql://me:pass/w@rd@db.test/ledger?password=also-secret",
    "ARCHIVE_URL": "s3://pictures/home",
    "PUBLIC_URL": "https://someone:hidden@pictures.test",
    "OPENAI_BASE_URL": "https://gateway-user:gateway-word@gateway.test/v1",
    "EVENT_URLS": "https://hooks.test/services/T0/secret-path?token=in-query",
    "EVENT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
PARTS = (
    *("very-secret", "admin-token", "secret-one", "secret-two", "pass/w", "rd@", "also-secret"),
    *("hidden", "someone", "gateway-word", "secret-path", "in-query", "MfKQ9"),
)


def test_no_secret_is_shown_not_even_in_an_address(tmp_path: Path) -> None:
    settings = Settings.load({**SECRETS, "DATA_DIR": str(tmp_path)})
    shown = {one.name: one for one in settings_shown(settings)}
    everything = "\n".join(one.value for one in shown.values())
    assert [part for part in PARTS if part in everything] == []
    assert shown["GRSAI_API_KEY"].value == MASK
    assert shown["CALLBACK_SECRETS"].value == f"{MASK}, {MASK}"
    assert "db.test/ledger" in shown["DATABASE_URL"].value
    assert "https://hooks.test" in shown["EVENT_URLS"].value
    assert shown["GRSAI_API_KEY"].is_set
    assert not shown["POLL_AFTER"].is_set
    assert (shown["POLL_AFTER"].value, shown["FETCH_ALLOW"].value) == ("120", "")
