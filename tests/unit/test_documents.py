"""The documents name everything the code has: settings, states, reasons, events, commands."""

from enum import StrEnum
from pathlib import Path

import click
import pytest

from receiver.cli import main as receiver
from receiver.model import AssetState, EventType, JobState, Reason
from receiver.settings import Settings
from submitter.cli import main as submitter

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_stands_in_the_readme(name: str) -> None:
    assert f"`{name.upper()}`" in README


@pytest.mark.parametrize("words", [JobState, AssetState, Reason, EventType])
def test_every_word_of_the_contract_stands_in_the_readme(words: type[StrEnum]) -> None:
    assert [word for word in words if word not in README] == []


@pytest.mark.parametrize(("name", "group"), [("receiver", receiver), ("submitter", submitter)])
def test_every_command_stands_in_the_readme(name: str, group: click.Group) -> None:
    commands = group.list_commands(click.Context(group))
    assert commands
    assert [command for command in commands if f"`{name} {command}" not in README] == []


def test_the_readme_opens_with_the_two_commands() -> None:
    assert README.index("make demo") < README.index("make test") < README.index("## ")


def test_every_document_the_readme_links_to_is_there() -> None:
    links = [part.partition(")")[0] for part in README.split("](")[1:]]
    assert [
        link for link in links if not link.startswith("http") and not (ROOT / link).exists()
    ] == []
