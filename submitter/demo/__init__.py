"""``submitter demo``: the whole way on this machine, from posting jobs to pictures whose bytes are checked."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from receiver.cli.base import SOME_FAILED, console, reports_errors
from receiver.errors import ConfigurationError
from receiver.jobs.schemas import JobView
from receiver.ledger.queries.audit import Audit
from receiver.services import Services
from receiver.settings import Settings
from submitter.demo.checks import Finding, look, table
from submitter.demo.environment import Stage, free_port, live_environ, own_environ
from submitter.demo.jobs import LIVE_SCENES, SCENES, Scene
from submitter.submit import Submitter

# Seconds all jobs together may take; a real provider takes its minutes.
SANDBOX_PATIENCE, LIVE_PATIENCE = 90.0, 1800.0
# Jobs handed in side by side.
SUBMITTERS = 4


@click.command()
@click.option("--keep", is_flag=True, help="Leave the service running afterwards.")
@click.option(
    "--live",
    is_flag=True,
    help="Use the real API (costs money): needs GRSAI_API_KEY and PUBLIC_URL.",
)
@reports_errors
def demo(*, keep: bool, live: bool) -> None:
    """Run the main job end to end and check every byte. Exit status 0 only if all is as promised."""
    screen = console()
    folder = (
        Path(os.environ.get("DATA_DIR", "data")).resolve() / "demo" / time.strftime("%Y%m%d-%H%M%S")
    )
    stage = Stage(
        live_environ(folder) if live else own_environ(os.environ, folder), folder / "logs"
    )
    try:
        sandbox_url = None if live else _start_sandbox(stage)
        settings = _start_receiver(stage)
        ok = _perform(screen, settings, LIVE_SCENES if live else SCENES, sandbox_url)
        screen.print(f"archive  {settings.archive_url}\nlogs     {stage.logs}")
        if keep:
            _tell_kept(screen, stage, settings)
            stage.processes.clear()
    finally:
        stage.stop()
    sys.exit(0 if ok else SOME_FAILED)


def _start_sandbox(stage: Stage) -> str:
    """Start the stand-in for GRSAI and point the environment to it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    stage.start("sandbox", "submitter", "sandbox", "--port", str(port))
    stage.environ |= {
        "GRSAI_BASE_URL": url,
        "GRSAI_API_KEY": "demo",
        "FETCH_ALLOW": f"127.0.0.1:{port}",
        "PORT": str(free_port()),
        # A lost callback shall not make anybody wait two minutes.
        "POLL_AFTER": "6",
        "POLL_INTERVAL": "1",
    }
    stage.environ["PUBLIC_URL"] = f"http://127.0.0.1:{stage.environ['PORT']}"
    stage.wait_for("sandbox", f"{url}/sandbox/stats")
    return url


def _start_receiver(stage: Stage) -> Settings:
    """Start the service on the embedded default; return the settings its commands share."""
    settings = Settings.load(stage.environ)
    missing = [
        f"{name}: not set; the real API needs it"
        for name in ("GRSAI_API_KEY", "PUBLIC_URL")
        if not stage.environ.get(name)
    ]
    if missing:
        raise ConfigurationError(missing)
    # The real provider calls from outside, through whatever stands before this port.
    host = "127.0.0.1" if settings.grsai_base_url.startswith("http://127.0.0.1:") else "0.0.0.0"  # noqa: S104 - asked for with --live
    stage.start("receiver", "receiver", "serve", "--host", host, "--port", str(settings.port))
    stage.wait_for("receiver", f"http://127.0.0.1:{settings.port}/readyz")
    return settings


def _perform(
    screen: Console, settings: Settings, scenes: tuple[Scene, ...], sandbox_url: str | None
) -> bool:
    """Submit every scene, watch, check; say whether all is as promised."""
    with Submitter(settings) as submitter:
        refs = _submit_all(submitter, scenes)
        _watch(
            screen,
            submitter,
            dict(zip(refs, scenes, strict=True)),
            LIVE_PATIENCE if sandbox_url is None else SANDBOX_PATIENCE,
        )
    services = Services(settings).open()
    try:
        findings = [
            look(services, scene, ref, sandbox_url) for ref, scene in zip(refs, scenes, strict=True)
        ]
        found = services.totals.audit()
    finally:
        services.close()
    screen.print(table(findings))
    return _conclude(screen, findings, found)


def _submit_all(submitter: Submitter, scenes: tuple[Scene, ...]) -> list[str]:
    def submit(scene: Scene) -> str:
        return submitter.submit(
            scene.prompt,
            model=scene.model,
            size=scene.size,
            variants=scene.variants,
            params=scene.params,
        ).ref

    with ThreadPoolExecutor(SUBMITTERS) as hands:
        return list(hands.map(submit, scenes))


def _watch(
    screen: Console, submitter: Submitter, scenes: dict[str, Scene], patience: float
) -> None:
    """Show the jobs move until all are final, or the patience (seconds) is over."""
    seen: dict[str, JobView] = {}
    with Live(console=screen, transient=True, auto_refresh=False) as live:

        def show(job: JobView) -> None:
            seen[job.ref] = job
            live.update(_progress(scenes, seen), refresh=True)

        try:
            submitter.wait(list(scenes), timeout=patience, watch=show)
        except TimeoutError as error:
            screen.print(f"[red]{error}[/]")


def _progress(scenes: dict[str, Scene], seen: dict[str, JobView]) -> Table:
    shown = Table("job", "what it shows", "state", "progress")
    for ref, scene in scenes.items():
        job = seen.get(ref)
        if job is not None:
            shown.add_row(
                ref, scene.title, job.state, f"{'█' * (job.progress // 5):<20} {job.progress} %"
            )
    return shown


def _conclude(screen: Console, findings: list[Finding], found: Audit) -> bool:
    """Say what was checked and what is not as promised."""
    complaints = [
        f"{finding.scene.title} ({finding.job.ref}) {text}"
        for finding in findings
        for text in finding.complaints
    ]
    complaints += [f"broken law: {law}: {', '.join(refs)}" for law, refs in found.broken.items()]
    if found.difference:
        complaints.append(f"{found.difference} jobs are nowhere")
    figures = f"{found.archived} archived + {found.failed} failed + {found.expired} expired + {found.in_flight} in flight"
    screen.print(f"submitted {found.submitted} = {figures}")
    objects = sum(len(finding.stored) for finding in findings)
    for text in complaints:
        screen.print(f"[red]✗ {text}[/]")
    if not complaints:
        screen.print(
            f"[green]✓ all as promised:[/] {len(findings)} jobs, {objects} objects, every SHA-256 checked, each job posted once"
        )
    return not complaints


def _tell_kept(screen: Console, stage: Stage, settings: Settings) -> None:
    pids = " ".join(str(process.pid) for process in reversed(stage.processes.values()))
    token = Services(settings).admin_token
    screen.print(
        f"still running: http://127.0.0.1:{settings.port}  ADMIN_TOKEN {token}\nstop with: kill {pids}",
        soft_wrap=True,
    )
