"""Commands that run the service."""

import os
import signal

import click

from receiver.cli.base import load, reports_errors
from receiver.errors import ConfigurationError
from receiver.server import supervisor
from receiver.server.child import say_ready
from receiver.server.listening import listen, url_of
from receiver.services import Services
from receiver.telemetry import metric_files, tracing


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for every interface.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: PORT, else 8787]"
)
@reports_errors
def serve(host: str, port: int | None) -> None:
    """Run web and worker in one supervised process tree; SIGTERM drains."""
    settings = load()
    services = Services(settings).open()
    services.close()
    assert services.tickets  # noqa: S101 - made and kept before two processes ask for it
    with listen(host, settings.port if port is None else port) as listener:
        _announce(services, url_of(listener))
        supervisor.serve(listener)


def _announce(services: Services, url: str) -> None:
    """Say where the service is, where it keeps what, and what it cannot do for want of a setting."""
    settings = services.settings
    click.echo(f"receiver on {url}", err=True)
    click.echo(f"  archive  {settings.archive_url}", err=True)
    click.echo(f"  ledger   {settings.data_dir if settings.embedded else 'PostgreSQL'}", err=True)
    if settings.admin_token is None:
        click.echo(f"  ADMIN_TOKEN {services.admin_token}", err=True)
    if settings.public_url is None:
        click.echo(
            "  PUBLIC_URL is not set: callbacks cannot be asked for, results are polled only",
            err=True,
        )
    if settings.grsai_api_key is None:
        click.echo(
            "  GRSAI_API_KEY is not set: a job whose callback is lost cannot be polled", err=True
        )


@click.command()
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Show this machine's figures at this port; web shows those of its own.",
)
@click.option(
    "--metrics-host", default="127.0.0.1", show_default=True, help="Address for --metrics-port."
)
@reports_errors
def worker(metrics_port: int | None, metrics_host: str) -> None:
    """Archive, poll and conclude until SIGTERM."""
    services = Services(load()).open()
    metric_files.prepare(services.settings.data_dir)
    metric_files.reserve_room()
    tracing.configure(os.environ)
    metric_files.show()
    if metrics_port is not None:
        _show_metrics(metrics_host, metrics_port)
    say_ready()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: services.engine.stop())
    services.worker().run()
    services.close()


def _show_metrics(host: str, port: int) -> None:
    try:
        click.echo(f"metrics on http://{host}:{metric_files.serve(host, port)}", err=True)
    except OSError as error:
        raise ConfigurationError(
            [f"--metrics-port: cannot listen on {host}:{port} ({error.strerror}); choose another"]
        ) from error
