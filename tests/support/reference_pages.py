"""The parts of docs/commands.md, docs/http.md and CONTRIBUTING.md that are generated.

They stand between ``<!-- generated: NAME -->`` and ``<!-- end -->``. ``make docs`` runs this file
to rewrite them; ``tests/unit/test_documents.py`` fails while a page differs from the code.
"""

import re
import tomllib
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click

from receiver.cli import main as receiver
from receiver.web import create_app
from receiver.web.api.openapi import document
from submitter.cli import main as submitter

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "docs/commands.md", ROOT / "docs/http.md", ROOT / "CONTRIBUTING.md")
GROUPS: dict[str, click.Group] = {"receiver": receiver, "submitter": submitter}
_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->\n)", re.DOTALL)
# Every API route may answer with these, so the page explains them once.
_EVERYWHERE = {"401", "503"}


def generated() -> dict[str, str]:
    """Return every generated block: its Markdown by its name."""
    blocks = {
        f"{program} {name}": _command(f"{program} {name}", command)
        for program, name, command in commands()
    }
    return blocks | {"API routes": _routes(), "import layers": _layers()}


def commands() -> Iterator[tuple[str, str, click.Command]]:
    """Yield every command with its program and name."""
    for program, group in GROUPS.items():
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                for inner, its in command.commands.items():
                    yield program, f"{name} {inner}", its
            else:
                yield program, name, command


def named_in(page: str) -> list[str]:
    """Return the names of the blocks of a page, in order."""
    return [name for _, name, _ in _BLOCK.findall(page)]


def rewritten(page: str, blocks: dict[str, str]) -> str:
    """Return a page with new content in each block; a block without a source becomes empty."""
    return _BLOCK.sub(lambda found: found[1] + blocks.get(found[2], "") + found[3], page)


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    arguments = " ".join(command.collect_usage_pieces(context))
    paragraphs = cleandoc(command.help or "").split("\n\n")
    text = "\n\n".join(" ".join(part.split()) for part in paragraphs)
    return f"### {name}\n\n`{name} {arguments}`\n\n{text}\n{_options(command, context)}"


def _options(command: click.Command, context: click.Context) -> str:
    records = [
        record
        for option in command.get_params(context)
        if (record := option.get_help_record(context)) and "--help" not in record[0]
    ]
    lines = [f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in records]
    return "\n".join(["", "| option | meaning |", "|---|---|", *lines, ""]) if lines else ""


def _routes() -> str:
    lines = [
        _row(f"`{method.upper()} {path}`", _cell(operation["summary"]), *_details(operation))
        for path, methods in document(create_app())["paths"].items()
        for method, operation in methods.items()
    ]
    return "\n".join(
        ["| request | does | query and headers | answers |", "|---|---|---|---|", *lines, ""]
    )


def _details(operation: dict[str, Any]) -> tuple[str, str]:
    """Return the parameters of an operation, and its answers, as two cells."""
    parameters = [
        f"`{parameter['name']}`"
        for parameter in operation["parameters"]
        if parameter["in"] != "path"
    ]
    answers = [
        f"{status} {_cell(response['description'])}"
        for status, response in operation["responses"].items()
        if status not in _EVERYWHERE
    ]
    return " ".join(parameters), " · ".join(answers)


def _layers() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return "\n".join(["```", *(layer.replace("receiver.", "") for layer in layers), "```", ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def main() -> Iterator[str]:
    """Rewrite the pages; yield the path of each that changed."""
    blocks = generated()
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        if (after := rewritten(before, blocks)) != before:
            path.write_text(after, encoding="utf-8")
            yield str(path.relative_to(ROOT))


if __name__ == "__main__":
    for changed in main():
        print(f"rewritten: {changed}")  # noqa: T201 - the output of a program
