"""The real web application on a real ledger in this process, called with Flask's test client."""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledgers import migrated_file

from receiver.model import new_ref
from receiver.services import Services
from receiver.settings import Settings
from receiver.web import create_app
from receiver.web.metrics import process_metrics

SUCCEEDED: dict[str, Any] = {
    "id": "task-1",
    "status": "succeeded",
    "progress": 100,
    "results": [{"url": "https://pictures.example/0.png", "width": 8, "height": 8}],
    "failure_reason": "",
    "error": "",
}
RUNNING = {"id": "task-1", "status": "running", "progress": 40, "results": None}
FAILED = {"id": "task-1", "status": "failed", "failure_reason": "output_moderation", "error": "no"}


class WebClient:
    """One application with its services.

    ``client`` sends no token; ``admin`` are the headers with the token.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.client: Any = create_app(
            services
        ).test_client()  # Any: FlaskClient says that JSON may be None
        self.admin = {"Authorization": f"Bearer {services.admin_token}"}

    def ticket(self) -> str:
        """Return a valid ticket for a job that does not exist yet."""
        return self.services.tickets.sign(new_ref(time.time()))

    def callback(self, ticket: str, body: object, **options: Any) -> Any:
        """Post a callback; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(f"/callback/{ticket}", data=data, **options)

    def verdicts(self, ref: str) -> list[str]:
        """Return the decision about each delivery of a job."""
        return [row.verdict for row in self.services.queries.deliveries(ref)]

    def counted(self, outcome: str) -> float:
        """Return how many callbacks had this outcome, as /metrics shows it a moment later."""
        found = re.search(
            rf'receiver_callbacks_total{{outcome="{outcome}"}} (\S+)',
            process_metrics().decode(),
        )
        return float(found[1]) if found else 0.0


@contextmanager
def web_client(data_dir: Path, environ: Mapping[str, str] | None = None) -> Iterator[WebClient]:
    """Open the application on a ledger in ``data_dir``, with these further settings."""
    if "DATABASE_URL" not in (environ or {}):
        migrated_file(data_dir / "ledger.sqlite3")
    services = Services(Settings.load({"DATA_DIR": str(data_dir), **(environ or {})})).open()
    try:
        yield WebClient(services)
    finally:
        for thread in threading.enumerate():
            if thread.name == "background value":  # it would open the ledger again
                thread.join(20)
        services.close()
