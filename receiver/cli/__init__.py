"""The ``receiver`` command."""

import click

from receiver.cli import doctor, events, jobs, laws, ledger, processes


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Receive the callbacks of paid image generation and archive the pictures before their URLs expire."""


for command in (
    processes.serve,
    processes.worker,
    ledger.migrate,
    ledger.prune,
    doctor.doctor,
    laws.audit,
    laws.rebuild,
    jobs.jobs,
    jobs.show,
    jobs.retry,
    jobs.replay,
    events.listen,
    events.events,
    events.resend,
):
    main.add_command(command)
