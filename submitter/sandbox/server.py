"""A running sandbox; tests use it as a context manager."""

import tempfile
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from submitter.sandbox import control
from submitter.sandbox.app import AccessRules, create_app
from submitter.sandbox.connection import Server
from submitter.sandbox.files import Files
from submitter.sandbox.runner import Runner
from submitter.sandbox.script import LIFETIME, Script
from submitter.sandbox.stand_ins.routes import StandIns
from submitter.sandbox.tasks import Tasks


class Sandbox:
    """A stand-in for the providers that listens from construction until ``stop``.

    ``port`` 0 takes a free one. ``keys`` are the accepted API keys (None: any that is not empty).
    ``script`` holds the defaults of every job's own script. ``url_lifetime`` is in seconds. File
    URLs begin with ``public_url``, by default ``url``. ``looks`` limits how many different pictures
    are drawn (their bytes still differ), for runs in which drawing would be the bottleneck. The
    newest ``keep_tasks`` tasks are kept, and ``keep_bytes`` of files on disk. ``threads`` callbacks
    are sent in parallel; each waits ``callback_timeout`` seconds for its answer. Raises OSError if
    the port is taken, ScriptError for a wrong script.
    """

    def __init__(  # noqa: PLR0913 - one keyword per property of a provider; all have defaults
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        keys: Collection[str] | None = None,
        unknown_models: Collection[str] = (),
        script: Mapping[str, Any] | None = None,
        url_lifetime: float = LIFETIME,
        public_url: str | None = None,
        looks: int | None = None,
        keep_tasks: int = 20_000,
        keep_bytes: int = 2**30,
        threads: int = 32,
        callback_timeout: float = 10.0,
    ) -> None:
        Script.read(script)
        self._stopping = threading.Event()
        self._server = Server((host, port))
        name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound
        self.port = self._server.server_address[1]
        self.url = f"http://{name}:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-")
        files = Files(
            Path(self._folder.name),
            (public_url or self.url).rstrip("/"),
            url_lifetime,
            keep_bytes,
            looks,
        )
        self._runner = Runner(Tasks(keep_tasks), files, threads, callback_timeout)
        self.stand_ins = StandIns.at((public_url or self.url).rstrip("/"))
        access = AccessRules(keys, unknown_models)
        self._server.start(
            create_app(self._runner, access, dict(script or {}), self._stopping, self.stand_ins)
        )

    def __enter__(self) -> Self:
        """Return the sandbox, which is listening already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Close every connection and thread and delete the files; can be called twice."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._server.cut()
        self._runner.stop()
        self._server.join()
        self._folder.cleanup()

    def tasks(self) -> list[dict[str, Any]]:
        """Return all tasks, oldest first, as GET /sandbox/tasks does."""
        return control.all_tasks(self._runner)

    def task(self, task_id: str) -> dict[str, Any]:
        """Return one task as GET /sandbox/tasks/<id> does; raise KeyError for an unknown id."""
        return control.task_with_files(self._runner, task_id)

    def signed(self, task_id: str) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of the callback about a task of another provider than GRSAI."""
        task = self._runner.tasks.get(task_id)
        if task is None or task.request.stand_in is None:
            raise KeyError(task_id)
        return task.request.stand_in.callback(task, self._runner.files, "final")

    def stats(self) -> dict[str, int]:
        """Return the statistics as GET /sandbox/stats does."""
        return control.stats_of(self._runner)
