"""Untrusted text: what could harm its reader is escaped, everything else stays as it is."""

import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest

from receiver.telemetry.printable import printable

ROOT = Path(__file__).parents[2]
# Two planes and the tags whole; of the rest, which is private or not assigned, a sample.
NUMBERS = [*range(0x20000), *range(0xE0000, 0xE0200), *range(0x20000, sys.maxunicode + 1, 251)]
EVERY = [*map(chr, NUMBERS)]
BIDI = [*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u061c"]


def test_no_control_character_of_unicode_remains() -> None:
    shown = printable("".join(EVERY))
    assert {unicodedata.category(one) for one in shown} & {"Cc", "Cs", "Zl", "Zp", "Cn"} == set()
    assert not set(shown) & {*BIDI, "\x1b", "\x9b", "\n", "\r", "\u2028", "\ufeff", "\u200b"}


@pytest.mark.parametrize(
    "text",
    [
        "a fox, 一只狐狸\u3000ラマ",
        "e\u0301",
        "👨\u200d👩\u200d👧 ❤\ufe0f",
        "שלום العربية",
        "[/foo] \\x1b",
        "",
    ],
)
def test_ordinary_text_of_every_language_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("one\ntwo\r", "one\\ntwo\\r"),
        ("\udc80", "\\udc80"),
        ("\U000e0001", "\\U000e0001"),
        (None, ""),
    ],
)
def test_what_could_harm_is_escaped_once(text: str | None, shown: str) -> None:
    assert printable(text) == printable(printable(text)) == shown


@pytest.mark.parametrize("indent", [None, 1])
def test_a_document_has_the_same_value_and_nothing_that_harms(indent: int | None) -> None:
    text = "".join(one for one in EVERY if not "\ud800" <= one <= "\udfff")
    value = {text: [text, {}]}
    document = printable(json.dumps(value, ensure_ascii=False, indent=indent), as_json=True)
    assert json.loads(document) == value
    assert not set(document) & {*BIDI, "\x1b", "\x7f", "\x9b", "\x85", "\u2028", "\U000e0001"}


def test_commands_print_in_one_way_only() -> None:
    """A text for a terminal goes through ``say``, ``say_json`` or a table of ``new_table``."""
    found = []
    for path in [*ROOT.glob("receiver/**/*.py"), *ROOT.glob("submitter/**/*.py")]:
        name = str(path.relative_to(ROOT))
        # Tables of the ledger are not tables on a terminal.
        if name.startswith(
            ("receiver/ledger/tables", "receiver/ledger/job_totals", "submitter/sandbox/")
        ):
            continue
        source = path.read_text()
        found += [(name, text) for text in re.findall(r"click\.s?echo\(|[ =]Table\(", source)]
    assert found == [("receiver/cli/base.py", "click.echo(")] * 2
