"""A batch that is killed at any instant and run again: every job is paid once. And one of 10,000 lines: memory has a bound."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from batches import (
    a_line,
    batch,
    batch_file,
    batch_running,
    posted_refs,
    posts,
    quick_sandbox,
    report,
)
from installation import Installation
from processes import environment
from sqlalchemy import Connection, insert
from waiting import until

from receiver.jobs.request import DEFAULT_MODEL
from receiver.ledger.tables import jobs
from receiver.model import JobState, new_ref
from submitter.sandbox import Sandbox

HANDS = 4
# Lines whose submits are accepted and never answered. As many in a row as there are hands, so that at some moment every hand waits for
# such an answer: then no job is between its row and its POST, and a kill finds what it is most dangerous to find.
UNANSWERED = {"answer": {"mode": "slow", "seconds": 300}}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with quick_sandbox(callback={"retries": 100, "pause": 0.5}) as running:
        yield running


def test_500_jobs_killed_five_times_are_500_jobs_500_posts_and_500_ends(
    installation: Installation,
) -> None:
    stops = [range(at, at + HANDS) for at in (0, 96, 200, 307, 450)]
    unanswered = {number for stop in stops for number in stop}
    failing = {n for n in range(500) if n % 50 == 7}
    scripts = dict.fromkeys(unanswered, UNANSWERED) | {n: {"fail": "error"} for n in failing}
    batch_file(installation, [a_line(f"{n}", script=scripts.get(n)) for n in range(500)])
    with installation.started() as service:
        for stop in stops:
            with batch_running(installation, "batch.jsonl", "--concurrency", str(HANDS)) as process:
                until(lambda stop=stop: all(posts(installation)[f"{n}"] for n in stop))  # type: ignore[misc]  # mypy infers no default's type
                process.process.send_signal(signal.SIGKILL)
                assert process.process.wait(10) == -signal.SIGKILL
        done = batch(
            installation,
            "batch.jsonl",
            "--concurrency",
            str(HANDS),
            "--report",
            "report.jsonl",
            "--timeout",
            "60",
        )
        assert installation.run("receiver", "audit").status == 0
        assert "Traceback" not in service.output()
    assert (done.status, done.out) == (1, "500 lines: 490 archived, 10 failed\n"), done.err
    assert posts(installation) == Counter({f"{n}": 1 for n in range(500)})
    assert installation.sandbox.stats()["accepted"] == 500
    assert installation.sandbox.stats()["file_gets"] == 490
    lines = report(installation)
    assert [line["prompt"] for line in lines] == [f"{n}" for n in range(500)]
    assert {int(line["prompt"]) for line in lines if line["state"] == "failed"} == failing
    assert posted_refs(installation) == Counter({line["ref"]: 1 for line in lines})
    with installation.services() as services:
        assert services.queries.counts() == {
            state.value: {"archived": 490, "failed": 10}.get(state, 0) for state in JobState
        }


def test_killed_at_any_instant_a_job_is_posted_once_or_known_to_be_in_doubt(
    installation: Installation,
) -> None:
    """At full speed a kill may fall between a job's row and its POST. Nobody can know then, so it is never posted again."""
    dice = random.Random(20261122)  # noqa: S311 - no secret, but the same test every time
    count = 120
    batch_file(installation, [a_line(f"{n}", script={"callback": "lost"}) for n in range(count)])
    options = ("batch.jsonl", "--no-wait", "--concurrency", "8")
    for _ in range(4):
        goal = installation.sandbox.stats()["accepted"] + dice.randrange(5, 30)
        with batch_running(installation, *options) as process:
            until(lambda goal=goal: installation.sandbox.stats()["accepted"] >= goal)  # type: ignore[misc]  # as above
            time.sleep(dice.random() / 100)  # any instant is as good as another
            process.process.send_signal(signal.SIGKILL)
            process.process.wait(10)
    assert batch(installation, *options).status == 0
    posted = posted_refs(installation)
    with installation.services() as services:
        rows = {job.ref: job for job in services.queries.jobs(limit=1000)}
    assert set(posted.values()) == {1}
    assert set(posted) <= set(rows)
    assert sorted(job.prompt for job in rows.values()) == sorted(f"{n}" for n in range(count))
    assert {rows[ref].state for ref in set(rows) - set(posted)} <= {JobState.SUBMITTING}


# The command, which says at its end how much memory it had at most: "VmHWM: 123 kB".
MEASURED = """
import atexit, sys
def tell():
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
atexit.register(tell)
from submitter.cli import main
main()
"""


def test_four_thousand_lines_take_hardly_more_memory_than_a_thousand(
    installation: Installation,
) -> None:
    """Their keys are spent, so that nothing is posted: what is measured is reading, looking up, watching and reporting."""
    text = "x" * 4000
    with installation.services() as services:
        services.ledger.write(lambda connection: _insert_waiting(connection, 4000, text))
    peaks = []
    for count in (1000, 4000):
        batch_file(installation, [a_line(text, key=f"key-{n}") for n in range(count)])
        options = ("batch", "batch.jsonl", "--no-wait", "--report", "report.jsonl")
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *options],
            env=environment(installation.environ),
            cwd=installation.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{count} lines: {count} waiting\n"
        assert [line["line"] for line in report(installation)] == list(range(1, count + 1))
        peaks.append(int(done.stderr.rpartition("VmHWM:")[2].split()[0]))
    # The other 3,000 lines are 12 MB, and their report as much again; measured are some 200 bytes a line, and two MB of chance.
    assert peaks[1] - peaks[0] < 5_000, f"{peaks[0]} kB for 1,000 lines, {peaks[1]} kB for 4,000"
    assert posts(installation) == {}


def _insert_waiting(connection: Connection, count: int, prompt: str) -> None:
    now = time.time()
    alike = {
        "provider": "grsai",
        "base_url": "http://provider.test",
        "api": "draw",
        "mode": "webhook",
        "model": DEFAULT_MODEL,
        "prompt": prompt,
        "params": '{"size": "64x64"}',
        "state": "waiting",
        "submitted_at": now,
        "deadline_at": now + 3600,
        "due_at": now + 3600,
    }
    connection.execute(
        insert(jobs), [{**alike, "ref": new_ref(now), "key": f"key-{n}"} for n in range(count)]
    )
