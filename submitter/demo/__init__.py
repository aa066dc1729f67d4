"""``submitter demo``: the main job on this machine, from submit to pictures with checked bytes."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from receiver.cli.base import SOME_FAILED, reports_errors
from receiver.cli.terminal import console, new_table
from receiver.errors import ConfigurationError
from receiver.jobs.job_object import JobView
from receiver.ledger.queries.audit import Audit
from receiver.services import Services
from receiver.settings import Settings
from receiver.telemetry.printable import printable
from submitter.demo.checks import JobCheck, check_job, table
from submitter.demo.environment import Environment, free_port, live_environ, sandbox_environ
from submitter.demo.jobs import DEMO_JOBS, LIVE_JOBS, DemoJob
from submitter.submit import Submitter

# Seconds for all jobs together; a real provider takes minutes.
SANDBOX_TIMEOUT, LIVE_TIMEOUT = 90.0, 1800.0
# Jobs submitted in parallel.
SUBMITTERS = 4


@click.command()
@click.option("--keep", is_flag=True, help="Leave the service running at the end.")
@click.option(
    "--live",
    is_flag=True,
    help="Use the real API (costs money): needs GRSAI_API_KEY and PUBLIC_URL.",
)
@reports_errors
def demo(*, keep: bool, live: bool) -> None:
    """Run the main job end to end and check every byte.

    Exit status 0 if everything is as promised, else 1.
    """
    output = console()
    folder = (
        Path(os.environ.get("DATA_DIR", "data")).resolve() / "demo" / time.strftime("%Y%m%d-%H%M%S")
    )
    environment = Environment(
        live_environ(folder) if live else sandbox_environ(os.environ, folder), folder / "logs"
    )
    try:
        sandbox_url = None if live else _start_sandbox(environment)
        settings = _start_receiver(environment)
        ok = _run(output, settings, LIVE_JOBS if live else DEMO_JOBS, sandbox_url)
        output.print(f"archive  {settings.archive_url}\nlogs     {environment.logs}", markup=False)
        if keep:
            _print_running(output, environment, settings)
            environment.processes.clear()
    finally:
        environment.stop()
    sys.exit(0 if ok else SOME_FAILED)


def _start_sandbox(environment: Environment) -> str:
    """Start the sandbox, set the variables that point to it, and return its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment.start("sandbox", "submitter", "sandbox", "--port", str(port))
    environment.environ |= {
        "GRSAI_BASE_URL": url,
        "GRSAI_API_KEY": "demo",
        "FETCH_ALLOW": f"127.0.0.1:{port}",
        "PORT": str(free_port()),
        "FAL_KEY": "demo",
        "FAL_BASE_URL": f"{url}/fal",
        "FAL_JWKS_URL": f"{url}/fal/.well-known/jwks.json",
        "REPLICATE_API_TOKEN": "demo",
        "REPLICATE_BASE_URL": f"{url}/replicate",
        "BFL_API_KEY": "demo",
        "BFL_BASE_URL": f"{url}/bfl",
        "KIE_API_KEY": "demo",
        "KIE_BASE_URL": f"{url}/kie",
        # So that a lost callback does not cost two minutes.
        "POLL_AFTER": "6",
        "POLL_INTERVAL": "1",
    }
    environment.environ["PUBLIC_URL"] = f"http://127.0.0.1:{environment.environ['PORT']}"
    environment.wait_for("sandbox", f"{url}/sandbox/stats")
    return url


def _start_receiver(environment: Environment) -> Settings:
    """Start the service with its defaults; return the settings that all commands use."""
    settings = Settings.load(environment.environ)
    missing = [
        f"{name}: not set; the real API needs it"
        for name in ("GRSAI_API_KEY", "PUBLIC_URL")
        if not environment.environ.get(name)
    ]
    if missing:
        raise ConfigurationError(missing)
    # The real provider calls from outside, perhaps through a proxy before this port.
    host = "127.0.0.1" if settings.grsai_base_url.startswith("http://127.0.0.1:") else "0.0.0.0"  # noqa: S104 - asked for with --live
    environment.start("receiver", "receiver", "serve", "--host", host, "--port", str(settings.port))
    environment.wait_for("receiver", f"http://127.0.0.1:{settings.port}/readyz")
    return settings


def _run(
    output: Console, settings: Settings, demo_jobs: tuple[DemoJob, ...], sandbox_url: str | None
) -> bool:
    """Submit every job, wait, check; return whether everything is as promised."""
    timeout = LIVE_TIMEOUT if sandbox_url is None else SANDBOX_TIMEOUT
    with Submitter(settings) as submitter:
        refs = _submit_all(submitter, demo_jobs)
        _watch(output, submitter, dict(zip(refs, demo_jobs, strict=True)), timeout)
    with closing(Services(settings).open()) as services:
        checks = [
            check_job(services, demo_job, ref, sandbox_url)
            for ref, demo_job in zip(refs, demo_jobs, strict=True)
        ]
        audit = services.totals.audit()
    output.print(table(checks))
    return _print_result(output, checks, audit)


def _submit_all(submitter: Submitter, demo_jobs: tuple[DemoJob, ...]) -> list[str]:
    def submit(demo_job: DemoJob) -> str:
        return submitter.submit(
            demo_job.prompt,
            model=demo_job.model,
            size=demo_job.size,
            variants=demo_job.variants,
            params=demo_job.params,
            provider=demo_job.provider,
        ).ref

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        return list(pool.map(submit, demo_jobs))


def _watch(
    output: Console, submitter: Submitter, demo_jobs: dict[str, DemoJob], timeout: float
) -> None:
    """Show the progress until all jobs are final or ``timeout`` seconds have passed."""
    seen: dict[str, JobView] = {}
    with Live(console=output, transient=True, auto_refresh=False) as live:

        def show(job: JobView) -> None:
            seen[job.ref] = job
            live.update(_progress(demo_jobs, seen), refresh=True)

        try:
            submitter.wait(list(demo_jobs), timeout=timeout, watch=show)
        except TimeoutError as error:
            output.print(Text(printable(str(error)), "red"))


def _progress(demo_jobs: dict[str, DemoJob], seen: dict[str, JobView]) -> Table:
    shown = new_table("job", "what it shows", "state", "progress")
    for ref, demo_job in demo_jobs.items():
        job = seen.get(ref)
        if job is not None:
            bar = f"{'█' * (job.progress // 5):<20} {job.progress} %"
            shown.add_row(ref, demo_job.title, job.state, bar)
    return shown


def _print_result(output: Console, checks: list[JobCheck], audit: Audit) -> bool:
    """Print what was checked and every problem; return whether there is none."""
    problems = [
        f"{check.demo_job.title} ({check.job.ref}) {text}"
        for check in checks
        for text in check.problems
    ]
    problems += [
        f"broken invariant: {invariant}: {', '.join(refs)}"
        for invariant, refs in audit.broken.items()
    ]
    if audit.difference:
        problems.append(f"{audit.difference} jobs are in no state")
    output.print(
        f"submitted {audit.submitted} = {audit.archived} archived + {audit.failed} failed "
        f"+ {audit.expired} expired + {audit.in_flight} in flight"
    )
    for text in problems:
        output.print(Text(printable(f"✗ {text}"), "red"))
    if not problems:
        objects = sum(len(check.archived) for check in checks)
        output.print(
            f"[green]✓ all as promised:[/] {len(checks)} jobs, {objects} objects, "
            "every SHA-256 checked, each job posted once"
        )
    return not problems


def _print_running(output: Console, environment: Environment, settings: Settings) -> None:
    pids = " ".join(str(process.pid) for process in reversed(environment.processes.values()))
    token = Services(settings).admin_token
    url = f"http://127.0.0.1:{settings.port}"
    output.print(
        f"still running: {url}  ADMIN_TOKEN {token}\nstop with: kill {pids}", soft_wrap=True
    )
