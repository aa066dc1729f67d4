"""The dashboard: pages rendered on the server, refreshed by htmx; they work without scripts."""

from receiver.web.dashboard import (
    actions,
    batches,
    compare,
    costs,
    events,
    gallery,
    jobs,
    login,
    over_time,
    reference,
    service,
    status,
    submit,
    zip_files,
)
from receiver.web.dashboard.base import blueprint, public_error_page

__all__ = [
    "actions",
    "batches",
    "blueprint",
    "compare",
    "costs",
    "events",
    "gallery",
    "jobs",
    "login",
    "over_time",
    "public_error_page",
    "reference",
    "service",
    "status",
    "submit",
    "zip_files",
]
