"""Secrets are redacted in stored texts of a provider and in every line of the log."""

import logging
from pathlib import Path
from typing import Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from receiver.ingest.tickets import Tickets
from receiver.model import JobState
from receiver.settings import Settings
from receiver.telemetry import logs
from receiver.telemetry.redaction import MIN_LENGTH, REPLACEMENT, Redactor

KEY, LONGER = "sk-canary-0001", "sk-canary-0001-and-more"
TICKET = Tickets(["a-secret-of-the-tickets"]).sign("01JZ2Q7V3N0123456789ABCDEF")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (f"invalid apikey {KEY}", f"invalid apikey {REPLACEMENT}"),
        (f"{KEY}{KEY}", REPLACEMENT * 2),
        (f"{LONGER}!", f"{REPLACEMENT}!"),
        (
            f"cannot reach https://x/callback/{TICKET}?a",
            f"cannot reach https://x/callback/01JZ2Q7V3N0123456789ABCDEF.{REPLACEMENT}?a",
        ),
        (
            "nothing to hide, 01JZ2Q7V3N0123456789ABCDEF.png",
            "nothing to hide, 01JZ2Q7V3N0123456789ABCDEF.png",
        ),
    ],
)
def test_what_is_secret_is_blackened_and_nothing_else(text: str, seen: str) -> None:
    assert Redactor([KEY, LONGER])(text) == seen


def test_a_word_too_short_to_be_a_secret_stays() -> None:
    assert Redactor(["k", "x" * (MIN_LENGTH - 1), ""])("k xxxxxxx") == "k xxxxxxx"


@given(st.text(), st.text(min_size=MIN_LENGTH), st.text())
def test_no_secret_is_left_wherever_it_stands(before: str, secret: str, after: str) -> None:
    assert secret not in Redactor([secret])(before + secret + after).replace(REPLACEMENT, "\0")


def test_a_body_is_blackened_as_bytes() -> None:
    assert (
        Redactor([KEY]).raw(b'{"msg":"bad key ' + KEY.encode() + b' \xff"}')
        == b'{"msg":"bad key [secret] \xff"}'
    )


def break_off(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_line_of_the_log_has_a_secret_not_even_in_a_traceback(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = {
        "GRSAI_API_KEY": "sk-canary-grsai",
        "CALLBACK_SECRETS": "canary-callback-first,canary-callback-second",
        "ADMIN_TOKEN": "canary-admin-token",
        "DATABASE_URL": "postgresql://me:canary-database@127.0.0.1/x",
        "ARCHIVE_URL": "s3://pictures",
    }
    settings = Settings.load(
        {**planted, "DATA_DIR": str(tmp_path), "LOG_FORMAT": form, "LOG_LEVEL": "DEBUG"}
    )
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    log = structlog.get_logger("receiver.test")
    for text in (*planted.values(), "canary-callback-second", TICKET):
        log.debug(text, value=text, within=[{"deep": text}])
        logging.getLogger("urllib3").warning("a library says %s", text)
        try:
            break_off(text)
        except ValueError:
            log.exception("broke off")
    said = capsys.readouterr().err
    assert said.count(REPLACEMENT) >= 6 * 4
    assert "Traceback" in said
    assert "canary" not in said
    assert TICKET not in said


def test_the_settings_know_their_secrets() -> None:
    planted = {
        "GRSAI_API_KEY": "one",
        "OPENAI_API_KEY": "two",
        "CALLBACK_SECRETS": "third-0123456789,fourth-0123456789",
        "ADMIN_TOKEN": "fifth-0123456789",
    }
    assert set(
        Settings.load(
            {
                **planted,
                "DATABASE_URL": "postgresql://me:p%40ss@host/x",
                "ARCHIVE_URL": "s3://pictures",
            }
        ).secrets()
    ) == {
        "one",
        "two",
        "third-0123456789",
        "fourth-0123456789",
        "fifth-0123456789",
        "p@ss",
        "p%40ss",
    }


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_state_in_the_log_is_written_as_its_value(
    form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", form, ())
    structlog.get_logger("receiver.test").info("job ended", state=JobState.FAILED)
    said = capsys.readouterr().err
    assert "failed" in said
    assert "JobState" not in said
