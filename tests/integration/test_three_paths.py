"""The three paths of CONTRIBUTING.md are complete: no other file of the receiver runs."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from flask.testing import FlaskClient
from ledgers import migrated_file
from waiting import until

import receiver
from receiver.model import JobState
from receiver.services import Services
from receiver.settings import Settings
from receiver.web import create_app
from submitter.sandbox import Sandbox

PACKAGE = Path(receiver.__file__).parent
ROOT = PACKAGE.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(looks=1) as sandbox:
        yield sandbox


@pytest.fixture
def services(sandbox: Sandbox, tmp_path: Path) -> Iterator[Services]:
    environ = {
        "DATA_DIR": str(tmp_path / "data"),
        "GRSAI_API_KEY": "sk-test",
        "GRSAI_BASE_URL": sandbox.url,
        "FETCH_ALLOW": sandbox.url.removeprefix("http://"),
        "PUBLIC_URL": "http://127.0.0.1:9",
    }
    migrated_file(tmp_path / "data" / "ledger.sqlite3")
    with closing(Services(Settings.load(environ)).open()) as services:
        yield services


@pytest.fixture
def client(services: Services) -> FlaskClient:
    """Return a client that sends ADMIN_TOKEN."""
    client = create_app(services).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {services.admin_token}"
    return client


def files_run_by(action: Callable[[], object]) -> set[str]:
    """Return the files of the receiver in which a function ran during ``action``."""
    seen = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == "call" and not code.co_name.startswith("<"):
            seen.add(code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return {str(Path(file).relative_to(ROOT)) for file in seen if file.startswith(f"{PACKAGE}/")}


def named_in(heading: str) -> set[str]:
    """Return the files that a section of CONTRIBUTING.md names."""
    section = PAGE.partition(f"\n{heading}\n")[2]
    assert section
    text = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    files = set(re.findall(r"`(receiver/[\w/.]+)`", text))
    folders = {file for file in files if (ROOT / file).is_dir()}
    return (files - folders) | {
        str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")
    }


def unnamed(heading: str, run: set[str]) -> set[str]:
    return run - named_in(heading) - named_in("## Three paths")


def submit(client: FlaskClient) -> Any:
    answer = client.post("/api/jobs", json={"prompt": "a fox", "model": "nano-banana"})
    assert answer.status_code == 201
    return answer.json


def report(sandbox: Sandbox, job: Any) -> dict[str, Any]:
    """Return the body of a job's callback."""

    def urls() -> list[str | None]:
        return [file["url"] for file in sandbox.task(job["provider_id"])["files"]]

    until(lambda: all(found := urls()) and found, what="the result")
    results = [{"url": url} for url in urls()]
    return {"id": job["provider_id"], "status": "succeeded", "progress": 100, "results": results}


def test_a_submit_runs_no_file_that_its_path_does_not_name(client: FlaskClient) -> None:
    submit(client)
    run = files_run_by(lambda: submit(client))
    assert "receiver/jobs/submit.py" in run
    assert unnamed("### A submit", run) == set()


def test_a_callback_and_its_asset_run_no_file_that_their_paths_do_not_name(
    client: FlaskClient, services: Services, sandbox: Sandbox, tmp_path: Path
) -> None:
    job = submit(client)
    path, body = f"/callback/{services.tickets.sign(job['ref'])}", report(sandbox, job)
    client.post(path, json={"id": body["id"], "status": "running"})
    run = files_run_by(lambda: client.post(path, json=body))
    assert "receiver/ingest/inbox.py" in run
    assert unnamed("### A callback", run) == set()

    queue = services.work_queues(tmp_path)[0]
    run = files_run_by(lambda: queue.run(queue.claim(1)[0]))
    assert "receiver/archive/archiver.py" in run
    assert services.jobs.get(job["ref"]).state is JobState.ARCHIVED
    assert services.queries.assets([job["ref"]])[job["ref"]][0].sha256
    assert unnamed("### Archiving an asset", run) == set()
