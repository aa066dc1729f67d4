"""The API for those who have ADMIN_TOKEN: jobs, their pictures, events, the audit, and the description of it all."""

from receiver.web.api import description, events, files, jobs, stream
from receiver.web.api.door import blueprint

__all__ = ["blueprint", "description", "events", "files", "jobs", "stream"]
