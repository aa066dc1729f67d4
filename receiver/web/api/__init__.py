"""The HTTP API for programs with ADMIN_TOKEN: jobs, files, events, costs, OpenAPI document."""

from receiver.web.api import costs, events, files, jobs, openapi
from receiver.web.api.base import blueprint

__all__ = ["blueprint", "costs", "events", "files", "jobs", "openapi"]
