"""The service itself: the doctor's findings, workers, disks, credits, versions and settings."""

import platform

from flask import Response
from sqlalchemy import Connection

from receiver.doctor.examine import Finding, examine
from receiver.installation import version
from receiver.ledger import schema
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.services import Services
from receiver.web.background import BackgroundValue, LastAnswer
from receiver.web.dashboard.base import blueprint, is_fragment, language, localized, page
from receiver.web.dashboard.first_steps import first_steps
from receiver.web.dashboard.settings_shown import settings_shown
from receiver.web.dashboard.summary import statistics
from receiver.web.dashboard.translations import TEXTS
from receiver.web.dashboard.translations_doctor import chinese_finding
from receiver.web.spending import accounts
from receiver.web.state import per_app, services

# Seconds for which findings are kept. The checks write to the archive and call our callback.
FINDINGS_LIFETIME = 120.0


@blueprint.get("/service")
def service() -> Response:
    """Show the state of every part, and the settings in force."""
    found = _findings()
    values = {
        "findings": found.value,
        "failure": found.error,
        "findings_age": found.age,
        "name_of_check": _name_of_check,
        "in_language": _finding_in_language,
        "workers": services().workers.seen(),
        "disks": services().disk_space(),
        "balances": accounts().known_balances(),
        "destinations": statistics().destinations(),
        "of_jobs": JOB_WEBHOOKS,
        "versions": _versions(services()),
    }
    if is_fragment():
        return page("_service.html", values)
    return page("service.html", {**values, "settings": settings_shown(services().settings)})


@blueprint.get("/first-steps")
def first_steps_page() -> Response:
    """Show the steps from a new service to the first picture."""
    return page("_first_steps.html" if is_fragment() else "first_steps.html", first_steps())


def _findings() -> LastAnswer[list[Finding]]:
    """Return the doctor's last findings; the checks run in the background."""
    return _doctor().peek()


def _name_of_check(name: str) -> str:
    """Return the name of a check in the reader's language; that of a provider as it is."""
    key = f"check_{name.replace(' ', '_')}"
    return localized(key) if key in TEXTS else name


def _finding_in_language(text: str) -> str | None:
    """Return a text of the doctor in the reader's language, None if there is only the English."""
    return None if language() == "en" else chinese_finding(text)


@per_app
def _doctor() -> BackgroundValue[list[Finding]]:
    opened = services()
    return BackgroundValue("doctor", lambda: list(examine(opened)), FINDINGS_LIFETIME, limit=30.0)


def _versions(services: Services) -> list[tuple[str, str]]:
    """Return what runs here, and its version."""
    return [
        ("webhook-image-receiver", version()),
        ("Python", platform.python_version()),
        (*services.database.read(_database_version),),
        ("schema", schema.version(services.database) or "-"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
    ]


def _database_version(connection: Connection) -> tuple[str, str]:
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[connection.dialect.name]
    numbers = connection.dialect.server_version_info or ()
    return name, ".".join(map(str, numbers))
