"""One round: a fault on a setup, from an empty folder to the checks. Runs in its own process."""

import os
import shutil
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from tests.prove import history
from tests.prove.environment import Environment, prepared
from tests.prove.evidence import Evidence
from tests.prove.fault import CannotBeHadError, Fault
from tests.prove.faults import FAULTS
from tests.prove.promises import Broken, examine
from tests.prove.seeded_faults import SEEDED_FAULTS
from tests.prove.setups import SETUPS, Servers

_ORDERS, _ORDERS_EACH = 30, 10


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one round is to show, and where it keeps what it sees."""

    faults: tuple[str, ...]  # more than one where they share a round
    setup: str
    seed: int
    folder: Path
    seeded_fault: str | None = None


@dataclass(slots=True)
class Counts:
    """What is counted of one fault in one round."""

    jobs: int = 0
    acknowledged: int = 0
    archived: int = 0
    duplicated: int = 0
    lost: int = 0


@dataclass(slots=True)
class Outcome:
    """A round's result. ``skipped``: why it was impossible; ``failure``: the prover's traceback."""

    assignment: Assignment
    seconds: float = 0.0
    counts: dict[str, Counts] = field(default_factory=dict)  # by fault
    recovery: float | None = None
    broken: list[Broken] = field(default_factory=list)
    skipped: str = ""
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken and not self.failure


def play(assignment: Assignment, servers: Servers) -> Outcome:
    """Play a round to its end; its folder is removed if all promises were kept."""
    outcome = Outcome(assignment)
    try:
        _play(assignment, servers, outcome)
    except CannotBeHadError as error:
        outcome.skipped = str(error)
    except Exception:  # noqa: BLE001 - reported with the outcome
        outcome.failure = traceback.format_exc()
    if outcome.ok:
        shutil.rmtree(assignment.folder)
    return outcome


def _play(assignment: Assignment, servers: Servers, outcome: Outcome) -> None:
    faults = [FAULTS[name] for name in assignment.faults]
    setup, random = SETUPS[assignment.setup], Random(assignment.seed)  # noqa: S311 - repeatable on purpose
    assignment.folder.mkdir(parents=True)
    with prepared(
        assignment.folder, setup, servers, random, settings=faults[0].settings, s3=faults[0].s3
    ) as env:
        try:
            (faults[0].play or partial(_order, faults))(env)
            outcome.broken += env.quiet()
            if assignment.seeded_fault:
                SEEDED_FAULTS[assignment.seeded_fault](env)
            evidence = env.evidence()
            outcome.broken += examine(evidence)
            _count(outcome, evidence)
            names, number = assignment.faults, int(assignment.folder.name.partition("-")[2])
            path = assignment.folder.with_name(f"{assignment.folder.name}.jsonl")
            history.write(path, number, names, assignment.setup, evidence)
            if outcome.broken:
                evidence.write(assignment.folder / "evidence.json")
        finally:
            if not outcome.ok:
                _save_small_disk(env)


def _order(faults: list[Fault], env: Environment) -> None:
    """Order jobs whose scripts are the faults."""
    env.start_and_wait()
    number = max(_ORDERS, _ORDERS_EACH * len(faults))
    with env.load(least=number, most=number, menus={fault.name: fault.menu for fault in faults}):
        pass


def _count(outcome: Outcome, evidence: Evidence) -> None:
    """Count each job for the fault that it was ordered for."""
    names = outcome.assignment.faults
    outcome.counts = {name: Counts() for name in names}
    # Where several faults share a round, jobs without one (the stream's) are not counted.
    unassigned = outcome.counts[names[0]] if len(names) == 1 else Counts()
    of_job = {
        job["ref"]: outcome.counts.get(job["prompt"].rpartition(" ")[0], unassigned)
        for job in evidence.jobs
    }
    for counts in of_job.values():
        counts.jobs += 1
    for answer in evidence.acknowledged:
        of_job.get(answer.ref, unassigned).acknowledged += 1
    for row in evidence.assets:
        of_job[row["ref"]].archived += row["state"] == "archived"
    for found in outcome.broken:
        its = next(
            (counts for ref, counts in of_job.items() if ref in found.about),
            outcome.counts[names[0]],
        )
        its.lost += found.is_lost
        its.duplicated += found.is_twice
    outcome.recovery = max((one.seconds for one in evidence.recoveries), default=None)


def _save_small_disk(env: Environment) -> None:
    """Copy what would be lost with this process's mount."""
    if os.path.ismount(env.installation.data):
        shutil.copytree(
            env.installation.data,
            env.folder / "data-kept",
            ignore=shutil.ignore_patterns("worker.fifo"),
        )
