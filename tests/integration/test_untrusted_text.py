"""A text that attacks its reader, in every field that comes from outside, harms no reader.

It is read by every command that prints, as a table and as JSON, by every page, by the API, and by
the log in both forms.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from dashboard_client import PAGES, log_in
from ledgers import migrated_file
from web_client import WebClient

import receiver.cli
import submitter.cli
from receiver.model import Delivery, Source, Submission
from receiver.services import Services
from receiver.settings import Settings
from receiver.telemetry import logs
from receiver.web import v1

# C0 (without NUL, which no text of ours may have), DEL, C1, bidirectional and invisible characters.
HARMFUL = "".join(
    map(
        chr,
        [
            *range(1, 0x20),
            *range(0x7F, 0xA0),
            *range(0x2028, 0x202F),
            *range(0x2066, 0x206A),
            *(0x200B, 0x200E, 0x200F, 0x61C, 0xFEFF),
        ],
    )
)
HOSTILE = (
    "x [/foo] [red]y[/] \x1b]0;pwned\x07\x1b[2J\u202egnp.exe\x9b31m\nforged line "
    f"{HARMFUL} <b>&amp;"
)


def is_harmless(text: str, *, lines: bool = False) -> bool:
    """Return whether nothing harmful is in a text; ``lines``: newlines and tabs are right there."""
    return not set(text) & (set(HARMFUL) - (set("\n\r\t") if lines else set()))


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    environ = {"DATA_DIR": str(tmp_path / "data"), "EVENT_URLS": "log:"}
    for name, value in {**environ, "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)
    migrated_file(tmp_path / "data" / "ledger.sqlite3")
    with closing(Services(Settings.load(environ)).open()) as services:
        yield services


@pytest.fixture
def refs(services: Services) -> list[str]:
    """Make jobs in which every text from outside is hostile: one archiving, failed and refused."""
    asked = Submission(HOSTILE, HOSTILE, {"style": HOSTILE}, metadata={"who": HOSTILE})
    urls = [{"url": f"https://files.test/{HOSTILE}"}]
    bodies: list[Any] = [
        {"id": HOSTILE, "status": "succeeded", "results": urls},
        {"id": "t", "status": "failed", "failure_reason": HOSTILE, "error": HOSTILE},
        HOSTILE,
    ]
    refs = [services.jobs.submit(asked, "https://provider.test").ref for _ in (*bodies, 0)]
    for ref, body in zip(refs, bodies, strict=False):
        raw = json.dumps(body).encode() if isinstance(body, dict) else body.encode()
        delivery = Delivery(ref, Source.CALLBACK, raw, services.now())
        if isinstance(body, dict):
            services.inbox.accept(delivery)
        else:
            services.inbox.keep_unreadable(delivery)
    (claimed,) = services.assets.claim(1)
    services.assets.retry(claimed, services.now() + 9e9, HOSTILE)
    services.jobs.record_refused(refs[-1], HOSTILE)
    return refs


COMMANDS = [
    *(
        "get {0}",
        "jobs",
        "jobs --json",
        "show {0}",
        "show {0} --json",
        "show {1}",
        "show {3} --json",
    ),
    *("events", "listen --after 0 --no-follow", "listen --after 0 --no-follow --json", "audit"),
    *("retry {0} {2}", "replay 3", "secrets list", "show nonsense\x1b", "doctor", "doctor --json"),
    *("prune \u202e\x9b\nforged", "audit x\nforged\u202e", "secrets \x9b", "--\u202e\x9b"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_what_harms_a_terminal(refs: list[str], command: str) -> None:
    run = CliRunner().invoke(receiver.cli.main, command.format(*refs).split(" "))
    assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
    assert is_harmless(run.stdout, lines=True), command
    assert is_harmless(run.stderr, lines=True), command
    assert "\r" not in run.output
    assert not re.search(r"^forged line", run.output, re.MULTILINE)


@pytest.mark.usefixtures("refs")
@pytest.mark.parametrize("command", ["credits", "credits --json"])
def test_no_command_of_the_submitter_prints_it_either(command: str) -> None:
    run = CliRunner().invoke(submitter.cli.main, command.split())
    assert isinstance(run.exception, SystemExit), run.exception
    assert is_harmless(run.output, lines=True)
    assert not re.search(r"^forged line", run.output, re.MULTILINE)
    assert "[/foo]" in run.output


def test_json_has_the_same_value_as_what_was_stored(refs: list[str]) -> None:
    shown = CliRunner().invoke(receiver.cli.main, ["show", refs[0], "--json"]).stdout
    assert shown.count("\n") == 1
    assert (json.loads(shown)["prompt"], json.loads(shown)["model"]) == (HOSTILE, HOSTILE)
    listed = CliRunner().invoke(receiver.cli.main, ["jobs", "--json"]).stdout.splitlines()
    assert {json.loads(line)["prompt"] for line in listed} == {HOSTILE}
    counted = CliRunner().invoke(submitter.cli.main, ["credits", "--json"]).stdout
    assert HOSTILE in {row["model"] for row in json.loads(counted)["models"]}


def test_no_page_and_no_answer_of_the_api_has_it(services: Services, refs: list[str]) -> None:
    web = WebClient(services)
    log_in(web)
    pages = [*PAGES, *(f"/jobs/{ref}" for ref in refs), f"/submit?like={refs[0]}", "/jobs?q=\u202e"]
    pages += [f"/jobs/{refs[0]}/deliveries/1", f"/jobs/{refs[1]}/deliveries/2"]
    for path in pages:
        text = web.client.get(path).text
        if "like=" in path:  # the form has the prompt itself, to be posted again
            text = re.sub(r"<textarea.*?</textarea>", "", text, flags=re.DOTALL)
        assert is_harmless(text, lines=True), path
        assert "<b>&amp;" not in text, path
    for path in ("/api/jobs", f"/api/jobs/{refs[0]}", f"/api/jobs/{refs[1]}/deliveries"):
        assert is_harmless(web.client.get(path).text), path
    assert web.client.get(f"/api/jobs/{refs[0]}").json["prompt"] == HOSTILE
    assert is_harmless(web.client.get("/api/events").text)
    assert is_harmless(web.client.get("/api/jobs?state=%1b%c2%9b").text)
    assert is_harmless(web.client.get("/v1/%e2%80%ae%c2%9b").text)
    assert is_harmless(v1.failure(400, HOSTILE, "x").get_data(as_text=True))


def hostile_lines(logger: Any, other: Any) -> None:
    """Log it in every place where a text can stand."""
    logger.warning(HOSTILE, error=HOSTILE, word="\x9b31m\u202e", several=[HOSTILE])
    other.warning("a library says %s", HOSTILE)
    error = ValueError(HOSTILE)
    logger.warning("failed", exc_info=error)
    other.warning("failed", exc_info=error)


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_line_of_the_log_has_it_and_none_looks_like_another(
    form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", form, ())
    hostile_lines(structlog.get_logger("test"), logging.getLogger("a.library"))
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)  # the console's own colours
    assert is_harmless(said, lines=True)
    assert "\r" not in said
    lines = said.splitlines()
    assert not [line for line in lines if line.startswith("forged line")]
    if form == "json":
        assert {json.loads(line)["level"] for line in lines} == {"warning"}
        assert json.loads(lines[0])["error"] == HOSTILE
        assert len(lines) == 4
