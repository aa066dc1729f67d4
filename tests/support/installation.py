"""One installation under test: a DATA_DIR, a port, a sandbox as the provider, its processes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from copy import copy
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from unittest import mock

import requests
from commands import invoke
from ledgers import migrated_file
from processes import Finished, Running, free_port, run, running
from waiting import LIMIT, until

from receiver.model import JobState, Mode
from receiver.services import Services
from receiver.settings import Settings
from submitter.job import Job
from submitter.sandbox import Sandbox
from submitter.submit import Submitter

SERVE = ("receiver", "serve")


class Installation:
    """Paths, addresses and variables of one installation. Nothing runs until ``started``."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.earlier_tasks = sandbox.stats()["tasks"]
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.is_serving = False
        self.environ = {
            "DATA_DIR": str(self.data),
            "PORT": str(self.port),
            "PUBLIC_URL": self.url,
            "GRSAI_BASE_URL": sandbox.url,
            "GRSAI_API_KEY": "sk-test",
            "FETCH_ALLOW": sandbox.url.removeprefix("http://"),
            "WEB_CONCURRENCY": "1",
        }

    @contextmanager
    def started(
        self, command: Sequence[str] = SERVE, *, lent: int | None = None, **more: str
    ) -> Iterator[Running]:
        """Run a command that serves the web; begin the block when it is ready.

        ``lent`` is a file descriptor that the command may use.
        """
        environ = {**self.environ, **more}
        migrated(environ)
        with running(
            command, environ, self.folder, lent=() if lent is None else (lent,)
        ) as service:
            until(
                lambda: (
                    service.process.poll() is not None or self.status("/readyz") == HTTPStatus.OK
                ),
                what=f"{self.url}/readyz",
            )
            assert service.process.poll() is None, service.output()
            self.is_serving = True
            try:
                yield service
            finally:
                self.is_serving = False

    def for_another_test(self, folder: Path) -> "Installation":
        """Return the same installation with another folder, and without the tasks so far."""
        copied = copy(self)
        copied.folder, copied.earlier_tasks = folder, self.sandbox.stats()["tasks"]
        return copied

    def tasks(self) -> list[dict[str, Any]]:
        """Return the sandbox's tasks since this installation was made, oldest first."""
        return self.sandbox.tasks()[self.earlier_tasks :]

    def run(self, *command: str, **more: str) -> Finished:
        """Run a command to its end."""
        return run(self.unchecked(command), {**self.environ, **more}, folder=self.folder)

    def invoke(self, *command: str, stdin: str = "", **more: str) -> Finished:
        """Run a command of ``receiver`` or ``submitter`` to its end, inside this process."""
        return invoke(
            self.unchecked(command), {**self.environ, **more}, folder=self.folder, stdin=stdin
        )

    def unchecked(self, command: Sequence[str]) -> Sequence[str]:
        """Return a command that submits even if no worker is there yet to archive the result.

        Tests of the check give ``--check``.
        """
        submits = tuple(command[:2]) in {("submitter", "submit"), ("submitter", "batch")}
        if not submits or self.is_serving or "--check" in command:
            return command
        return (*command, "--no-check")

    def status(self, path: str) -> int | None:
        """Return the HTTP status of a page, None where nothing answers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        with closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except (OSError, HTTPException):
                return None

    def ask_status(self) -> requests.Response:
        """Return the answer of /status with the details that an operator sees."""
        with self.services() as services:
            headers = {"Authorization": f"Bearer {services.admin_token}"}
        return requests.get(f"{self.url}/status", headers=headers, timeout=5)

    @contextmanager
    def services(self) -> Iterator[Services]:
        """Open the service's parts in this process, beside the processes that run."""
        migrated(self.environ)
        with (
            self._boto3_variables(),
            closing(Services(Settings.load(self.environ)).open()) as services,
        ):
            yield services

    def _boto3_variables(self) -> AbstractContextManager[object]:
        """Give boto3's variables to this process, which reads them itself, during a block."""
        ours = {name: value for name, value in self.environ.items() if name.startswith("AWS_")}
        return mock.patch.dict(os.environ, ours)

    def submit(
        self,
        prompt: str = "a fox",
        *,
        mode: Mode = Mode.WEBHOOK,
        webhook: str | None = None,
        **script: Any,
    ) -> Job:
        """Post a small job with this fault script; return its state after the submit.

        It need not have a worker yet.
        """
        migrated(self.environ)
        with (
            self._boto3_variables(),
            Submitter(Settings.load(self.environ), check=False) as submitter,
        ):
            params = {"size": "64x64", "sandbox": {"delay": 0, **script}}
            return submitter.submit(prompt, params=params, mode=mode, webhook=webhook)

    def wait(self, *refs: str, within: float = LIMIT) -> list[Job]:
        """Wait until these jobs are final."""
        with self._boto3_variables(), Submitter(Settings.load(self.environ)) as submitter:
            return submitter.wait(refs, timeout=within)

    def is_safe(self, job: Job) -> bool:
        """Say whether a job is archived with exactly the bytes that the provider made."""
        assert job.provider_id is not None
        made = self.sandbox.task(job.provider_id)["files"]
        stored = [(asset.sha256, asset.size) for asset in job.assets]
        return job.state is JobState.ARCHIVED and stored == [
            (file["sha256"], file["size"]) for file in made
        ]


def migrated(environ: Mapping[str, str]) -> None:
    """Save the migrations of a new SQLite ledger in DATA_DIR, which have tests of their own."""
    if "DATABASE_URL" not in environ and (data := Path(environ["DATA_DIR"])).parent.exists():
        migrated_file(data / "ledger.sqlite3")
