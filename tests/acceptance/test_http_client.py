"""The submitter on another machine: the same results and errors through the HTTP API."""

import asyncio
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from installation import Installation
from processes import environment
from real_parts import missing
from waiting import LIMIT

from receiver import installation as installation_of
from receiver.errors import ConfigurationError, KeyConflictError, LedgerError
from receiver.model import JobState, Reason
from submitter import AsyncSubmitter, Submitter
from submitter.http_jobs import HttpJobs
from submitter.sandbox import Sandbox

QUICK = {"sandbox": {"delay": 0.2}}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(script={"delay": 0.2, "bytes": 20_000}) as running:
        yield running


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox
) -> Iterator[Installation]:
    """Run one service for all tests."""
    installation = Installation(tmp_path_factory.mktemp("http"), sandbox)
    with installation.started():
        yield installation


@pytest.fixture
def token(installation: Installation) -> str:
    return (installation.data / "secrets" / "admin").read_text().strip()


@pytest.fixture
def elsewhere(tmp_path: Path, installation: Installation, token: str) -> dict[str, str]:
    """Return the environment of another machine: no ledger, no provider's key."""
    return {
        "DATA_DIR": str(tmp_path / "none"),
        "RECEIVER_URL": installation.url,
        "ADMIN_TOKEN": token,
        "GRSAI_API_KEY": "",
        "PUBLIC_URL": "",
    }


@pytest.fixture
def submitter(installation: Installation, token: str) -> Iterator[Submitter]:
    with Submitter(url=installation.url, token=token) as submitter:
        yield submitter


def test_a_job_is_posted_waited_for_and_its_picture_read(
    submitter: Submitter, installation: Installation, tmp_path: Path
) -> None:
    seen: list[JobState] = []
    job = submitter.submit("a fox", key="order-1", metadata={"order": 7}, folder="shop")
    (job,) = submitter.wait([job.ref], timeout=LIMIT, watch=lambda now: seen.append(now.state))
    (asset,) = job.assets
    assert (job.state, seen[-1], job.metadata) == (
        JobState.ARCHIVED,
        JobState.ARCHIVED,
        {"order": 7},
    )
    assert hashlib.sha256(asset.read()).hexdigest() == asset.sha256
    assert asset.save(tmp_path).read_bytes() == asset.read()
    assert requests.get(asset.url(), timeout=20).content == asset.read()
    with installation.services() as services:  # as the ledger's own transport returns it
        assert services.job_objects.named([job.ref])[job.ref].model_dump() == {
            **job.model_dump(),
            "assets": [one.model_dump() for one in job.assets],
        }


def test_a_key_is_paid_once_and_another_request_with_it_is_a_conflict(
    submitter: Submitter, sandbox: Sandbox
) -> None:
    before = sandbox.stats()["accepted"]
    first = submitter.submit("a fox", key="order-2")
    assert submitter.submit("a fox", key="order-2").ref == first.ref
    with pytest.raises(KeyConflictError):
        submitter.submit("a hen", key="order-2")
    assert sandbox.stats()["accepted"] == before + 1


def test_errors_are_those_of_the_ledgers_own_transport(
    submitter: Submitter, installation: Installation
) -> None:
    refused = submitter.submit("a fox", params={"sandbox": {"refuse": "no credits"}})
    assert (refused.state, refused.reason) == (JobState.FAILED, Reason.REFUSED)
    for ref in ("01JZ2Q7V3N0123456789ABCDEF", "nonsense"):
        with pytest.raises(KeyError):
            submitter.job(ref)
    with pytest.raises(ConfigurationError, match="does not take pixels"):
        submitter.submit("a fox", model="nano-banana", size="333x777")
    slow = submitter.submit("a fox", params={"sandbox": {"delay": 3600}})
    with pytest.raises(TimeoutError):
        submitter.wait([slow.ref], timeout=0.1)
    with (
        Submitter(url=installation.url, token="a wrong token indeed") as wrong,
        pytest.raises(ConfigurationError, match="ADMIN_TOKEN: not the token"),
    ):
        wrong.submit("a fox")
    with pytest.raises(ConfigurationError, match="ADMIN_TOKEN: not set"):
        Submitter(url=installation.url)
    with pytest.raises(ConfigurationError, match="RECEIVER_URL: must be an http:// or https://"):
        Submitter(url="pictures.example.com", token="x" * 16)
    unreachable = HttpJobs("http://127.0.0.1:9", "x" * 16, check=False, back_off=())
    with pytest.raises(LedgerError, match="does not answer"):
        unreachable.post({"prompt": "a fox"})
    unreachable.close()


class LosingProxy(ThreadingHTTPServer):
    """Passes requests on, and cuts the connection instead of the first answers to a POST."""

    def __init__(self, target: str, losses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Pass)
        self.target, self.losses = target, losses


class _Pass(BaseHTTPRequestHandler):
    server: LosingProxy

    def do_GET(self) -> None:
        self._pass(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._pass(body, loses=self.server.losses > 0)

    def _pass(self, body: bytes | None, *, loses: bool = False) -> None:
        headers = {
            name: self.headers[name]
            for name in ("Authorization", "Content-Type")
            if self.headers[name]
        }
        url = self.server.target + self.path
        answer = requests.request(self.command, url, data=body, headers=headers, timeout=60)
        if loses:
            self.server.losses -= 1
            self.close_connection = True
            return
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize("key", [None, "order-3"])
def test_a_submit_whose_answer_is_lost_is_paid_once(
    installation: Installation, sandbox: Sandbox, token: str, key: str | None
) -> None:
    before = sandbox.stats()["accepted"]
    with LosingProxy(installation.url, losses=2) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            with Submitter(url=f"http://127.0.0.1:{proxy.server_port}", token=token) as submitter:
                job = submitter.submit(f"a fox {key}", key=key)
        finally:
            proxy.shutdown()
            thread.join()
    assert job.state in {JobState.WAITING, JobState.ARCHIVING, JobState.ARCHIVED}
    assert sandbox.stats()["accepted"] == before + 1


def test_the_commands_work_with_receiver_url_and_make_no_ledger(
    installation: Installation, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    done = installation.invoke(
        "submitter", "submit", "a fox", "--wait", "--json", "--output", str(tmp_path), **elsewhere
    )
    assert done.status == 0, done.err
    job = json.loads(done.out)
    assert (tmp_path / f"{job['ref']}-0.png").exists()
    (tmp_path / "jobs.csv").write_text("prompt,key\na fox,b-1\na hen,b-2\n")
    for _ in range(2):  # the second time nothing is posted
        done = installation.invoke(
            "submitter", "batch", str(tmp_path / "jobs.csv"), "--report", "-", **elsewhere
        )
        assert done.status == 0, done.err
        assert [json.loads(line)["state"] for line in done.out.splitlines()] == ["archived"] * 2
    found = installation.invoke("submitter", "credits", "--json", **elsewhere)
    assert set(json.loads(found.out)) == {"credits", "models"}
    assert not Path(elsewhere["DATA_DIR"]).exists()
    again = installation.invoke(
        "submitter", "batch", str(tmp_path / "jobs.csv"), "--resubmit", "1", **elsewhere
    )
    assert again.status == 2
    assert "RECEIVER_URL" in again.err


def without_links(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job without the links of its pictures, which are signed again at each call."""
    pictures = [{**picture, "link": None} for picture in job["pictures"]]
    return {**job, "pictures": pictures}


def test_the_tools_of_an_agent_by_the_official_client(
    elsewhere: dict[str, str], sandbox: Sandbox
) -> None:
    if installation_of.missing("mcp"):
        missing("the extra mcp")
    from mcp import Client, StdioServerParameters  # noqa: PLC0415 - an optional part

    server = StdioServerParameters(
        command=sys.executable, args=["-m", "submitter", "mcp"], env=environment(elsewhere)
    )
    before = sandbox.stats()["accepted"]

    async def work() -> None:
        async with Client(server) as client:

            async def call(tool: str, **arguments: Any) -> Any:
                answer = await client.call_tool(tool, arguments)
                assert not answer.is_error, answer
                found = answer.structured_content or {}
                return found.get("result", found)

            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert tools == {"submit", "wait", "get", "find"}
            job = await call("submit", prompt="an agent's fox", key="agent-1")
            again = await call("submit", prompt="an agent's fox", key="agent-1")
            (done,) = await call("wait", refs=[job["ref"]], timeout=60)
            assert again["ref"] == job["ref"]
            found = [await call("get", ref=job["ref"]), *await call("find", text="an agent's fox")]
            assert [without_links(one) for one in found] == [without_links(done)] * 2
            linked = await asyncio.to_thread(requests.get, done["pictures"][0]["link"], timeout=20)
            assert linked.ok
            wrong = await client.call_tool("submit", {"prompt": ""})
            assert wrong.is_error

    asyncio.run(work())
    assert sandbox.stats()["accepted"] == before + 1


def test_the_same_with_an_event_loop(installation: Installation, token: str) -> None:
    async def work() -> list[Any]:
        async with AsyncSubmitter(url=installation.url, token=token) as submitter:
            jobs = await asyncio.gather(*(submitter.submit(f"fox {n}") for n in range(3)))
            return await submitter.wait([job.ref for job in jobs], timeout=LIMIT)

    assert [job.state for job in asyncio.run(work())] == ["archived"] * 3
