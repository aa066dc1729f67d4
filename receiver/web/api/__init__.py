"""The API for those who have ADMIN_TOKEN: jobs, their pictures, events, the audit, and the description of it all."""

from receiver.web.api import events, files, jobs, live_events, openapi
from receiver.web.api.base import blueprint

__all__ = ["blueprint", "events", "files", "jobs", "live_events", "openapi"]
