"""The credits a key has left: each accepted submit costs one, a job that fails gives it back. All keys share one purse.

Specification: ``POST /client/openapi/getAPIKeyCredits`` with ``{"apiKey"}``, as public client code calls it; nothing else is known.
"""

from collections.abc import Callable

from flask import Flask, request
from flask.typing import ResponseReturnValue

from submitter.sandbox import responses
from submitter.sandbox.runner import Studio

AT_FIRST = 10_000


def add_routes(app: Flask, studio: Studio, accepts: Callable[[str], bool]) -> None:
    """Add the endpoint; ``accepts`` says whether a key is one of ours."""

    @app.post("/client/openapi/getAPIKeyCredits")
    def credits_left() -> ResponseReturnValue:
        body = request.get_json(force=True, silent=True)
        key = body.get("apiKey") if isinstance(body, dict) else None
        if not isinstance(key, str) or not accepts(key.strip()):
            return responses.envelope(None, -1, "invalid apikey")
        return responses.envelope({"credits": left(studio)})


def left(studio: Studio) -> int:
    """Say how many credits are left; never less than none, though nobody is refused for it."""
    refunded = sum(task.status == "failed" for task in studio.tasks)
    return max(0, AT_FIRST - studio.tasks.counts["accepted"] + refunded)
