"""Count requests and bytes, both ways, that a picture with its job costs an S3 server."""

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs

from receiver.ledger.notifications import QueueName
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.archiving import archiving_jobs
from tests.bench.measurements import Line

PICTURES = 10


@dataclass
class _Counter:
    """Counts requests, and the bytes of their bodies and of the objects that come back."""

    send: Callable[[Any], Any]
    requests: int = 0
    bytes: int = 0

    def __call__(self, request: Any) -> Any:
        """Send a request and count it."""
        answer = self.send(request)
        self.requests += 1
        self.bytes += int(request.headers.get("Content-Length", 0))
        if request.method == "GET":
            self.bytes += int(answer.headers.get("Content-Length", 0))
        return answer


def measure(folder: Path, url: str, env: Mapping[str, str]) -> list[Line]:
    """Archive pictures in this process; the yardstick is one put of the picture."""
    with (
        patch.dict(os.environ, env),
        capture_logs(),
        closing(Services(Settings.load(env)).open()) as services,
    ):
        store: Any = services.store
        store.check()
        http = store._bucket.client()._endpoint.http_session
        http.send = counter = _Counter(http.send)
        archiving_jobs(services, url, PICTURES)
        queues = {queue.name: queue for queue in services.work_queues(folder)}
        for name in (QueueName.ASSETS, QueueName.COMPLETE_JOBS):
            for claimed in queues[name].claim(PICTURES):
                queues[name].run(claimed)
    size = (folder / "picture.png").stat().st_size
    return [
        Line("requests per picture", "", [counter.requests / PICTURES], [1.0]),
        Line("bytes per picture", "MB", [counter.bytes / PICTURES / 1e6], [size / 1e6]),
    ]
