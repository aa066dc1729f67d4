"""Crashes: kill -9 of every process at any instant and at every failpoint; and restarts."""

import os
import signal
from collections.abc import Callable
from functools import partial

from waiting import until

from receiver.failpoints import Point
from tests.prove.environment import Environment, Play, kill, migrated
from tests.prove.fault import Fault
from tests.prove.faults.older import older_ledger

_KILLS = 2  # in one round
# Reached by the worker only; every other point is reached by the web, or by both.
_WORKERS_OWN = (Point.FETCHED, Point.STORED, Point.FINISHED, Point.MANIFEST_STORED)


def _at_point(point: Point) -> Play:
    def play(env: Environment) -> None:
        env.start_and_wait()
        with env.load():
            for _ in range(_KILLS):
                env.moment()
                with env.recovering(f"kill -9 at {point}", worker=point in _WORKERS_OWN):
                    env.arm(point)

    return play


def _at_random(
    what: str, strike: Callable[[Environment], None], *, worker: bool = False, restart: bool = False
) -> Play:
    """Kill at random instants; ``restart`` the service where no supervisor is left."""

    def play(env: Environment) -> None:
        env.start_and_wait()
        with env.load():
            for _ in range(_KILLS):
                env.moment()
                if restart:
                    strike(env)
                with env.recovering(what, worker=worker):
                    if restart:
                        env.start()
                    else:
                        strike(env)

    return play


def _kill_web_worker(env: Environment) -> None:
    (arbiter,) = env.children("gunicorn")
    kill([env.random.choice(until(partial(env.children, "gunicorn", arbiter)))])


def _kill_arbiter(env: Environment) -> None:
    kill(env.children("gunicorn"))


def _kill_worker(env: Environment) -> None:
    kill(env.children("receiver worker"))


def _kill_supervisor(env: Environment) -> None:
    """Kill the supervisor. The kernel asks its children to stop; wait for them, as systemd does."""
    os.kill(env.service.pid, signal.SIGKILL)
    env.service.process.wait()
    until(lambda: not env.service.members(), within=30, what="that nothing of it lives on")


def _kill_tree(env: Environment) -> None:
    env.service.kill()


def _deploy(env: Environment) -> None:
    status = env.service.stop(within=30)
    assert status == 0, f"SIGTERM ended it with {status}:\n{env.service.output()[-3000:]}"


def _reload(env: Environment) -> None:
    """Send SIGHUP several times: new processes take over, and every callback is answered."""
    env.start_and_wait()
    with env.load():
        for number in range(_KILLS):
            env.moment()
            os.kill(env.service.pid, signal.SIGHUP)
            env.service.says('"service reloaded"', times=number + 1, within=60)
    env.cut = [error for _, error in env.seen.cut] + env.customer.cut


def _during_migration(env: Environment) -> None:
    """Kill it during a migration of an older ledger with jobs, and start it again."""
    older_ledger(env, jobs=20)
    env.faults.mkdir()
    armed = env.faults / Point.MIGRATED
    for _ in range(2):
        armed.touch()
        if env.setup.ledger == "postgresql":
            done = migrated(env)
            assert done.status == -signal.SIGKILL, done.err
        else:
            env.start()
            assert env.service.process.wait(60) == -signal.SIGKILL, env.service.output()
        assert not armed.exists()
    with env.load(least=5, most=5), env.recovering("kill -9 during migration", worker=True):
        env.start()


CRASHES = (
    Fault(
        "kill tree",
        _at_random("kill -9 of all", _kill_tree, worker=True, restart=True),
        10,
    ),
    *(
        Fault(f"kill at {point}", _at_point(point))
        for point in (*_WORKERS_OWN, Point.BEFORE_COMMIT, Point.AFTER_COMMIT)
    ),
    Fault(f"kill at {Point.POSTED}", _at_point(Point.POSTED)),
    Fault(f"kill at {Point.WRITTEN_DOWN}", _at_point(Point.WRITTEN_DOWN), 10),
    Fault(f"kill at {Point.MIGRATED}", _during_migration, 8),
    Fault(
        "kill worker",
        _at_random("kill -9 of the worker", _kill_worker, worker=True),
        8,
    ),
    Fault("kill web worker", _at_random("kill -9 of a gunicorn worker", _kill_web_worker)),
    Fault("kill arbiter", _at_random("kill -9 of gunicorn's arbiter", _kill_arbiter), 8),
    Fault(
        "kill supervisor",
        _at_random("kill -9 of the supervisor", _kill_supervisor, worker=True, restart=True),
        12,
    ),
    Fault("reload", _reload, 15),
    Fault("deploy", _at_random("SIGTERM and start", _deploy, worker=True, restart=True), 12),
)
