"""``make prove ENGINE=distributed``: several machines that are killed and cut off.

Three web nodes behind nginx and four workers use one PostgreSQL and one SeaweedFS. Each has its own
network namespace. The provider repeats, loses and reorders its callbacks. Nodes are killed. One
worker and one web node are cut off during their work and come back. At the end the same checks as
in ``run.py`` compare provider, recording proxy, ledger and archive.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random

import click
import requests

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from postgres import killable_postgres  # noqa: E402 - found by way of the line above
from processes import BIN  # noqa: E402 - as above
from seaweed import seaweedfs  # noqa: E402
from waiting import until  # noqa: E402

from receiver.ledger import schema  # noqa: E402
from receiver.model import FINAL_STATES  # noqa: E402
from receiver.services import Services  # noqa: E402
from receiver.settings import Settings  # noqa: E402
from submitter.sandbox import Sandbox  # noqa: E402
from tests.prove import history, nodes  # noqa: E402
from tests.prove.check_history import check  # noqa: E402
from tests.prove.evidence import Evidence, gather  # noqa: E402
from tests.prove.load import KEY, MENU, Customer, Orders  # noqa: E402
from tests.prove.nodes import OURS, Node  # noqa: E402
from tests.prove.promises import examine  # noqa: E402
from tests.prove.recording_proxy import recording_proxy  # noqa: E402
from tests.prove.setups import Bucket  # noqa: E402

HISTORY = ROOT / "build/prove/distributed.jsonl"
WEBS, WORKERS = 3, 4
_SLOW = {"file": {"mode": "slow", "rate": 20_000, "times": 1}, "bytes": 60_000}
_PORT, _WEB_PORT = 8080, 8000
# Seconds for which a worker is cut off: longer than its leases. Others do its work, already after
# half a minute, when the server has noticed that its connections are dead.
_CUT_OFF, _CUT_OFF_WEB = 75.0, 15.0
# Seconds without news after which the run counts as silent.
_SILENT = 150.0
_NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream webs {{ {servers} keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://webs; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_connect_timeout 1s; proxy_read_timeout 20s;
    }}
  }}
}}
"""


@click.command()
@click.option(
    "--jobs",
    envvar="PROVE_JOBS",
    type=click.IntRange(min=10),
    default=5000,
    show_default=True,
    help="So many orders.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Of the random choices.",
)
def main(jobs: int, seed: int) -> None:
    """Break several machines, and check that every result is archived once."""
    if not nodes.is_possible() or shutil.which("nginx") is None:
        sys.exit("needs root, iproute2, util-linux and nginx: each machine is a network namespace")
    nodes.go_inside()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    started, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="prove-"))
    click.echo(
        f"{jobs} orders, seed {seed}, {os.cpu_count()} cores,"
        f" load average before: {os.getloadavg()[0]:.1f}"
    )
    with ExitStack() as stack:
        broken = _Run(folder, Random(seed), stack).play(jobs)  # noqa: S311 - no secret
    for each in broken[:20]:
        click.echo(f"BROKEN: {each}")
    if broken:
        sys.exit(f"{len(broken)} broken promises; evidence in {folder}")
    shutil.rmtree(folder)
    click.echo(f"every result was archived once, after {time.monotonic() - started:.0f} s")


class _Run:
    def __init__(self, folder: Path, random: Random, stack: ExitStack) -> None:
        self._folder, self._dice, self._stack = folder, random, stack
        server = stack.enter_context(killable_postgres(OURS))
        s3 = stack.enter_context(seaweedfs())
        bucket = s3.make_bucket()
        self._archive = Bucket(s3, bucket)
        self._sandbox = stack.enter_context(Sandbox(OURS, keys={KEY}, looks=20))
        self._seen = stack.enter_context(recording_proxy(_PORT))
        s3_port = int(s3.url.rpartition(":")[2])
        stack.enter_context(_forwarding(s3_port))
        address = server.make_database()
        schema.migrate(address)
        self._environ = {
            "DATABASE_URL": f"postgresql://postgres@{OURS}/{address.partition('?')[0].rpartition('/')[2]}",
            "CALLBACK_SECRETS": "a-secret-of-the-proof",
            "ADMIN_TOKEN": "a-token-of-the-proof",
            "PUBLIC_URL": self._seen.url,
            "GRSAI_BASE_URL": self._sandbox.url,
            "GRSAI_API_KEY": KEY,
            "FETCH_ALLOW": self._sandbox.url.removeprefix("http://"),
            "ARCHIVE_URL": f"s3://{bucket}/archive",
            **s3.environment(),
            "AWS_ENDPOINT_URL_S3": f"http://{OURS}:{s3_port}",
            "POLL_AFTER": "5",
            "POLL_INTERVAL": "2",
            "JOB_TIMEOUT": "60",
            "WORKER_THREADS": "6",
            "LOG_FORMAT": "json",
            "WEB_CONCURRENCY": "1",
        }
        self._services = stack.enter_context(
            closing(
                Services(Settings.load({**self._environ, "DATA_DIR": str(folder / "ours")})).open(
                    to_look=True
                )
            )
        )
        self._webs = [self._node(f"web-{number}", 11 + number) for number in range(WEBS)]
        self._workers = [self._node(f"worker-{number}", 21 + number) for number in range(WORKERS)]
        self._killed = 0

    def play(self, jobs: int) -> list[str]:
        """Start the nodes, order, break, wait, stop; return the broken promises."""
        for node in (*self._webs, *self._workers):
            node.start()
            self._stack.callback(node.kill)
        self._stack.enter_context(_nginx(self._folder, [node.address for node in self._webs]))
        customer = Customer(
            f"http://127.0.0.1:{_PORT}", self._environ["ADMIN_TOKEN"], threading.Event()
        )
        orders = Orders(customer, {"order": (*MENU, _SLOW, _SLOW)}, self._dice, jobs, jobs)
        began = time.monotonic()
        orders.start()
        self._break(orders)
        orders.stop()
        click.echo(
            f"{jobs} ordered after {time.monotonic() - began:.0f} s, {self._killed} nodes killed"
        )
        self._wait()
        click.echo(f"all final after {time.monotonic() - began:.0f} s")
        self._await_all()  # a node that is still starting does not drain
        ends = {node.name: node.stop() for node in (*self._webs, *self._workers)}
        click.echo(f"all stopped after {time.monotonic() - began:.0f} s")
        evidence = gather(self._services, self._archive, self._sandbox, self._seen.acknowledged)
        evidence.provider_ids = dict(customer.provider_ids)
        evidence.write(self._folder / "evidence.json")
        lost = self._check_history(evidence)
        click.echo(
            f"{len(evidence.jobs)} jobs, {len(evidence.objects)} pictures,"
            f" {len(evidence.acknowledged)} callbacks acknowledged"
        )
        drains = [
            f"a drain: {name} did not end by itself with 0, but with {status}"
            for name, status in ends.items()
            if status != 0
        ]
        return [*drains, *lost] + [
            f"{found.promise}: {found.about}: {found.detail}" for found in examine(evidence)
        ]

    def _check_history(self, evidence: Evidence) -> list[str]:
        """Write the history and let the checker decide; the events are those of the ledger."""
        for row in evidence.events:
            names = {"id": row["id"], "type": row["type"], "ref": row["ref"]}
            evidence.happened.append({"what": "event", "at": row["created_at"], **names})
        HISTORY.parent.mkdir(parents=True, exist_ok=True)
        history.write(HISTORY, 0, ["nodes killed and cut off"], "distributed", evidence)
        return check(HISTORY.read_text(encoding="utf-8"))[1]

    def _node(self, name: str, number: int) -> Node:
        binds = f"10.99.0.{number}:{_WEB_PORT}"
        serve = [
            str(BIN / "gunicorn"),
            "-c",
            "python:receiver.gunicorn_conf",
            "--bind",
            binds,
            "receiver.web:create_app()",
        ]
        command = serve if name.startswith("web") else [str(BIN / "receiver"), "worker"]
        return Node(
            name,
            number,
            command,
            {**self._environ, "DATA_DIR": str(self._folder / name)},
            self._folder,
        )

    def _break(self, orders: Orders) -> None:
        """Kill a node every few seconds; also cut off one worker and one web node for a while."""
        self._await_work()
        *killable_webs, remote_web = self._webs
        *killable_workers, remote = self._workers
        remote.pull()
        remote_web.pull()
        cut = time.monotonic()
        back = {remote: cut + _CUT_OFF, remote_web: cut + _CUT_OFF_WEB}
        while orders.is_alive() or back:
            time.sleep(self._dice.uniform(1.0, 4.0))
            for node in [node for node, moment in back.items() if time.monotonic() >= moment]:
                node.plug()
                del back[node]
            victim = self._dice.choice([*killable_webs, *killable_workers])
            victim.kill()
            self._killed += 1
            time.sleep(self._dice.uniform(0.0, 1.0))
            victim.start()
        assert remote.said("ledger unavailable"), "the worker that was cut off did not notice"

    def _await_work(self) -> None:
        """Wait until every worker has claims: six threads each, and slow files."""
        until(
            lambda: self._services.totals.audit().in_flight > 6 * WORKERS,
            within=120,
            what="work for all",
        )

    def _await_all(self) -> None:
        """Wait until every node works, also the last one started."""
        for node in self._webs:
            until(
                partial(_answers, f"http://{node.address}:{_WEB_PORT}/healthz"),
                within=60,
                what=f"that {node.name} answers",
            )
        for node in self._workers:
            until(
                partial(node.said_since_its_start, "worker started"),
                within=60,
                what=f"that {node.name} works",
            )

    def _wait(self) -> None:
        """Wait until every job is final; raise AssertionError if nothing changes for a while."""
        last, since = -1, time.monotonic()
        while left := sum(
            count
            for state, count in self._services.totals.counts().items()
            if state not in FINAL_STATES
        ):
            if left != last:
                last, since = left, time.monotonic()
            assert time.monotonic() - since < _SILENT, (
                f"{left} jobs are not final, and nothing happens: {self._folder}"
            )
            time.sleep(0.5)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


@contextmanager
def _nginx(folder: Path, addresses: list[str]) -> Iterator[None]:
    servers = " ".join(
        f"server {address}:{_WEB_PORT} max_fails=1 fail_timeout=2s;" for address in addresses
    )
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, servers=servers, port=_PORT))
    with subprocess.Popen(
        ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx-error.log")]  # noqa: S607
    ) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def _forwarding(port: int) -> Iterator[None]:
    """Forward connections from the nodes to a server on 127.0.0.1."""
    program = f"""
import asyncio
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
async def serve(reader, writer):
    try:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", {port})
    except OSError:
        writer.close()
        return
    await asyncio.gather(
        pump(reader, there_writer), pump(there_reader, writer), return_exceptions=True
    )
async def main():
    async with await asyncio.start_server(serve, "{OURS}", {port}) as server:
        await server.serve_forever()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
