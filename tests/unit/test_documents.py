"""Documents agree with the code: commands, settings, routes, states, examples, links, paths."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import reference_pages
from pydantic import BaseModel

from receiver.jobs.job_object import JobView
from receiver.jobs.schemas import (
    AuditView,
    DeliveryView,
    EventView,
    ProblemView,
)
from receiver.model import AssetState, Decision, EventType, JobState, Reason, Source
from receiver.settings import Settings
from receiver.web import create_app

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
}
README = DOCUMENTS["README.md"]
CONFIGURATION = DOCUMENTS["docs/configuration.md"]
HTTP = DOCUMENTS["docs/http.md"]
CONTRIBUTING = DOCUMENTS["CONTRIBUTING.md"]

# Not read by Settings; they have a table of their own on the configuration page.
OTHER_VARIABLES = {
    "AWS_…",
    "FORWARDED_ALLOW_IPS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
}


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the tables below a heading: the other cells by the first, which is in backquotes."""
    section = page.partition(f"\n{heading}\n")[2]
    assert section, f"there is no heading {heading!r}"
    body = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in body.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {first.strip("`"): rest for first, *rest in cells}


def anchors(document: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Commands and API routes.


@pytest.mark.parametrize("path", reference_pages.PAGES, ids=lambda path: path.name)
def test_the_generated_parts_of_a_page_are_those_of_the_code(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert reference_pages.rewritten(page, reference_pages.generated()) == page, "run: make docs"


def test_every_command_and_every_api_route_has_its_place_on_a_page() -> None:
    pages = [path.read_text(encoding="utf-8") for path in reference_pages.PAGES]
    places = [name for page in pages for name in reference_pages.named_in(page)]
    assert sorted(places) == sorted(reference_pages.generated())


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_every_command_and_option_that_a_document_shows_exists(name: str) -> None:
    options = {
        f"{program} {command}": {
            option
            for parameter in found.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for program, command, found in reference_pages.commands()
    }
    shown = re.findall(
        r"`((?:receiver|submitter) [a-z]+)((?: [^`]*)?)`", DOCUMENTS[name]
    ) + re.findall(r"^((?:receiver|submitter) [a-z]+)(.*)$", DOCUMENTS[name], re.MULTILINE)
    for program, rest in shown:
        inner = f"{program} {rest.split()[0]}" if rest.strip() else program
        command = inner if inner in options else program
        assert command in options
        arguments = rest.partition("#")[0]
        used = set(re.findall(r"(?<=[ \[|])--[a-z-]+", arguments))
        assert used - {"--help"} <= options[command], command


# Settings.


def the_settings() -> dict[str, list[str]]:
    return rows(CONFIGURATION.replace("\n### ", "\n"), "## Settings")


def test_the_configuration_page_has_every_setting_and_no_other() -> None:
    assert set(the_settings()) == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_the_configuration_page_has_each_default_and_each_choice(name: str) -> None:
    field, (default, meaning) = Settings.model_fields[name], the_settings()[name.upper()]
    if field.default in (None, "", ()):
        assert not default.startswith("`"), "it has no fixed default"
    else:
        assert default == f"`{field.default}`"
    if get_origin(field.annotation) is Literal:
        choices = [f"`{choice}`" for choice in get_args(field.annotation)]
        assert [choice for choice in choices if choice not in default + meaning] == []


def test_the_configuration_page_has_the_variables_that_others_read() -> None:
    assert set(rows(CONFIGURATION, "## Variables that libraries read")) == OTHER_VARIABLES


# The HTTP interface.


def test_the_http_page_has_every_route_that_is_not_a_part_of_the_dashboard() -> None:
    routes = {
        f"{method} " + re.sub(r"<(?:[a-z]+:)?([a-z]+)>", r"{\1}", rule.rule)
        for rule in create_app().url_map.iter_rules()
        for method in (rule.methods or set()) & {"GET", "POST"}
        if not rule.endpoint.startswith(("dashboard.", "static"))
    }
    shown = set(re.findall(r"^\| `((?:GET|POST) [^`?]+)", HTTP, re.MULTILINE))
    assert shown == routes | {"GET /"}


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("### Job states", JobState),
        ("### Reasons", Reason),
        ("### Asset states", AssetState),
        ("### Sources", Source),
        ("### Verdicts", Decision),
        ("### Event types", EventType),
    ],
)
def test_the_http_page_explains_each_word_of_the_contract(
    heading: str, words: type[StrEnum]
) -> None:
    assert list(rows(HTTP, heading)) == list(words)


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("### A job", JobView),
        ("### A delivery", DeliveryView),
        ("### An event", EventView),
        ("### The audit", AuditView),
        ("### An error", ProblemView),
    ],
)
def test_each_example_of_the_http_page_has_the_fields_of_its_model(
    heading: str, model: type[BaseModel]
) -> None:
    example: dict[str, Any] = json.loads(
        HTTP.partition(f"\n{heading}\n")[2].split("```json\n")[1].split("```")[0]
    )
    assert json.loads(model.model_validate(example).model_dump_json()) == example


# The README.


def test_the_readme_is_short_and_opens_with_the_two_commands() -> None:
    assert len(README.splitlines()) < 150
    assert README.index("make demo") < README.index("make test") < README.index("\n## ")


@pytest.mark.parametrize(
    ("name", "heading"), [("README.md", "## Promises"), ("docs/README.zh.md", "## 承诺")]
)
def test_each_readme_has_the_nine_promises(name: str, heading: str) -> None:
    section = DOCUMENTS[name].partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == list("123456789")


def test_the_readme_links_to_every_page() -> None:
    assert [page for page in DOCUMENTS if page != "README.md" and f"({page})" not in README] == []


# CONTRIBUTING.


def test_the_map_has_every_package_and_every_single_module() -> None:
    found = {
        str(path.relative_to(ROOT))
        for program in ("receiver", "submitter")
        for path in (ROOT / program).iterdir()
        if (path / "__init__.py").exists() or (program == "receiver" and path.suffix == ".py")
    }
    entry_points = {"receiver/__init__.py", "receiver/__main__.py"}
    section = CONTRIBUTING.replace("\n### ", "\n")
    assert set(rows(section, "## Map of the packages")) == found - entry_points


@pytest.mark.parametrize(
    ("heading", "most"), [("### A callback", 5), ("### Archiving an asset", 8), ("### A submit", 8)]
)
def test_each_of_the_three_paths_crosses_few_of_our_files(heading: str, most: int) -> None:
    section = CONTRIBUTING.partition(f"\n{heading}\n")[2]
    files = re.findall(r"^\d+\. `(receiver/[\w/.]+)`", section.partition("\n#")[0], re.MULTILINE)
    assert 0 < len(files) <= most


# All documents.


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_of_a_document_leads_to_something(name: str) -> None:
    folder = (ROOT / name).parent
    links = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", DOCUMENTS[name])
    for link in (one or other for one, other in links):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (folder / path).resolve() if path else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    named = re.findall(
        r"`((?:receiver|submitter|tests|infra|docs)/[\w/.-]+)(?:::\w+)?`", DOCUMENTS[name]
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_log_message_that_a_document_quotes_exists(name: str) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "receiver").rglob("*.py"))
    quoted = re.findall(r"log message `([^`]+)`", DOCUMENTS[name])
    assert [message for message in quoted if f'"{message}"' not in code] == []
