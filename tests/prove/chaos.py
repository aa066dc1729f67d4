"""``make prove ENGINE=distributed``, first part: PostgreSQL and the network fail, then all is fast.

One installation with PostgreSQL and S3. Before and after each fault the same number of jobs is
ordered several times, and throughput is compared: by the clock, and by the service's processor time
per job, which says more on a machine that is busy. Under the fault the usual load goes on, and at
the end all promises are checked as in ``run.py``.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import click
import psycopg

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from postgres import KillablePostgres, killable_postgres  # noqa: E402 - found by way of the line above
from relay import Relay, relay  # noqa: E402 - as above
from seaweed import seaweedfs  # noqa: E402
from sqlalchemy import make_url  # noqa: E402
from waiting import until  # noqa: E402

from receiver.model import FINAL_STATES  # noqa: E402
from receiver.services import Services  # noqa: E402
from tests.prove import history  # noqa: E402
from tests.prove.check_history import check  # noqa: E402
from tests.prove.environment import Environment, kill, prepared  # noqa: E402
from tests.prove.load import MENU, Menus, Orders  # noqa: E402
from tests.prove.promises import examine  # noqa: E402
from tests.prove.setups import POSTGRESQL_S3, Servers  # noqa: E402

HISTORY = ROOT / "build/prove/chaos.jsonl"
# Jobs of one measurement, and measurements before and after each fault.
_JOBS, _TIMES = 40, 5
_CUT = 8.0  # seconds
# Short enough for the run; long enough that no job expires because PostgreSQL is away.
_SETTINGS = {"POLL_AFTER": "10", "POLL_INTERVAL": "5", "JOB_TIMEOUT": "120"}


@dataclass(frozen=True, slots=True)
class Speed:
    """Jobs per second by the clock, and milliseconds of the service's processor time per job."""

    per_second: float
    processor: float


class Chaos:
    """The installation, its PostgreSQL and what is between them."""

    def __init__(
        self, env: Environment, server: KillablePostgres, between: Relay, url: str
    ) -> None:
        self.env, self._server, self._between = env, server, between
        self._direct = url
        self._number = 0

    # Faults: each ends when everything is whole again.

    def wait(self) -> None:
        """Break nothing: what changes then is noise, which the other lines have, too."""

    def restart(self) -> None:
        """Kill PostgreSQL and start it again."""
        self._server.kill()
        self._server.start()

    def kill_backends(self) -> None:
        """End all connections of the service, three times."""
        for _ in range(3):
            with self._connection() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            time.sleep(1)

    def exhaust(self) -> None:
        """Take every connection that the server has, for some seconds."""
        with ExitStack() as stack:
            self.kill_backends()
            end = time.monotonic() + _CUT
            while time.monotonic() < end:
                try:
                    stack.enter_context(self._connection())
                except psycopg.OperationalError:
                    time.sleep(0.05)  # no connection is left; the service may have returned one

    def kill_worker(self) -> None:
        """Kill the worker."""
        kill(self.env.children("receiver worker"))

    def kill_often(self) -> None:
        """Kill worker and web processes five times, a second apart."""
        for _ in range(5):
            kill(self.env.children("receiver worker"))
            (arbiter,) = until(partial(self.env.children, "gunicorn"))
            kill(self.env.children("gunicorn", arbiter)[:1])
            time.sleep(1)

    def lose_bytes(self) -> None:
        """Lose everything between the service and PostgreSQL; no connection is closed."""
        with self._between.lossy():
            time.sleep(_CUT)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self._direct, autocommit=True) as connection:
            yield connection

    # Measurements.

    def speeds(self, services: Services) -> list[Speed]:
        """Measure some times how fast jobs are done."""
        return [self._speed(services) for _ in range(_TIMES)]

    def _speed(self, services: Services) -> Speed:
        began, before = time.monotonic(), self._processor()
        self._number += 1
        menu: Menus = {f"measured {self._number},": ({},)}
        orders = Orders(self.env.customer, menu, Random(1), _JOBS, _JOBS)  # noqa: S311 - repeatable
        orders.start()
        orders.stop()
        until(partial(_all_final, services), within=120, what="that all jobs are final")
        after = self._processor()
        used = sum(after[pid] - before[pid] for pid in after.keys() & before.keys())
        return Speed(_JOBS / (time.monotonic() - began), 1000 * used / _JOBS)

    def _processor(self) -> dict[int, float]:
        """Return the seconds that each process of the service has used."""
        found = {}
        for pid in self.env.service.members():
            with suppress(OSError):
                text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
                fields = text.rpartition(")")[2].split()
                found[pid] = (int(fields[11]) + int(fields[12])) / 100
        return found


def _all_final(services: Services) -> bool:
    counts = services.totals.counts()
    return not any(number for state, number in counts.items() if state not in FINAL_STATES)


FAULTS: dict[str, Callable[[Chaos], None]] = {
    "nothing": Chaos.wait,
    "PostgreSQL restarted": Chaos.restart,
    "backends killed": Chaos.kill_backends,
    "connections exhausted": Chaos.exhaust,
    "worker killed": Chaos.kill_worker,
    "repeated kills": Chaos.kill_often,
    "packets dropped": Chaos.lose_bytes,
}


@click.command()
@click.option("--fault", "names", type=click.Choice(list(FAULTS)), multiple=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(names: tuple[str, ...], seed: int) -> None:
    """Break PostgreSQL and the network, and compare throughput before and after."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    (folder / "round-0").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(killable_postgres())
        servers = Servers(stack.enter_context(seaweedfs()).url, server)
        dice = Random(seed)  # noqa: S311 - no secret
        env = stack.enter_context(
            prepared(folder / "round-0", POSTGRESQL_S3, servers, dice, settings=_SETTINGS)
        )
        direct = make_url(env.installation.environ["DATABASE_URL"])
        between = stack.enter_context(relay(f"{direct.query['host']}/.s.PGSQL.5432"))
        address = f"postgresql://postgres@127.0.0.1:{between.port}/{direct.database}"
        env.installation.environ["DATABASE_URL"] = address
        plain = direct.set(drivername="postgresql").render_as_string(hide_password=False)
        broken = _play(Chaos(env, server, between, plain), tuple(dict.fromkeys(names or FAULTS)))
    click.echo("\n".join(broken) or "nothing was lost, every promise was kept")
    if broken:
        sys.exit(f"evidence in {folder}")
    shutil.rmtree(folder)


def _play(chaos: Chaos, names: tuple[str, ...]) -> list[str]:
    env = chaos.env
    env.start_and_wait()
    with env.services() as services:
        chaos.speeds(services)  # warm
        before = chaos.speeds(services)
        for name in names:
            with env.load(least=60, most=200, menus={name: MENU}):
                env.moment()
                with env.recovering(name):
                    FAULTS[name](chaos)
            until(partial(_all_final, services), within=180, what=f"all final after {name}")
            after = chaos.speeds(services)
            click.echo(_line(name, before, after, env.recoveries[-1].seconds))
            before = after
    broken = [f"BROKEN: {one.promise}: {one.about}: {one.detail}" for one in env.quiet()]
    evidence = env.evidence()
    HISTORY.parent.mkdir(parents=True, exist_ok=True)
    history.write(HISTORY, 0, names, POSTGRESQL_S3.name, evidence)
    broken += [f"BROKEN: {one.promise}: {one.about}: {one.detail}" for one in examine(evidence)]
    click.echo(f"{len(evidence.jobs)} jobs, {len(evidence.acknowledged)} reports acknowledged")
    return broken + check(HISTORY.read_text(encoding="utf-8"))[1]


def _line(name: str, before: list[Speed], after: list[Speed], recovery: float) -> str:
    """Compare the medians: more than 1 means faster than before."""
    clock = [statistics.median(one.per_second for one in speeds) for speeds in (before, after)]
    used = [statistics.median(one.processor for one in speeds) for speeds in (before, after)]
    return (
        f"{name:<22} recovery {recovery:5.1f} s   "
        f"{clock[0]:5.1f} -> {clock[1]:5.1f} jobs/s ({clock[1] / clock[0]:.2f})   "
        f"{used[0]:5.1f} -> {used[1]:5.1f} ms of processor per job ({used[0] / used[1]:.2f})"
    )


if __name__ == "__main__":
    main()
