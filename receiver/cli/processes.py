"""Commands that run the service, and the one that prepares its ledger."""

import signal

import click

from receiver import supervisor
from receiver.cli.frame import errors_told, load
from receiver.ledger import schema
from receiver.services import Services
from receiver.worker import work


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for every interface.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: PORT, else 8787]")
@errors_told
def serve(host: str, port: int | None) -> None:
    """Run web and worker in one supervised process tree; SIGTERM drains."""
    settings = load()
    services = Services(settings).open()
    port = settings.port if port is None else port
    click.echo(f"receiver on http://{host}:{port}", err=True)
    click.echo(f"  archive  {settings.archive_url}", err=True)
    click.echo(f"  ledger   {settings.data_dir if settings.embedded else 'PostgreSQL'}", err=True)
    if settings.admin_token is None:
        click.echo(f"  ADMIN_TOKEN {services.admin_token}", err=True)
    if settings.public_url is None:
        click.echo("  PUBLIC_URL is not set: callbacks cannot be asked for, results are polled only", err=True)
    if settings.grsai_api_key is None:
        click.echo("  GRSAI_API_KEY is not set: a job whose callback is lost cannot be polled", err=True)
    assert services.tickets  # noqa: S101 - made and kept before two processes ask for it
    services.close()
    supervisor.serve(host, port)


@click.command()
@errors_told
def worker() -> None:
    """Archive, poll and conclude until SIGTERM."""
    services = Services(load()).open()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: services.engine.stop())
    work(services)
    services.close()


@click.command()
@errors_told
def migrate() -> None:
    """Bring the ledger's schema to this release."""
    settings = load()
    schema.migrate(settings.database_url)
    click.echo(f"the ledger's schema is {schema.HEAD}")
