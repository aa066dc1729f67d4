"""Jobs in each state for tests of the API, and requests with the token."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from web_client import SUCCEEDED, WebClient

from receiver.ledger.rows import StoredAsset
from receiver.model import JobState, Submission

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(300_000)
DIGEST = hashlib.sha256(PICTURE).hexdigest()


def get(web: WebClient, path: str, **options: Any) -> Any:
    """Return the answer to a GET with the token."""
    return web.client.get(path, headers=web.admin, **options)


def submitted(web: WebClient, prompt: str = "a fox", model: str = "gpt-image-1.5") -> str:
    """Make a job without a report; return its ref."""
    return web.services.jobs.submit(Submission(prompt, model, {}), "https://provider.test").ref


def reported(web: WebClient, body: dict[str, Any], prompt: str = "a fox") -> str:
    """Make a job with this report; return its ref."""
    ref = submitted(web, prompt)
    assert web.callback(web.services.tickets.sign(ref), body).status_code == 200
    return ref


def archived(web: WebClient, tmp_path: Path, picture: bytes = PICTURE) -> str:
    """Make a job whose picture is in the archive, with the steps of a worker; return its ref."""
    ref = reported(web, SUCCEEDED)
    (claimed,) = web.services.assets.claim(1)
    file = tmp_path / "fetched"
    file.write_bytes(picture)
    digest = hashlib.sha256(picture).hexdigest()
    key = f"2026/10/01/{ref}/0.png"
    web.services.store.put(key, file, sha256=digest, content_type="image/png")
    web.services.assets.finish(claimed, StoredAsset(key, digest, len(picture), "image/png", 8, 8))
    (job,) = web.services.jobs.claim(1)
    web.services.jobs.conclude(job, JobState.ARCHIVED)
    return ref


def change_ledger(web: WebClient, statement: str) -> None:
    """Run a statement on the ledger behind the back of the service."""
    with closing(
        sqlite3.connect(web.services.settings.ledger_path, isolation_level=None)
    ) as connection:
        connection.execute(statement).close()
