"""Crashes: kill -9 of every process at any instant and at every fault point, and the restarts that are no crash."""

import os
import signal
from collections.abc import Callable
from functools import partial

from waiting import until

from receiver.failpoints import Point
from tests.prove.environment import Play, Stage, kill, migrated
from tests.prove.fault import Fault
from tests.prove.faults.older import older_ledger

_BLOWS = 2  # in one round
# Reached by the worker alone; every other point is one of the web side, or of both.
_WORKERS_OWN = (Point.FETCHED, Point.STORED, Point.FINISHED, Point.MANIFEST_STORED)


def _at_point(point: Point) -> Play:
    def play(stage: Stage) -> None:
        stage.start_and_wait()
        with stage.load():
            for _ in range(_BLOWS):
                stage.moment()
                with stage.recovering(f"kill -9 at {point}", worker=point in _WORKERS_OWN):
                    stage.arm(point)

    return play


def _at_random(
    what: str, strike: Callable[[Stage], None], *, worker: bool = False, restart: bool = False
) -> Play:
    """Strike at random instants; ``restart`` where nobody is left who would start it again."""

    def play(stage: Stage) -> None:
        stage.start_and_wait()
        with stage.load():
            for _ in range(_BLOWS):
                stage.moment()
                if restart:
                    strike(stage)
                with stage.recovering(what, worker=worker):
                    if restart:
                        stage.start()
                    else:
                        strike(stage)

    return play


def _kill_web_worker(stage: Stage) -> None:
    (arbiter,) = stage.children("gunicorn")
    kill([stage.dice.choice(until(partial(stage.children, "gunicorn", arbiter)))])


def _kill_arbiter(stage: Stage) -> None:
    kill(stage.children("gunicorn"))


def _kill_worker(stage: Stage) -> None:
    kill(stage.children("receiver worker"))


def _kill_supervisor(stage: Stage) -> None:
    """Its children are asked to stop by the kernel; whoever starts it again waits for them, as systemd does."""
    os.kill(stage.service.pid, signal.SIGKILL)
    stage.service.process.wait()
    until(lambda: not stage.service.members(), within=30, what="that nothing of it lives on")


def _kill_tree(stage: Stage) -> None:
    stage.service.kill()


def _deploy(stage: Stage) -> None:
    status = stage.service.stop(within=30)
    assert status == 0, f"SIGTERM ended it with {status}:\n{stage.service.output()[-3000:]}"


def _reload(stage: Stage) -> None:
    """SIGHUP, again and again: new processes take over from the old ones, and no callback goes without its answer."""
    stage.start_and_wait()
    with stage.load():
        for number in range(_BLOWS):
            stage.moment()
            os.kill(stage.service.pid, signal.SIGHUP)
            stage.service.says('"reloaded"', times=number + 1, within=60)
    stage.cut = [error for _, error in stage.seen.cut] + stage.customer.cut


def _during_migration(stage: Stage) -> None:
    """Kill it while it changes the schema of an older ledger with jobs in it, and start it again."""
    older_ledger(stage, jobs=20)
    stage.faults.mkdir()
    armed = stage.faults / Point.MIGRATED
    for _ in range(2):
        armed.touch()
        if stage.setup.ledger == "postgresql":
            done = migrated(stage)
            assert done.status == -signal.SIGKILL, done.err
        else:
            stage.start()
            assert stage.service.process.wait(60) == -signal.SIGKILL, stage.service.output()
        assert not armed.exists()
    with stage.load(least=5, most=5), stage.recovering("kill -9 during migration", worker=True):
        stage.start()


CRASHES = (
    Fault(
        "kill tree",
        _at_random("kill -9 of all", _kill_tree, worker=True, restart=True),
        10,
        kills_worker=True,
    ),
    *(
        Fault(f"kill at {point}", _at_point(point), kills_worker=True)
        for point in (*_WORKERS_OWN, Point.BEFORE_COMMIT, Point.AFTER_COMMIT)
    ),
    Fault(f"kill at {Point.POSTED}", _at_point(Point.POSTED)),
    Fault(f"kill at {Point.WRITTEN_DOWN}", _at_point(Point.WRITTEN_DOWN), 10),
    Fault(f"kill at {Point.MIGRATED}", _during_migration, 8),
    Fault(
        "kill worker",
        _at_random("kill -9 of the worker", _kill_worker, worker=True),
        8,
        kills_worker=True,
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
