"""The dashboard: pages rendered on the server, refreshed by htmx; they work without scripts."""

from receiver.web.dashboard import (
    actions,
    batches,
    compare,
    gallery,
    jobs,
    login,
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
    "gallery",
    "jobs",
    "login",
    "public_error_page",
    "status",
    "submit",
    "zip_files",
]
