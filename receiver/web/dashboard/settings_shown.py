"""The settings in force, as a page shows them: secrets are never shown, not even in a URL."""

import re
from dataclasses import dataclass

from pydantic import SecretStr

from receiver.settings import Settings
from receiver.telemetry.redaction import Redactor

MASK = "••••••"
# The text before the last @ of an address, and the values of its query.
_USER = re.compile(r"(?<=://)[^\s]*@")
_QUERY_VALUE = re.compile(r"([?&][^=&#\s]*=)[^&#\s]*")


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting: the name of its variable, its value without secrets, and whether it was set."""

    name: str
    value: str
    is_set: bool


def settings_shown(settings: Settings) -> list[Shown]:
    """Return every setting, in the order of its definition."""
    redact = Redactor(settings.secrets())
    found = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name == "event_urls":  # a webhook's path may be a secret
            value = tuple(to.name for to in settings.destinations)
        is_set = name in settings.model_fields_set and value != field.default
        found.append(Shown(name.upper(), redact(_text(value)), is_set))
    return found


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else _masked(str(value))


def _masked(text: str) -> str:
    if "://" not in text:
        return text
    return _QUERY_VALUE.sub(rf"\1{MASK}", _USER.sub(f"{MASK}@", text))
