"""The texts of the pages: each exists in both languages, is used, and has the same placeholders."""

import re
import string
from pathlib import Path

import pytest

from receiver.model import AssetState, Decision, EventType, JobState, Proof, Reason, Source
from receiver.web.dashboard import formatting
from receiver.web.dashboard.translations import TEXTS, translate

WEB = Path(__file__).parents[2] / "receiver" / "web"
TEMPLATES = {
    path.name: path.read_text(encoding="utf-8") for path in (WEB / "templates").glob("*.html")
}
VIEWS = {
    path.name: path.read_text(encoding="utf-8")
    for path in (WEB / "dashboard").glob("*.py")
    if not path.name.startswith("translations")
}
# Keys that a page builds from a value of the service.
MADE = {
    *(state.value for state in (*JobState, *AssetState)),
    *(reason.value for reason in Reason),
    *(f"source_{source}" for source in Source),
    *(f"verdict_{verdict}" for verdict in Decision),
    *(f"proof_{proof}" for proof in Proof),
    *(f"event_{kind}" for kind in EventType),
    *(
        f"fault_{part}"
        for part in (
            *("ledger", "archive", "workers", "work", "secrets", "accounts", "events", "disk"),
        )
    ),
    *(f"theme_{theme}" for theme in ("auto", "light", "dark")),
    *(
        f"check_{check}"
        for check in ("ledger", "archive", "workers", "secrets", "disk", "provider", "clock")
    ),
    *("check_events", "check_public_URL"),
    *(
        f"step_{step}{more}"
        for step in ("key", "address", "submit", "callback", "picture")
        for more in ("", "_help")
    ),
    *(f"mode_{mode}" for mode in ("webhook", "poll", "stream")),
}


def named() -> set[str]:
    """Return every key that a template or a view names."""
    everything = "\n".join([*TEMPLATES.values(), *VIEWS.values()])
    found = set(re.findall(r"""\bt\((?:"|')([a-z_.0-9]+)(?:"|')""", everything)) | set(
        re.findall(r"""(?:"|')([a-z_.0-9]+)(?:"|')""", everything)
    )
    # error_404 uses error_404_help too, and an action shows notice_….
    return (
        found
        | {f"{key}_help" for key in found}
        | {f"notice_{key}" for key in found}
        | set(re.findall(r"\?notice=([a-z]+)", everything))
    )


def test_every_text_that_is_used_exists() -> None:
    asked = {
        key
        for page in TEMPLATES.values()
        for key in re.findall(r"""\bt\("([a-z_.0-9]+)"[,)]""", page)
    }
    asked |= {
        key
        for view in VIEWS.values()
        for key in re.findall(
            r"""\b(?:localized|error_page|public_error_page)\((?:\d+, )?"([a-z_.0-9]+)"[,)]""", view
        )
    }
    assert len(asked) > 80
    assert sorted(asked - set(TEXTS)) == []
    assert sorted(MADE - set(TEXTS)) == []


def test_every_text_is_used() -> None:
    said = {
        f"notice_{word}"
        for view in VIEWS.values()
        for word in re.findall(r"\?notice=([a-z]+)", view)
    }
    errors = {
        f"error_{status}{more}"
        for status in (400, 403, 404, 405, 409, 413, 500, 503)
        for more in ("", "_help")
    }
    counted = {
        f"bulk_{what}{least}" for what in ("jobs", "deliveries") for least in ("", "_at_least")
    }
    assert sorted(set(TEXTS) - named() - MADE - said - errors - counted) == []


@pytest.mark.parametrize("key", TEXTS)
def test_both_languages_have_the_same_placeholders(key: str) -> None:
    english, chinese = TEXTS[key]
    places = [
        sorted(name for _, name, _, _ in string.Formatter().parse(words) if name)
        for words in (english, chinese)
    ]
    assert places[0] == places[1]
    assert re.search(r"[\u4e00-\u9fff]", chinese), "it is Chinese"
    assert not re.search(r"[\u4e00-\u9fff]", english), "it is English"


def test_a_text_is_filled_in() -> None:
    assert translate("en", "token_slow", seconds=3) == "Too many attempts. Try again in 3 seconds."
    assert translate("zh", "gallery") == "图库"


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0, "0 B"),
        (None, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (150 * 1024, "150 KB"),
        (3 * 1024**4, "3.0 TB"),
    ],
)
def test_sizes_are_formatted(number: int | None, written: str) -> None:
    assert formatting.size(number) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, "–"),
        (0.25, "0.2 s"),
        (42, "42 s"),
        (61, "1 min 01 s"),
        (3700, "1 h 01 min"),
        (200_000, "2.3 d"),
    ],
)
def test_durations_are_formatted(seconds: float | None, written: str) -> None:
    assert formatting.duration(seconds) == written


def test_times_and_numbers_are_formatted() -> None:
    assert formatting.time_utc(1_800_000_000) == "2027-01-15 08:00:00 UTC"
    assert formatting.time_iso(1_800_000_000.5) == "2027-01-15T08:00:00.500Z"
    assert (formatting.time_utc(None), formatting.time_iso(None)) == ("", "")
    assert (formatting.number(1234567), formatting.share(1, 3), formatting.share(0, 0)) == (
        "1,234,567",
        "33.3 %",
        "–",
    )


@pytest.mark.parametrize("page", TEMPLATES)
def test_no_page_has_an_inline_script_or_style(page: str) -> None:
    """The Content-Security-Policy forbids them; this finds the mistake without a browser."""
    assert not re.search(
        r"<style|\sstyle=|<script(?![^>]+src=)|\son[a-z]+=|hx-on|javascript:|hx-vals|\|safe\b",
        TEMPLATES[page],
    )
