"""The dashboard without a browser: a login, forms with their CSRF token, and jobs to show."""

import re
from typing import Any

from web_client import SUCCEEDED, WebClient

from receiver.ledger.rows import StoredAsset
from receiver.model import JobState, Mark, Submission

PAGES = [
    "/",
    "/status-bar",
    "/audit",
    "/jobs",
    "/batches",
    "/at-risk",
    "/set-aside",
    "/compare",
    "/charts",
    "/costs",
    "/events",
    "/service",
    "/first-steps",
    "/docs/api",
    "/submit",
    "/retry-all",
    "/replay-all",
]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\"'&"


def submitted(web: WebClient, prompt: str = "a fox") -> str:
    """Submit a job; return its ref."""
    return web.services.jobs.submit(
        Submission(prompt, "gpt-image-1.5", {"n": 1}), "https://provider.test"
    ).ref


def reported(web: WebClient, body: object, prompt: str = "a fox") -> str:
    """Make a job with this report; return its ref."""
    ref = submitted(web, prompt)
    web.callback(web.services.tickets.sign(ref), body)
    return ref


def archived(web: WebClient, prompt: str = "a fox") -> str:
    """Make a job that the ledger calls archived; the archive does not have its picture."""
    ref = reported(web, SUCCEEDED, prompt)
    (claimed,) = web.services.assets.claim(1)
    web.services.assets.finish(
        claimed,
        StoredAsset(
            f"2026/10/01/{ref}/0.png",
            "0" * 64,
            10,
            "image/png",
            8,
            8,
            defect="3 bytes after the end of the file",
            marks=(Mark("c2pa", "caBX", 14_012),),
        ),
    )
    (job,) = web.services.jobs.claim(1)
    web.services.jobs.conclude(job, JobState.ARCHIVED)
    return ref


def log_in(web: WebClient) -> None:
    """Log in."""
    assert web.client.post("/login", data={"token": web.services.admin_token}).status_code == 303


def form_token(web: WebClient) -> str:
    """Return the CSRF token of this session."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', web.client.get("/submit").text)
    assert found
    return found[1]


def post(web: WebClient, path: str, **fields: str) -> Any:
    """Submit a form with its CSRF token."""
    return web.client.post(path, data={"csrf_token": form_token(web), **fields})
