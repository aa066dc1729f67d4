"""Where the web side finds its services."""

import os
import threading
from collections.abc import Callable, Mapping

from flask import Flask, current_app

from receiver.services import Services
from receiver.settings import Settings

_NAME = "receiver"
_STOPPING = "receiver.stopping"
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


def stops_when(app: Flask, stopping: Callable[[], bool]) -> None:
    """Tell the application how to see that its process is about to stop, so that answers without an end can be ended."""
    app.extensions[_STOPPING] = stopping


def is_stopping(extensions: Mapping[str, object]) -> bool:
    """Say whether the process is about to stop, by the application's ``extensions``."""
    stopping = extensions.get(_STOPPING)
    return callable(stopping) and bool(stopping())
