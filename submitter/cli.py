"""The ``submitter`` command."""

from receiver.cli.base import Commands

main = Commands(
    {
        "submit": "submitter.command",
        "batch": "submitter.batch.command",
        "credits": "submitter.credits",
        "demo": "submitter.demo",
        "sandbox": "submitter.sandbox.command",
    },
    name="submitter",
    help="Post image jobs whose pictures the receiver brings home.",
)
