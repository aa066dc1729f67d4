"""The commands on a terminal of 80 columns, on a real pseudo-terminal, and in a pipe."""

import fcntl
import json
import logging
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Sequence
from datetime import datetime
from io import StringIO

import click
import pytest
import structlog
from api_jobs import archived, reported
from commands import invoke
from processes import Finished, environment
from rich.console import Console
from rich.progress import Progress
from web_client import FAILED, WebClient, web_client

from receiver.cli import main
from receiver.cli.base import say
from receiver.cli.moments import MOMENT, MOMENT_AFTER
from receiver.cli.terminal import bar_shown
from receiver.model import Submission
from receiver.telemetry import logs

LONG = "a lighthouse at dusk,\twith waves\nand 北京的灯塔 " + "on and on " * 30
COMMANDS = (
    *("jobs", "jobs -q nothing", "show {failed}", "show {archived}", "audit", "events"),
    *("listen --after 0 --no-follow", "submitter credits"),
)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> WebClient:
    """Make a ledger with a job of each kind."""
    folder = tmp_path_factory.mktemp("terminal")
    with web_client(folder / "data", {}) as web:
        archived(web, folder)
        reported(web, {**FAILED, "id": "task-2"}, LONG)
        labels = {"key": "k-1", "batch": "summer", "folder": "shop/eu"}
        asked = Submission("\x1b[31mred", "nano-banana", {}, **labels)  # type: ignore[arg-type]  # texts
        web.services.jobs.submit(asked, "https://provider.test")
        return web


@pytest.fixture(scope="module")
def refs(web: WebClient) -> dict[str, str]:
    """Return the refs by the state of their job."""
    return {job.state: job.ref for job in web.services.queries.jobs()}


PROGRAM = """
import sys
from receiver.cli import main
from submitter.cli import main as submitter
for command in sys.argv[1:]:
    print("$", command, flush=True)
    program, words = main, command.split()
    if words[0] == "submitter":
        program, words = submitter, words[1:]
    try:
        program.main(words, standalone_mode=False)
    except SystemExit:
        pass
"""


def on_a_terminal(web: WebClient, commands: Sequence[str], columns: int = 80) -> dict[str, str]:
    """Run commands in one process on a terminal; return what each printed."""
    environ = environment({"DATA_DIR": str(web.services.settings.data_dir), "TERM": "xterm"})
    environ.pop("COLUMNS", None)
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        os.execve(sys.executable, [sys.executable, "-c", PROGRAM, *commands], environ)  # noqa: S606 - our own
    printed = b""
    try:
        while block := os.read(terminal, 65536):
            printed += block
    except OSError:  # Linux reports the end of a terminal so
        pass
    os.close(terminal)
    os.waitpid(pid, 0)
    # Only what rich writes itself: the colour of a job's text would be found.
    text = re.sub(r"\x1b\[[0-37]?m", "", printed.decode()).replace("\r\n", "\n")
    parts = [part.partition("\n") for part in text.split("$ ")[1:]]
    return {command: output for command, _, output in parts}


@pytest.fixture(scope="module")
def shown(web: WebClient, refs: dict[str, str]) -> dict[str, str]:
    """Return what the commands print at 80 columns."""
    commands = [command.format(**refs) for command in COMMANDS]
    return dict(zip(COMMANDS, on_a_terminal(web, commands).values(), strict=True))


def piped(web: WebClient, *arguments: str) -> Finished:
    """Run a command whose output goes into a pipe, inside this process."""
    environ = {"DATA_DIR": str(web.services.settings.data_dir)}
    return invoke(("receiver", *arguments), environ, folder=web.services.settings.data_dir)


def test_at_80_columns_a_job_is_one_line_with_its_whole_ref_and_a_part_of_its_prompt(
    shown: dict[str, str], refs: dict[str, str]
) -> None:
    head, *rows = shown["jobs"].splitlines()
    assert head.split() == ["ref", "state", "submitted", "files", "prompt"]
    assert [row[:26] for row in rows] == sorted(refs.values(), reverse=True)
    assert all(re.search(r" \d\d:\d\d:\d\d ", row) for row in rows), "short and local"
    red, failed, _ = rows
    assert r"\x1b[31mred" in red
    assert "output_moderation: a" in failed
    assert failed.rstrip().endswith("…")


@pytest.mark.parametrize("command", COMMANDS)
def test_at_80_columns_no_ref_hash_or_path_is_cut_and_no_line_is_too_long(
    shown: dict[str, str], refs: dict[str, str], web: WebClient, command: str
) -> None:
    lines = shown[command].splitlines()
    key = "/0.png"
    assert all(len(line) <= 80 or key in line or " on and on" in line for line in lines)
    assert "\x1b[31m" not in shown[command]
    if command == "show {archived}":
        (asset,) = web.services.queries.assets([refs["archived"]])[refs["archived"]]
        assert f" {asset.sha256}\n" in shown[command]
        assert f"{asset.key}\n" in shown[command]


def test_at_80_columns_an_event_and_a_model_have_short_lines(
    shown: dict[str, str], refs: dict[str, str], web: WebClient
) -> None:
    listed = shown["listen --after 0 --no-follow"]
    assert re.search(f"asset.archived  {refs['archived']}\n {{8}}index=0 size=", listed)
    assert f"key={refs['archived'][:4]}" not in listed
    credits_shown = shown["submitter credits"]
    assert "gpt-image-1.5\n  2 submitted: 1 archived, 1 refunded\n" in credits_shown
    for line in piped(web, "listen", "--after", "0", "--no-follow").out.splitlines():
        number, moment, kind, ref, _ = line.split("\t")
        assert (int(number) > 0, moment[-1], ref in refs.values()) == (True, "Z", True), kind


def test_a_wide_terminal_has_the_model_too(web: WebClient) -> None:
    (listed,) = on_a_terminal(web, ["jobs"], 120).values()
    assert listed.split("\n")[0].split()[-1] == "model"
    assert "nano-banana" in listed


def test_in_a_pipe_each_row_is_a_line_with_tabs_whole_and_without_boxes(
    web: WebClient, refs: dict[str, str]
) -> None:
    rows = [line.split("\t") for line in piped(web, "jobs").out.splitlines()]
    assert [row[0] for row in rows] == sorted(refs.values(), reverse=True)
    red, failed, done = rows
    assert failed[4].startswith(r"a lighthouse at dusk,\twith waves\nand 北京的灯塔 on and on")
    assert (len(failed[4]) > 300, failed[6:8]) == (True, ["output_moderation", "no"])
    assert red[5:] == ["nano-banana", "", "", "k-1", "summer"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+Z", done[2])
    for command in ("audit", f"show {refs['archived']}", "jobs"):
        assert not re.search("[│┃━─]", piped(web, *command.split()).out)
    sections = [
        line.split("\t")[0] for line in piped(web, "show", refs["archived"]).out.splitlines()
    ]
    assert sections[-2:] == ["delivery", "asset"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("--model nano-banana", ["submitting"]),
        ("--batch summer", ["submitting"]),
        ("--folder shop/eu", ["submitting"]),
        ("--folder shop", []),
        ("--reason output_moderation", ["failed"]),
        ("--reason output_moderation --state archived", []),
        ("--since 1h", ["submitting", "failed", "archived"]),
        ("--until 1h", []),
        ("--since 2020-01-01 --until 2020-12-31", []),
    ],
)
def test_jobs_are_filtered_as_on_the_dashboard(
    web: WebClient, options: str, found: list[str]
) -> None:
    done = piped(web, "jobs", "--json", *options.split())
    assert [json.loads(line)["state"] for line in done.out.splitlines()] == found


def test_a_day_is_whole_and_local_and_what_is_no_time_is_named() -> None:
    begin, end = (kind.convert("2026-07-01", None, None) for kind in (MOMENT, MOMENT_AFTER))
    assert end - begin == 86400
    assert datetime.fromtimestamp(begin).isoformat() == "2026-07-01T00:00:00"  # noqa: DTZ006 - local
    assert MOMENT.convert("2026-07-01T12:00:00Z", None, None) == 1782907200
    for wrong in ("yesterday", "2026-13-01", "7", "-2h", "", "2h ago"):
        with pytest.raises(click.BadParameter, match="is not a time: write a day"):
            MOMENT.convert(wrong, None, None)


def test_an_unknown_command_names_the_one_that_was_meant(web: WebClient) -> None:
    done = piped(web, "jbos")
    assert (done.status, "No such command 'jbos'. Did you mean jobs?" in done.err) == (2, True)
    assert "Did you mean" not in piped(web, "xyzzy").err


def test_messages_and_lines_of_the_log_come_above_a_bar() -> None:
    written = StringIO()
    console = Console(file=written, force_terminal=True, width=80)
    bar = Progress(console=console)
    bar.add_task("going on")
    logs.configure("INFO", "json", [])
    with bar_shown(bar):
        say("a \x1bmessage", err=True)
        structlog.get_logger().warning("a line of ours")
        logging.getLogger("library").warning("a line of a library")
    structlog.reset_defaults()
    logging.getLogger().handlers = []
    for text in (r"a \x1bmessage", '"event": "a line of ours"', '"event": "a line of a library"'):
        (line,) = [line for line in written.getvalue().split("\n") if text in line]
        before = re.split(r"\r|\x1b\[2K", line.partition(text)[0])[-1]
        assert "going on" not in before


@pytest.mark.parametrize(
    ("words", "offered"),
    [("receiver jo", "plain,jobs"), ("receiver jobs --state arch", "plain,archiving")],
)
def test_a_shell_completes_commands_and_choices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, offered: str
) -> None:
    monkeypatch.setenv("_RECEIVER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        main.main([], prog_name="receiver", complete_var="_RECEIVER_COMPLETE")
    assert offered in capsys.readouterr().out.splitlines()
