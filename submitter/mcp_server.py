"""The command ``submitter mcp``: tools for agents by the Model Context Protocol, on stdio.

The tools use the library, so they work with the ledger of this machine or, with RECEIVER_URL, with
a service elsewhere.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import click

from receiver import installation
from receiver.cli.base import load, reports_errors
from receiver.errors import ConfigurationError, ReceiverError
from receiver.jobs.request import DEFAULT_MODEL
from receiver.model import Api, Mode, Provider
from submitter.job import Asset, Job
from submitter.submit import Submitter, default_mode

# Seconds that one call of ``wait`` lasts at most, so that agents see progress; jobs of ``find``.
LONGEST_WAIT, MOST_FOUND = 600.0, 50
P = ParamSpec("P")
R = TypeVar("R")
_INSTRUCTIONS = (
    "Makes pictures and videos that are paid for and archived. Call submit, then wait with the "
    "ref until the state is archived, failed or expired; each picture then has a link. Give "
    "submit a key of your own: a second submit with the same key pays nothing."
)


@click.command()
@reports_errors
def mcp() -> None:
    """Serve tools for agents on stdin and stdout: submit, wait, get and find.

    Start it from an MCP client. It works with this machine's ledger, or with RECEIVER_URL and
    ADMIN_TOKEN with a service elsewhere. Needs the extra `mcp`.
    """
    if remedy := installation.missing("mcp"):
        raise ConfigurationError([f"submitter mcp: {remedy}"])
    settings = load()
    with Submitter(settings) as submitter:
        mcp_server(Tools(submitter, default_mode(settings)[0])).run("stdio")


def mcp_server(tools: "Tools") -> Any:
    """Return the server of the tools; needs the extra ``mcp``."""
    from mcp.server import MCPServer  # noqa: PLC0415 - an optional part

    server: Any = MCPServer(
        "webhook-image-receiver", instructions=_INSTRUCTIONS, version=installation.version()
    )
    for tool in (tools.submit, tools.wait, tools.get, tools.find):
        server.add_tool(_says_mistakes(tool))
    return server


def _says_mistakes(tool: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Raise our errors as ToolError, because of any other error the agent gets no text."""
    from mcp.server.mcpserver.exceptions import ToolError  # noqa: PLC0415 - an optional part

    @functools.wraps(tool)
    async def call(*args: P.args, **named: P.kwargs) -> R:
        try:
            return await tool(*args, **named)
        except ReceiverError as error:
            raise ToolError(str(error)) from error
        except KeyError as error:
            raise ToolError(f"there is no job {error.args[0]}") from error

    return call


class Tools:
    """The tools; each returns jobs in short. Calls run in threads, so that others go on."""

    def __init__(self, submitter: Submitter, mode: Mode) -> None:
        self._submitter = submitter
        self._mode = mode

    async def submit(  # noqa: PLR0913, PLR0917 - a tool has its arguments by name
        self,
        prompt: str,
        model: str = DEFAULT_MODEL,
        size: str | None = None,
        images: list[str] | None = None,
        key: str | None = None,
        provider: str = Provider.GRSAI.value,
        params: dict[str, Any] | None = None,
        variants: int | None = None,
        mode: str | None = None,
        api: str = Api.DRAW.value,
        batch: str | None = None,
        metadata: dict[str, Any] | None = None,
        folder: str = "",
        webhook: str | None = None,
    ) -> dict[str, Any]:
        """Post one paid job and return it at once; wait for it with its ref.

        size is a ratio (3:2), pixels (1024x1024) or 1K, 2K, 4K; variants is the number of pictures.
        images are URLs of reference pictures. key is your own name for the job: with the same key
        nothing is paid again. params are sent to the provider unchanged. mode is how the result
        arrives (webhook, poll or stream); leave it out. api is draw, or api for GRSAI's newer one.
        batch is your name for several jobs. metadata is a small object by which the job can be
        found. folder is a folder of the archive for the pictures. webhook is a URL that gets the
        job's events.
        """
        asked: dict[str, Any] = {
            "model": model,
            "size": size,
            "images": images or (),
            "params": params or {},
            "key": key,
            "provider": provider,
            "variants": variants,
            "mode": self._mode if mode is None else mode,
            "api": api,
            "batch": batch,
            "metadata": metadata or {},
            "folder": folder,
            "webhook": webhook,
        }
        job = await asyncio.to_thread(self._submitter.submit, prompt, **asked)
        return in_short(job)

    async def wait(self, refs: list[str], timeout: float = 120.0) -> list[dict[str, Any]]:  # noqa: ASYNC109 - the tool's argument
        """Wait up to timeout seconds (at most 600) for jobs, and return them as they are then."""
        longest = min(max(timeout, 0.0), LONGEST_WAIT)
        try:
            jobs = await asyncio.to_thread(self._submitter.wait, refs, timeout=longest)
        except TimeoutError:
            jobs = list((await asyncio.to_thread(self._submitter.jobs, refs)).values())
        return [in_short(job) for job in jobs]

    async def get(self, ref: str) -> dict[str, Any]:
        """Return one job as it is now; an archived one has links to its pictures."""
        return in_short(await asyncio.to_thread(self._submitter.job, ref))

    async def find(self, text: str = "", limit: int = 10) -> list[dict[str, Any]]:
        """Return the newest jobs with this text in ref, model or prompt, or as their whole key."""
        most = min(max(limit, 1), MOST_FOUND)
        return [in_short(job) for job in await asyncio.to_thread(self._submitter.find, text, most)]


def in_short(job: Job) -> dict[str, Any]:
    """Return the fields of a job that an agent needs."""
    names = ("ref", "state", "progress", "model", "prompt", "key", "reason", "message")
    whole = job.model_dump(mode="json")
    pictures = [_picture(asset) for asset in job.assets if asset.key]
    return {**{name: whole[name] for name in names}, "pictures": pictures}


def _picture(asset: Asset) -> dict[str, Any]:
    try:
        link: str | None = asset.url()
    except ReceiverError:  # a directory that is not published
        link = None
    return {
        "link": link,
        "archive_key": asset.key,
        "content_type": asset.content_type,
        "width": asset.width,
        "height": asset.height,
        "sha256": asset.sha256,
    }
