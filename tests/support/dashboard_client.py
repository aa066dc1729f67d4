"""Somebody in front of the dashboard, without a browser: logged in, with the forms' proofs at hand, and jobs to look at."""

import re
from typing import Any

from web_client import SUCCEEDED, WebClient

from receiver.ledger.rows import StoredAsset
from receiver.model import JobState, Submission

PAGES = [
    "/",
    "/strip",
    "/law",
    "/jobs",
    "/danger",
    "/set-aside",
    "/compare",
    "/submit",
    "/retry-all",
    "/replay-all",
]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\"'&"


def submitted(web: WebClient, prompt: str = "a fox") -> str:
    """Make a job that was submitted; return its ref."""
    return web.services.ledger.submit(
        Submission(prompt, "gpt-image-1.5", {"n": 1}), "https://provider.test"
    ).ref


def reported(web: WebClient, body: object, prompt: str = "a fox") -> str:
    """Make a job of which this was reported."""
    ref = submitted(web, prompt)
    web.callback(web.services.tickets.sign(ref), body)
    return ref


def archived(web: WebClient, prompt: str = "a fox") -> str:
    """Make a job whose picture the ledger calls safe; the archive has nothing of it."""
    ref = reported(web, SUCCEEDED, prompt)
    (claimed,) = web.services.ledger.claim_assets(1)
    web.services.ledger.finish_asset(
        claimed, StoredAsset(f"2026/10/01/{ref}/0.png", "0" * 64, 10, "image/png", 8, 8)
    )
    (job,) = web.services.ledger.claim_jobs(1)
    web.services.ledger.conclude(job, JobState.ARCHIVED)
    return ref


def log_in(web: WebClient) -> None:
    """Begin a session."""
    assert web.client.post("/login", data={"token": web.services.admin_token}).status_code == 303


def form_token(web: WebClient) -> str:
    """Return the proof that a form of this session comes with."""
    found = re.search(r'name="csrf" value="([^"]+)"', web.client.get("/submit").text)
    assert found
    return found[1]


def post(web: WebClient, path: str, **fields: str) -> Any:
    """Send a form of this session."""
    return web.client.post(path, data={"csrf": form_token(web), **fields})
