"""The check before the first POST: a worker must be there to archive the result of a paid job.

Either a worker serves the ledger, or PUBLIC_URL leads to a service of the same ledger. A machine
that cannot reach its own PUBLIC_URL (some routers do not route back in) is fine with a worker.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

import requests
from urllib3.exceptions import HTTPError

from receiver.errors import ConfigurationError
from receiver.ingest.tickets import CANARY
from receiver.services import Services

# Seconds that a service which is about to start has to become visible.
WAIT = 10.0
_BETWEEN = 0.2
# Seconds to connect to PUBLIC_URL, between two pieces of its answer, and for the call in all.
_CONNECT, _SILENCE, _CALL = 3.0, 5.0, 6.0
_LONGEST = 64 * 1024  # bytes of its answer


def require_ledger(services: Services) -> None:
    """Raise ConfigurationError if there is no ledger here; nothing is created."""

    def mistake() -> str:
        try:
            services.require_ledger()
        except ConfigurationError as error:
            return f"{error}; nothing was posted"
        return ""

    require(mistake)


def require_service(services: Services) -> None:
    """Raise ConfigurationError if no known worker would archive the result of a job."""
    require(lambda: "" if services.has_worker() else _without_worker(services))


def require(mistake: Callable[[], str]) -> None:
    """Raise ConfigurationError if ``mistake`` still returns a text after ``WAIT`` seconds."""
    deadline = time.monotonic() + WAIT
    while text := mistake():
        if time.monotonic() >= deadline:
            raise ConfigurationError([text])
        time.sleep(_BETWEEN)


def _without_worker(services: Services) -> str:
    """Return "" if PUBLIC_URL leads to a service of this ledger, else what is wrong."""
    chosen = services.settings
    problem = "PUBLIC_URL is not set" if chosen.public_url is None else _problem_of(services)
    if not problem:
        return ""
    name = "DATA_DIR" if chosen.embedded else "DATABASE_URL"
    ledger = chosen.ledger_path if chosen.embedded else "at DATABASE_URL"
    return (
        f"{name}: no worker serves the ledger {ledger}, and {problem}: no worker would archive a "
        f"paid job, so nothing was posted; set {name} to that of the running service, or start "
        "`receiver serve` here (to post anyway: --no-check)"
    )


def _problem_of(services: Services) -> str:
    """Call our own callback; return "" if a service of this ledger answers, else what is wrong."""
    url = services.settings.public_url
    answer = _answer(f"{url}/callback/{services.tickets.sign(CANARY)}")
    if answer is None:
        return f"PUBLIC_URL {url} does not lead to a service that knows its tickets"
    if not isinstance(answer, dict) or answer.get("ref") != CANARY:
        return f"PUBLIC_URL {url} leads to a service that does not know its tickets"
    # Releases before this one answered without the ledger.
    if answer.get("ledger", services.ledger_id) != services.ledger_id:
        return f"PUBLIC_URL {url} leads to a service with another ledger"
    return ""


def _answer(url: str) -> object:
    """Return the JSON of the answer to our call; None if it is not JSON or comes too late."""
    answers: list[object] = []
    # In a thread, because a server that sends a byte now and then causes no timeout. It is a
    # daemon, so that it does not delay the exit.
    call = Thread(target=_call, args=(url, answers), name="check before a POST", daemon=True)
    call.start()
    call.join(_CALL)
    return answers[0] if answers else None


def _call(url: str, answers: list[object]) -> None:
    end = time.monotonic() + _CALL
    with (
        suppress(requests.RequestException, HTTPError, OSError, ValueError, RecursionError),
        requests.post(
            url,
            json={"canary": ""},
            timeout=(_CONNECT, _SILENCE),
            allow_redirects=False,
            stream=True,
        ) as response,
    ):
        body = b""
        for piece in response.iter_content(4096):
            body += piece
            if len(body) > _LONGEST or time.monotonic() > end:
                return
        answers.append(json.loads(body))
