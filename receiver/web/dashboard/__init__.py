"""The dashboard: pages made by the server, kept up to date by htmx; they work without it too."""

from receiver.web.dashboard import actions, compare, gallery, jobs, login, submit, watch
from receiver.web.dashboard.frame import blueprint, stranger_message

__all__ = ["actions", "blueprint", "compare", "gallery", "jobs", "login", "stranger_message", "submit", "watch"]
