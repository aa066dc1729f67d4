"""The ``submitter`` command."""

from receiver.cli.base import Commands

main = Commands(
    {
        "submit": "submitter.cli.submit",
        "batch": "submitter.batch.command",
        "credits": "submitter.cli.credits",
        "demo": "submitter.demo",
        "sandbox": "submitter.sandbox.command",
        "mcp": "submitter.mcp_server",
    },
    name="submitter",
    help="Post image jobs; the receiver archives their pictures.",
)
