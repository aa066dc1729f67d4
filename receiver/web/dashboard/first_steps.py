"""The steps from a new service to the first archived picture, and which of them are done."""

import json
from dataclasses import dataclass

from flask import request

from receiver.model import JobState, Provider
from receiver.web.dashboard.summary import statistics
from receiver.web.state import services

_EXAMPLE = {"prompt": "a lighthouse at dusk"}


@dataclass(frozen=True, slots=True)
class FirstStep:
    """A step: the key of its text, whether it is done, and values to copy by their labels."""

    name: str
    done: bool
    values: tuple[tuple[str, str], ...] = ()


def first_steps() -> dict[str, object]:
    """Return the steps for a template; the first one that is not done is ``next_step``."""
    chosen = services().settings
    here = chosen.public_url or request.host_url.rstrip("/")
    summary = statistics().summary()
    steps = [
        FirstStep(
            "key", any(map(services().clients.can_ask, Provider)), (("", "GRSAI_API_KEY=sk-…"),)
        ),
        FirstStep(
            "address",
            chosen.public_url is not None,
            (("", "PUBLIC_URL=https://pictures.example.com"),),
        ),
        FirstStep("submit", summary.submitted > 0, _ways_to_submit(here)),
        FirstStep(
            "callback", services().queries.has_callback(), (("callback_url", f"{here}/callback"),)
        ),
        FirstStep("picture", summary.states[JobState.ARCHIVED] > 0),
    ]
    waiting = next((step.name for step in steps if not step.done), None)
    return {"steps": steps, "next_step": waiting, "polls": chosen.public_url is None}


def _ways_to_submit(here: str) -> tuple[tuple[str, str], ...]:
    curl = (
        f"curl -X POST {here}/api/jobs -H 'Authorization: Bearer ADMIN_TOKEN' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(_EXAMPLE)}'"
    )
    command = f'submitter submit "{_EXAMPLE["prompt"]}" --wait'
    return ("command", command), ("over_http", curl)
