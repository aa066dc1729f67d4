"""The services of infra/compose.yaml as plain processes: the same commands and variables.

PostgreSQL, SeaweedFS and Caddy are real; only addresses differ from those in the containers.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest
import requests
from caddy import caddy
from commands import invoke
from postgres import PostgresServer
from processes import ROOT, free_port, run, running
from ruamel.yaml import YAML
from seaweed import S3Server
from waiting import until

from submitter.sandbox import Sandbox

COMPOSE = YAML(typ="safe").load(ROOT / "infra/compose.yaml")
DOMAIN = "localhost"


def environment_of(service: str, values: dict[str, str]) -> dict[str, str]:
    """Return the variables of a service, filled from the values of an .env file."""
    given: dict[str, str | None] = COMPOSE["services"][service]["environment"]
    filled = {
        name: values.get(name) if text is None else interpolated(text, values)
        for name, text in given.items()
    }
    return {name: text for name, text in filled.items() if text is not None}


def interpolated(text: str, values: dict[str, str]) -> str:
    """Fill ``${NAME:-default}`` and ``${NAME:?}`` as Compose does."""

    def value(found: re.Match[str]) -> str:
        name, operator, default = found.groups()
        if operator == ":?":
            assert values.get(name), f"{name} is required"
        return values.get(name) or default

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, text)


def command_of(service: str) -> list[str]:
    """Return the command of a service, with this Python for ``python``."""
    words: list[str] = COMPOSE["services"][service]["command"]
    return [sys.executable if word == "python" else word for word in words]


@pytest.fixture
def environ(
    tmp_path: Path, sandbox: Sandbox, s3_server: S3Server, postgres_server: PostgresServer
) -> Iterator[dict[str, str]]:
    """Return the variables of the services, with addresses of this machine."""
    database = postgres_server.make_database()
    values = {
        "DOMAIN": DOMAIN,
        "GRSAI_API_KEY": "sk-test",
        "GRSAI_BASE_URL": sandbox.url,
        "CALLBACK_SECRETS": "c" * 64,
        "ADMIN_TOKEN": "a" * 64,
        "POSTGRES_PASSWORD": "secret",
        "S3_ENDPOINT": s3_server.url,
        "S3_ACCESS_KEY": s3_server.writer[0],
        "S3_SECRET_KEY": s3_server.writer[1],
        "FETCH_ALLOW": sandbox.url.removeprefix("http://"),
        "WEB_CONCURRENCY": "1",
    }
    yield {
        **environment_of("web", values),
        "DATABASE_URL": database.replace("postgresql+psycopg://", "postgresql://"),
        "DATA_DIR": str(tmp_path / "data"),
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
    }
    postgres_server.drop_database(database)


def test_the_services_do_the_main_job_behind_tls(
    tmp_path: Path, sandbox: Sandbox, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(caddy(tmp_path, DOMAIN, f"127.0.0.1:{environ['PORT']}"))
        until(proxy.root.exists, what="Caddy's certificate")
        environ["PUBLIC_URL"] = public = f"https://{DOMAIN}:{proxy.https}"
        # For the sandbox in this process, which calls back, and for the submit's own check.
        environ["REQUESTS_CA_BUNDLE"] = str(proxy.root)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(proxy.root))
        for name in ("migrate", "bucket"):
            done = run(command_of(name), environ, folder=tmp_path)
            assert done.status == 0, done
        web, worker = (
            stack.enter_context(running(command_of(name), environ, tmp_path))
            for name in ("web", "worker")
        )
        until(lambda: status(f"{public}/healthz") == HTTPStatus.OK, what="web behind Caddy")
        done = invoke(
            ["submitter", "submit", "a fox", "--wait", "--json"], environ, folder=tmp_path
        )
        assert done.status == 0, (done, web.output(), worker.output())
        job = json.loads(done.out)
        assert job["state"] == "archived"
        (task,) = sandbox.tasks()
        assert {sent["status"] for sent in task["callbacks"]} == {200}, "called back by https"
        assert status(f"{public}/api/jobs") == HTTPStatus.NOT_FOUND, "only callbacks are public"


def status(url: str) -> int:
    """Return the status of a page."""
    return requests.get(url, timeout=10).status_code
