"""The dashboard: pages made by the server, kept up to date by htmx; they work without it too."""

from receiver.web.dashboard import actions, compare, gallery, jobs, login, problems, submit
from receiver.web.dashboard.base import blueprint, stranger_message

__all__ = [
    "actions",
    "blueprint",
    "compare",
    "gallery",
    "jobs",
    "login",
    "problems",
    "stranger_message",
    "submit",
]
