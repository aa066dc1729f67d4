"""The dashboard in a browser: a session, and jobs of every kind to show."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import requests
from installation import Installation
from playwright.sync_api import Browser, BrowserContext, ViewportSize
from sqlalchemy import update
from waiting import until

from receiver.ledger.tables import assets
from receiver.model import AssetState, JobState
from receiver.settings import Settings
from submitter.submit import Submitter

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE: ViewportSize = {"width": 390, "height": 780}
DESKTOP: ViewportSize = {"width": 1280, "height": 900}


class Viewer:
    """Opens browser contexts with or without a session."""

    def __init__(self, browser: Browser, installation: Installation) -> None:
        self._browser = browser
        self.installation = installation
        with installation.services() as services:
            self.token = services.admin_token

    @cached_property
    def _session(self) -> Any:
        """Log in; return the cookies."""
        with self.without_session() as context:
            page = context.new_page()
            page.goto(f"{self.installation.url}/login")
            page.get_by_label("Admin token").fill(self.token)
            page.keyboard.press("Enter")
            page.wait_for_url(f"{self.installation.url}/")
            return context.storage_state()

    @contextmanager
    def without_session(self, **options: Any) -> Iterator[BrowserContext]:
        """Open a browser context without a session."""
        context = self._browser.new_context(
            **{"viewport": DESKTOP, "base_url": self.installation.url, "locale": "en-GB", **options}
        )
        context.set_default_timeout(10_000)
        yield context
        context.close()

    @contextmanager
    def context(self, **options: Any) -> Iterator[BrowserContext]:
        """Open a browser context with a session."""
        with self.without_session(storage_state=self._session, **options) as context:
            yield context

    @cached_property
    def jobs(self) -> dict[str, str]:
        """Submit a job of every kind and wait for its state; return the refs by prompt."""
        wanted: dict[str, dict[str, Any]] = {
            "a fox in the snow": {},
            "two owls": {"format": "jpeg"},
            "a picture the provider will not draw": {"fail": "output_moderation"},
            "a picture that never comes": {"file": {"mode": "error", "times": 0}},
            "a broken picture": {"file": {"mode": "wrong_length", "at": 0.6}},
            "a job without an end": {"delay": 600},
        }
        refs = {
            prompt: self.installation.submit(prompt, **script).ref
            for prompt, script in wanted.items()
        }
        with self.installation.services() as services:
            hook = f"{self.installation.url}/callback/{services.tickets.sign(refs['two owls'])}"
            assert requests.post(hook, data=b'{"status": "succ', timeout=10).status_code == 400
            never = refs["a picture that never comes"]
            until(
                lambda: services.jobs.get(never).state is JobState.ARCHIVING,
                what="that its result is known",
            )
            soon = services.now() + 1500
            late = (
                update(assets)
                .where(assets.c.state == AssetState.PENDING)
                .values(expires_at=soon, announced_at=soon - 7200)
            )
            services.database.write(lambda connection: connection.execute(late))
            self.installation.wait(
                *(
                    refs[prompt]
                    for prompt in (
                        "a fox in the snow",
                        "two owls",
                        "a picture the provider will not draw",
                        "a broken picture",
                    )
                )
            )
        lost = {"size": "64x64", "sandbox": {"delay": 0, "fail": "error"}}
        with Submitter(Settings.load(self.installation.environ), check=False) as submitter:
            batch = submitter.submit(
                "a lamp at night",
                params=lost,
                batch="night-run/7",
                folder="shop/summer",
                webhook=self.installation.environ["EVENT_URLS"].partition(",")[0],
            )
        self.installation.wait(batch.ref)
        return refs | {"a lamp at night": batch.ref}

    def pages(self) -> dict[str, str]:
        """Return the path of every kind of page by its name."""
        fox, lamp = self.jobs["a fox in the snow"], self.jobs["a lamp at night"]
        return {
            "gallery": "/",
            "picture": f"/pictures/{fox}/0?q=fox",
            "jobs": "/jobs",
            "batches": "/batches",
            "batch": "/batches?batch=night-run/7",
            "nothing found": "/jobs?q=no-such-words",
            "job": f"/jobs/{fox}",
            "failed job": f"/jobs/{lamp}",
            "rejected file": f"/jobs/{self.jobs['a broken picture']}",
            "job under way": f"/jobs/{self.jobs['a picture that never comes']}",
            "delivery": f"/jobs/{self.jobs['two owls']}/deliveries/{self._first_delivery()}",
            "at risk": "/at-risk",
            "set aside": "/set-aside",
            "compare": "/compare",
            "charts": "/charts?span=last_hour",
            "costs": "/costs",
            "events": "/events",
            "service": "/service",
            "first steps": "/first-steps",
            "API reference": "/docs/api",
            "new job": f"/submit?like={lamp}",
            "retry many": "/retry-all",
            "read again many": "/replay-all",
            "invariants": "/audit",
        }

    def _first_delivery(self) -> int:
        with self.installation.services() as services:
            return services.queries.delivery_log(self.jobs["two owls"])[0].id
