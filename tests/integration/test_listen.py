"""Following the events: in order, from any place, each dealt with at least once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import LedgerHarness, opened

from receiver.errors import ConfigurationError
from receiver.events.event import Event
from receiver.events.listen import Cursor, EventReader, run_command
from receiver.model import EventType
from receiver.settings import Settings
from receiver.variables import secret_variables


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    with opened(sqlite_url) as ledger:
        yield ledger


def reader(
    ledger: LedgerHarness, *types: EventType, pauses: list[float] | None = None
) -> EventReader:
    """Return a reader that records its pauses. In each pause a job fails; the third one raises."""
    seen = [] if pauses is None else pauses

    def pause(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) > 2:
            raise KeyboardInterrupt
        ledger.failed(f"meanwhile-{len(seen)}")

    return EventReader(ledger.events, types, pause)


def test_what_there_is_comes_in_order_and_then_it_ends(ledger: LedgerHarness) -> None:
    ref = ledger.archived(2)
    found = [(event, upto) for event, upto in reader(ledger).events(0, follow=False) if event]
    assert [(event.number, event.type, event.index) for event, _ in found] == [
        (1, EventType.ASSET_ARCHIVED, 0),
        (2, EventType.ASSET_ARCHIVED, 1),
        (3, EventType.JOB_ARCHIVED, None),
    ]
    assert {event.ref for event, _ in found} == {ref}
    assert [upto for _, upto in found] == [1, 2, 3]
    assert [event for event, _ in reader(ledger).events(1, follow=False) if event] == [
        event for event, _ in found[1:]
    ]


def test_it_waits_for_what_happens_next(ledger: LedgerHarness) -> None:
    ledger.failed("before")
    pauses: list[float] = []
    seen: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(
            event for event, _ in reader(ledger, pauses=pauses).events(1, follow=True) if event
        )
    assert len(pauses) == 3


def test_other_types_are_skipped_and_the_number_moves_on(ledger: LedgerHarness) -> None:
    ledger.archived()
    assert list(reader(ledger, EventType.JOB_FAILED).events(0, follow=False)) == [(None, 2)]


def test_many_events_come_without_a_gap(ledger: LedgerHarness) -> None:
    for number in range(120):
        ledger.failed(f"task-{number}")
    numbers = [event.number for event, _ in reader(ledger).events(0, follow=False) if event]
    assert numbers == list(range(1, 121))


# The place.


def test_a_place_is_kept_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "place"
    assert Cursor(path).read() is None
    Cursor(path).write(41)
    Cursor(path).write(42)
    assert Cursor(path).read() == 42
    assert [file.name for file in tmp_path.iterdir()] == ["place"]


def test_no_place_is_kept_without_a_file() -> None:
    cursor = Cursor(None)
    cursor.write(1)
    assert cursor.read() is None


def test_a_file_that_is_no_place_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "place"
    path.write_text("a letter to my aunt")
    with pytest.raises(ConfigurationError, match="holds no number of an event"):
        Cursor(path).read()
    assert path.read_text() == "a letter to my aunt"


@pytest.mark.parametrize("text", ["-1", "9" * 23])
def test_a_number_that_no_event_has_is_no_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "place"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="out of bounds"):
        Cursor(path).read()


def test_only_where_a_place_is_kept_an_event_is_said_to_be_done_again(tmp_path: Path) -> None:
    assert Cursor(tmp_path / "place").consequence(437) == "it is done again with the next start"
    assert (
        Cursor(None).consequence(437)
        == "without --cursor nothing is remembered: `--after 436` begins with it again"
    )


def test_a_cursor_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Cursor(tmp_path / "nowhere" / "place").write(1)


# The command.


def test_a_command_has_the_event_on_its_stdin_and_in_its_environment(tmp_path: Path) -> None:
    event = {
        "id": "ref-0-asset-archived-0",
        "type": "asset.archived",
        "data": {"ref": "R", "key": "a/0.png", "job_key": None, "size": 7},
    }
    out = tmp_path / "out"
    names = "$EVENT_ID $EVENT_TYPE $EVENT_REF $EVENT_KEY $EVENT_SIZE ${EVENT_JOB_KEY-none}"
    script = f'cat > "$0"; echo "{names}" >> "$0"; exit 3'
    assert run_command(f"sh -c '{script}' {out}", event) == 3
    line, words = out.read_text().splitlines()
    assert json.loads(line) == event
    assert words == "ref-0-asset-archived-0 asset.archived R a/0.png 7 none"


def test_a_command_does_not_inherit_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {
        *("ADMIN_TOKEN", "CALLBACK_SECRETS", "EVENT_SECRET", "GRSAI_API_KEY", "OPENAI_API_KEY"),
        *("DATABASE_URL", "EVENT_URLS", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        *("ADMIN_TOKEN_FILE", "CALLBACK_SECRETS_FILE", "DATABASE_URL_FILE", "PGPASSWORD"),
    }
    for name in (*ours, "ARCHIVE_URL", "MY_TOKEN"):
        monkeypatch.setenv(name, f"value of {name}")
    withheld, out = secret_variables(Settings.model_fields), tmp_path / "out"
    assert run_command(f"sh -c 'env > {out}'", {"id": "x", "data": {}}, withheld) == 0
    assert {line.split("=")[0] for line in out.read_text().splitlines()}.isdisjoint(ours)
    assert "ARCHIVE_URL=value of ARCHIVE_URL" in out.read_text(), "what is no secret is given"
    assert "MY_TOKEN=value of MY_TOKEN" in out.read_text(), "the command's own secrets, too"


def test_every_setting_that_is_redacted_is_withheld_from_commands() -> None:
    secrets = [name for name, about in Settings.model_fields.items() if not about.repr]
    secrets += [n for n, about in Settings.model_fields.items() if "Secret" in str(about)]
    assert {name.upper() for name in secrets} <= secret_variables(Settings.model_fields)


@pytest.mark.parametrize("command", ["", "no-such-program-anywhere", "'unclosed"])
def test_a_command_that_cannot_be_run_is_an_error(command: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--exec: .* cannot be run"):
        run_command(command, {"id": "x", "data": {}})
