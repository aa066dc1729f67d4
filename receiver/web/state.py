"""The services of the current application, and other objects that exist once per application."""

import os
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TypeVar, cast

from flask import Flask, current_app

from receiver.services import Services
from receiver.settings import Settings

T = TypeVar("T")

_NAME = "receiver"
_STOPPING = "receiver.stopping"
_opening = threading.Lock()


def attach(app: Flask, services: Services) -> None:
    """Give the application its open services."""
    app.extensions[_NAME] = services


def services() -> Services:
    """Return the services of the current application."""
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    """Return the services of an application.

    If none are attached, open them as the environment says.
    """
    found = app.extensions.get(_NAME)
    if found is None:
        with _opening:
            if _NAME not in app.extensions:
                attach(app, Services(Settings.load(os.environ)).open())
            found = app.extensions[_NAME]
    assert isinstance(found, Services)  # noqa: S101 - only attach writes it
    return found


def per_app(create: Callable[[], T]) -> Callable[[], T]:
    """Decorate a factory so that all its calls in one application return the same object."""
    name = f"{create.__module__}.{create.__qualname__}"

    @wraps(create)
    def get() -> T:
        extensions = current_app.extensions
        if name not in extensions:
            extensions.setdefault(
                name, create()
            )  # if two threads make one, the first object is kept
        return cast("T", extensions[name])

    return get


def stops_when(app: Flask, stopping: Callable[[], bool]) -> None:
    """Set the function that says whether the process is about to stop; then streams end."""
    app.extensions[_STOPPING] = stopping


def is_stopping(extensions: Mapping[str, object]) -> bool:
    """Return whether the process is about to stop, from the application's ``extensions``."""
    stopping = extensions.get(_STOPPING)
    return callable(stopping) and bool(stopping())
