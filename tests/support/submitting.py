"""A submit service that does not sleep, and what it is asked for in tests."""

from typing import Any

from receiver.jobs.submit import SubmitService
from receiver.model import Api, Mode, Provider, Submission
from receiver.providers.client import Clients
from receiver.providers.dialect import Account
from receiver.providers.grsai.client import GrsaiClient
from receiver.services import Services


def submit_service(
    services: Services,
    *,
    pauses: list[float] | None = None,
    base_url: str | None = None,
    public: bool = True,
) -> SubmitService:
    """Return a submit service that records its pauses instead of sleeping."""
    chosen, noted = services.settings, pauses if pauses is not None else []
    return SubmitService(
        services.jobs,
        services.inbox,
        grsai_clients(base_url or chosen.grsai_base_url),
        services.tickets,
        public_url=chosen.public_url if public else None,
        pause=noted.append,
    )


def grsai_client(
    base_url: str, key: str = "sk-test", timeouts: tuple[float, float] = (2.0, 3.0)
) -> GrsaiClient:
    """Return a client of GRSAI."""
    return GrsaiClient(Account(key, base_url), timeouts)


def grsai_clients(base_url: str) -> Clients:
    """Return clients of which only GRSAI's is there."""
    return Clients({Provider.GRSAI: grsai_client(base_url)})


def asked(
    mode: Mode = Mode.WEBHOOK, api: Api = Api.DRAW, key: str | None = None, **script: Any
) -> Submission:
    return Submission(
        "a fox",
        "gpt-image-1.5",
        {"sandbox": {"delay": 0, "callback": "lost", **script}},
        mode,
        api=api,
        key=key,
    )
