"""The HTTP API for programs with ADMIN_TOKEN: jobs, files, events, audit, OpenAPI document."""

from receiver.web.api import events, files, jobs, openapi
from receiver.web.api.base import blueprint

__all__ = ["blueprint", "events", "files", "jobs", "openapi"]
