"""All ways in take the same fields, and refuse the same mistakes before anything is paid."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import invoke
from dashboard_client import log_in, post
from event_server import EventServer
from real_parts import missing
from web_client import WebClient, web_client

from receiver import installation
from receiver.errors import ReceiverError
from receiver.jobs.images_api import _OUR_OWN, ImagesRequest
from receiver.jobs.request import JobRequest
from receiver.ledger.rows import Job
from receiver.model import Mode
from receiver.services import Services
from receiver.web.dashboard.submit import _FIELDS
from submitter import Submitter
from submitter.batch.entry import Entry
from submitter.cli.submit import submit as submit_command
from submitter.mcp_server import Tools, mcp_server
from submitter.sandbox import Sandbox

FIELDS = set(JobRequest.model_fields)


@dataclass
class Setup:
    """A service in this process, and where its commands run."""

    web: WebClient
    environ: dict[str, str]
    folder: Path
    webhook: str


# Each returns "" if the job was posted, else why it was refused.


def by_command(setup: Setup, fields: dict[str, Any]) -> str:
    arguments = ["--no-check"]
    for name, value in fields.items():
        if name in ("params", "metadata"):
            option = name.removesuffix("s")
            arguments += [f"--{option}={key}={json.dumps(one)}" for key, one in value.items()]
        elif name == "images":
            arguments += [f"--image={one}" for one in value]
        elif name != "prompt":
            arguments.append(f"--{name}={value}")
    command = ["submitter", "submit", *arguments, "--", fields["prompt"]]
    done = invoke(command, setup.environ, folder=setup.folder)
    return "" if done.status == 0 else done.err


def by_batch(setup: Setup, fields: dict[str, Any]) -> str:
    lines = setup.folder / "lines.jsonl"
    lines.write_text(json.dumps(fields) + "\n")
    command = ("submitter", "batch", str(lines), "--no-check", "--no-wait", "--strict")
    done = invoke(command, setup.environ, folder=setup.folder)
    return "" if done.status == 0 else done.err


def by_library(setup: Setup, fields: dict[str, Any]) -> str:
    with Submitter(setup.web.services.settings, check=False) as submitter:
        try:
            submitter.submit(**fields)
        except ReceiverError as error:
            return str(error)
    return ""


def by_agent(setup: Setup, fields: dict[str, Any]) -> str:
    return call_tool(setup, "submit", fields)


def call_tool(setup: Setup, tool: str, fields: dict[str, Any]) -> str:
    """Return what the agent reads if the call failed; of unexpected errors that is nothing."""
    if installation.missing("mcp"):
        missing("the extra mcp")
    from mcp.server.mcpserver.exceptions import ToolError  # noqa: PLC0415 - an optional part

    with Submitter(setup.web.services.settings, check=False) as submitter:
        try:
            asyncio.run(mcp_server(Tools(submitter, Mode.POLL)).call_tool(tool, fields))
        except ToolError as error:
            return str(error)
    return ""


def by_http(setup: Setup, fields: dict[str, Any]) -> str:
    answer = setup.web.client.post("/api/jobs", json=fields, headers=setup.web.admin)
    return "" if answer.status_code == 201 else str(answer.json["detail"])


def by_openai(setup: Setup, fields: dict[str, Any]) -> str:
    headers = {**setup.web.admin, "Prefer": "respond-async, wait=0"}
    answer = setup.web.client.post("/v1/images/generations", json=fields, headers=headers)
    return "" if answer.status_code == 202 else str(answer.json["error"]["message"])


def by_form(setup: Setup, fields: dict[str, Any]) -> str:
    written = {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    written["images"] = " ".join(fields.get("images", ()))
    answer = post(setup.web, "/submit", **written)
    return "" if answer.status_code == 303 else answer.text


WAYS: dict[str, Callable[[Setup, dict[str, Any]], str]] = {
    "command": by_command,
    "batch": by_batch,
    "library": by_library,
    "agent": by_agent,
    "http": by_http,
    "openai": by_openai,
    "form": by_form,
}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(looks=1) as sandbox:
        yield sandbox


@pytest.fixture
def setup(
    services: Services, event_server: EventServer, tmp_path: Path, webhook_environ: dict[str, str]
) -> Iterator[Setup]:
    environ = webhook_environ
    with web_client(services.settings.data_dir, environ) as web:
        log_in(web)
        yield Setup(web, environ, tmp_path, f"http://{event_server.address}/hook")


def test_every_way_has_a_place_for_every_field() -> None:
    options = {str(one.name) for one in submit_command.params}
    openai = {*_OUR_OWN, *ImagesRequest.model_fields, "variants"}
    places = {
        "command": options,
        "batch": set(Entry.model_fields),
        "library": set(inspect.signature(Submitter.submit).parameters),
        "agent": set(inspect.signature(Tools.submit).parameters),
        "openai": openai,
        "form": set(_FIELDS),
    }
    lacking = {way: FIELDS - names for way, names in places.items() if FIELDS - names}
    assert lacking == {}


def all_fields(setup: Setup, way: str) -> dict[str, Any]:
    return {
        "prompt": "a fox",
        "model": "nano-banana",
        "provider": "grsai",
        "api": "draw",
        "size": "16:9",
        "images": ["https://pictures.example/a.png"],
        "params": {"seed": 7},
        "mode": "poll",
        "key": f"key of {way}",
        "batch": "spring",
        "metadata": {"order": 7},
        "folder": "shop/spring",
        "webhook": setup.webhook,
    }


def test_every_way_makes_the_same_job(setup: Setup) -> None:
    posted: dict[str, Any] = {}
    for way, send in WAYS.items():
        assert send(setup, all_fields(setup, way)) == "", way
        (job,) = setup.web.services.queries.jobs(limit=1)
        posted[way] = requested(setup, job)
        assert job.key == f"key of {way}"
    assert posted == dict.fromkeys(WAYS, posted["library"])
    said, _, webhook = posted["library"]
    assert webhook == setup.webhook
    assert (said["folder"], said["metadata"]) == ("shop/spring", {"order": 7})


def requested(setup: Setup, job: Job) -> Any:
    """Return all of a job that its caller said, but the key."""
    view = setup.web.services.job_objects.of([job])[0].model_dump(mode="json")
    names = ("prompt", "model", "provider", "api", "mode", "batch", "metadata", "folder")
    said = {name: view[name] for name in names}
    return said, view["request"], setup.web.services.queries.webhook(job.ref)


# What is wrong, and a word of the refusal.
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"prompt": " "}, "prompt"),
    ({"size": "9" * 51}, "size"),
    ({"variants": 99}, "less than or equal"),
    ({"mode": "letter"}, "mode"),
    ({"mode": "webhook", "api": "api"}, "no callbacks"),
    ({"provider": "nobody"}, "provider"),
    ({"images": ["shop/a.png"]}, "image"),
    ({"batch": "b" * 201}, "batch"),
    ({"metadata": {"n" * 101: 1}}, "metadata"),
    ({"folder": "../etc"}, "folder"),
    ({"key": "k" * 501}, "key"),
    ({"webhook": "shop.test"}, "webhook"),
    ({"webhook": "http://169.254.169.254/"}, "FETCH_ALLOW"),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_refuses_the_same_before_anything_is_paid(
    setup: Setup, sandbox: Sandbox, way: str
) -> None:
    good = {"prompt": "a fox", "model": "nano-banana", "mode": "poll"}
    found = {}
    for wrong, word in MISTAKES:
        said = WAYS[way](setup, {**good, **wrong})
        if word not in said:
            found[str(wrong)[:60]] = said or "posted"
    assert found == {}
    assert sandbox.stats()["accepted"] == 0


@pytest.mark.parametrize(("tool", "fields"), [("get", {"ref": "x"}), ("wait", {"refs": ["x"]})])
def test_an_agent_is_told_that_there_is_no_such_job(
    setup: Setup, tool: str, fields: dict[str, Any]
) -> None:
    assert call_tool(setup, tool, fields).endswith("there is no job x")
