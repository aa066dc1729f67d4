"""``receiver worker``: archive, poll and conclude."""

import gc
import os
import signal
from typing import TYPE_CHECKING

import click

from receiver import data_dir
from receiver.cli.base import load, reports_errors, say
from receiver.errors import ConfigurationError
from receiver.server.child import is_supervised, report_ready
from receiver.telemetry import metric_files, tracing

if TYPE_CHECKING:
    from receiver.services import Services


@click.command()
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve health checks and this machine's metrics at this port; the web serves those of its "
    "own machine.",
)
@click.option(
    "--metrics-host", default="127.0.0.1", show_default=True, help="Address for --metrics-port."
)
@reports_errors
def worker(metrics_port: int | None, metrics_host: str) -> None:
    """Archive, poll and conclude until SIGTERM."""
    settings = load()
    data_dir.make_data_dir(settings.data_dir)
    data_dir.require_writable(settings.data_dir)
    if not is_supervised(os.environ):  # then `receiver serve` has said it
        data_dir.warn_of_root()
    metric_files.share(settings.data_dir)
    from receiver.services import Services  # noqa: PLC0415 - it creates metrics: after share

    services = Services(settings).open()
    tracing.configure(os.environ)
    if metrics_port is not None:
        _serve_health(services, metrics_host, metrics_port)
    gc.freeze()  # what lives as long as the process need not be looked through again
    report_ready()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: services.engine.stop())
    services.worker().run()
    services.close()


def _serve_health(services: "Services", host: str, port: int) -> None:
    from receiver.server import health_port  # noqa: PLC0415 - most workers have no port
    from receiver.web import create_health_app  # noqa: PLC0415 - as above

    try:
        number = health_port.serve(create_health_app(services), host, port)
    except OSError as error:
        raise ConfigurationError(
            [f"--metrics-port: cannot listen on {host}:{port} ({error.strerror}); choose another"]
        ) from error
    say(f"health checks and metrics on http://{host}:{number}", err=True)
