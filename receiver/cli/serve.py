"""``receiver serve``: web and worker in one process tree."""

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from receiver import data_dir
from receiver.cli.base import load, reports_errors, say
from receiver.errors import ReceiverError
from receiver.server.child import die_with_parent
from receiver.server.listening import listen, url_of
from receiver.server.supervisor import become_supervisor
from receiver.telemetry import metric_files, tracing

if TYPE_CHECKING:
    from receiver.services import Services


@click.command()
@click.option(
    "--host",
    help="Address to listen on; :: for every interface, IPv6 and IPv4.  "
    "[default: HOST; else every interface if PORT is set, or 127.0.0.1]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: PORT, else 8787]"
)
@reports_errors
def serve(host: str | None, port: int | None) -> None:
    """Run web and worker in one supervised process tree.

    SIGTERM drains both.
    """
    settings = load()
    tracing.require_packages(os.environ)  # both children would report it, again and again
    data_dir.make_data_dir(settings.data_dir)
    data_dir.require_writable(settings.data_dir)
    data_dir.warn_of_root()
    metric_files.share(settings.data_dir)
    from receiver.services import Services  # noqa: PLC0415 - it creates metrics: after share

    services = Services(settings)
    _migrate_apart(services)
    services.open().close()
    assert services.tickets  # noqa: S101 - creates the secret now, before two processes need it
    place = settings.listen_host if host is None else host
    with listen(place, settings.port if port is None else port) as listener:
        _announce(services, url_of(listener))
        metric_files.forget()
        become_supervisor(listener, settings.log_level, settings.log_format)


def _migrate_apart(services: "Services") -> None:
    """Migrate an old embedded ledger in another process.

    Here the packages for migrations would stay: 9 MB that all processes of the service inherit.
    What goes wrong is not reported here: the ledger is opened again, with the same error.
    """
    if not _needs_migration(services):
        return
    services.close()
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            # As if the signal had been for this process, which is restarted then.
            os.kill(os.getpid(), os.WTERMSIG(status))
        return
    try:
        die_with_parent()
        with suppress(Exception):
            services.open()
    finally:
        os._exit(0)


def _needs_migration(services: "Services") -> bool:
    try:
        return services.settings.embedded and services.needs_migration()
    except ReceiverError:
        return False


def _announce(services: "Services", url: str) -> None:
    """Print the address, where data is kept, and what is not possible without a setting."""
    settings = services.settings
    say(f"receiver on {url}", err=True)
    say(f"  archive  {settings.archive_url}", err=True)
    say(f"  ledger   {settings.data_dir if settings.embedded else 'PostgreSQL'}", err=True)
    if settings.admin_token is None:
        # Shown once: logs are kept, and read by more people than the file.
        is_new = not services.admin_token_path.exists()
        shown = services.admin_token if is_new else f"is in {services.admin_token_path}"
        say(f"  ADMIN_TOKEN {shown}", err=True)
    if settings.public_url is None:
        say(
            "  PUBLIC_URL is not set: callbacks cannot be requested, results are only polled",
            err=True,
        )
    if not settings.accounts():
        say("  GRSAI_API_KEY is not set: a job whose callback is lost cannot be polled", err=True)
