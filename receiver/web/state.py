"""Where the web side finds its services."""

import os
import threading

from flask import Flask, current_app

from receiver.services import Services
from receiver.settings import Settings

_NAME = "receiver"
_opening = threading.Lock()


def attach(app: Flask, services: Services) -> None:
    """Give the application open services."""
    app.extensions[_NAME] = services


def services() -> Services:
    """Return the services of the current application; open them from the environment where nobody attached any."""
    found = current_app.extensions.get(_NAME)
    if found is None:
        with _opening:
            if _NAME not in current_app.extensions:
                attach(current_app, Services(Settings.load(os.environ)).open())
            found = current_app.extensions[_NAME]
    assert isinstance(found, Services)  # noqa: S101 - only attach writes it
    return found
