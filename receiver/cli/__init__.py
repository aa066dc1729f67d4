"""The ``receiver`` command."""

import click

from receiver.cli import jobs, laws, processes


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Receive the callbacks of paid image generation and archive the pictures before their URLs expire."""


for command in (
    processes.serve,
    processes.worker,
    processes.migrate,
    laws.audit,
    jobs.jobs,
    jobs.show,
    jobs.retry,
    jobs.replay,
):
    main.add_command(command)
