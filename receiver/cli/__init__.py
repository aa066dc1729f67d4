"""The ``receiver`` command."""

from receiver.telemetry import structlog_alone  # noqa: F401, I001 - before all that imports structlog
from receiver.cli.base import Commands

main = Commands(
    {
        "serve": "receiver.cli.serve",
        "worker": "receiver.cli.worker",
        "migrate": "receiver.cli.ledger",
        "backup": "receiver.cli.ledger",
        "secrets": "receiver.cli.secrets",
        "adopt": "receiver.cli.adopt",
        "prune": "receiver.cli.ledger",
        "doctor": "receiver.cli.doctor",
        "audit": "receiver.cli.audit",
        "rebuild": "receiver.cli.audit",
        "jobs": "receiver.cli.jobs",
        "show": "receiver.cli.jobs",
        "get": "receiver.cli.get",
        "retry": "receiver.cli.jobs",
        "replay": "receiver.cli.jobs",
        "accept": "receiver.cli.jobs",
        "listen": "receiver.cli.events",
        "events": "receiver.cli.events",
        "resend": "receiver.cli.events",
    },
    name="receiver",
    help="Receive the callbacks of paid image generation, and archive the pictures before their"
    " URLs expire.",
)
