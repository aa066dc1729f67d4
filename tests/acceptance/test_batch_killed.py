"""A batch that is killed and run again pays every job once; memory has a bound for many lines."""

import random
import signal
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
from processes import python
from sqlalchemy import Connection, insert
from waiting import until

from receiver.jobs.request import DEFAULT_MODEL
from receiver.ledger.tables import jobs
from receiver.model import JobState, new_ref
from submitter.sandbox import Sandbox

CONCURRENCY = 4
# The provider accepts these submits and never answers. There are as many in a row as threads, so at
# some moment every thread waits for such an answer. Then no job is between its row and its POST,
# and a kill meets the state that is most dangerous: posted, and the answer unknown.
UNANSWERED = {"answer": {"mode": "slow", "seconds": 600}}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Run a sandbox that repeats its callbacks for five minutes.

    No poll can find a job without an id, so a report that a busy service misses must come again.
    """
    with quick_sandbox(callback={"retries": 100, "pause": 3.0}) as running:
        yield running


@pytest.mark.timeout(600)  # 500 jobs, and everything else that a busy machine does meanwhile
@pytest.mark.parametrize(
    ("count", "kills"),
    [
        (120, (0, 50, 96)),
        pytest.param(500, (0, 96, 200, 310, 450), marks=pytest.mark.thorough),
    ],
)
def test_jobs_of_a_batch_killed_several_times_are_posted_once_and_all_end(
    installation: Installation, count: int, kills: tuple[int, ...]
) -> None:
    stops = [range(at, at + CONCURRENCY) for at in kills]
    unanswered = {number for stop in stops for number in stop}
    failing = {n for n in range(count) if n % 50 == 7}
    # A failing line is answered at once. Its thread would go on, and the kill could meet a job
    # between its row and its POST.
    assert not unanswered & failing
    scripts = dict.fromkeys(unanswered, UNANSWERED) | {n: {"fail": "error"} for n in failing}
    batch_file(installation, [a_line(f"{n}", script=scripts.get(n)) for n in range(count)])
    options = ("batch.jsonl", "--concurrency", str(CONCURRENCY))
    with installation.started() as service:
        for stop in stops:
            with batch_running(installation, *options) as process:
                # Lines are submitted in order, so these are the last ones before the threads block.
                # Counting costs little: the sandbox shares this process and must keep its time.
                wait_for_posts(installation, stop[-1] + 1)
                process.process.send_signal(signal.SIGKILL)
                assert process.process.wait(60) == -signal.SIGKILL
        done = batch(installation, *options, "--report", "report.jsonl", "--timeout", "120")
        assert installation.invoke("receiver", "audit").status == 0
        assert "Traceback" not in service.output()
    ends = {"archived": count - len(failing), "failed": len(failing)}
    said = f"{count} lines: {ends['archived']} archived, {ends['failed']} failed\n"
    assert (done.status, done.out) == (1, said), done.err
    assert posts(installation) == Counter({f"{n}": 1 for n in range(count)})
    assert installation.sandbox.stats()["accepted"] == count
    assert installation.sandbox.stats()["file_gets"] == ends["archived"]
    lines = report(installation)
    assert [line["prompt"] for line in lines] == [f"{n}" for n in range(count)]
    assert {int(line["prompt"]) for line in lines if line["state"] == "failed"} == failing
    assert posted_refs(installation) == Counter({line["ref"]: 1 for line in lines})
    with installation.services() as services:
        assert services.totals.counts() == {state.value: ends.get(state, 0) for state in JobState}


def wait_for_posts(installation: Installation, count: int) -> None:
    """Wait until the sandbox has accepted this many submits."""
    sandbox = installation.sandbox
    until(lambda: sandbox.stats()["accepted"] >= count, within=300, what=f"{count} posts")


def test_killed_at_any_instant_a_job_is_posted_once_or_known_to_be_in_doubt(
    installation: Installation,
) -> None:
    """A kill may fall between a job's row and its POST; such a job is never posted again."""
    dice = random.Random(20261122)  # noqa: S311 - not a secret, and the same test every time
    count = 80
    lines = [a_line(f"{n}", script={"callback": "lost"}) for n in range(count)]
    batch_file(installation, lines)
    options = ("batch.jsonl", "--no-wait", "--concurrency", "8")
    for _ in range(3):
        accepted = installation.sandbox.stats()["accepted"]
        with batch_running(installation, *options) as process:
            wait_for_posts(installation, accepted + dice.randrange(5, 25))
            time.sleep(dice.random() / 100)  # a random instant is what is tested here
            process.process.send_signal(signal.SIGKILL)
            process.process.wait(60)
    assert batch(installation, *options).status == 0
    posted = posted_refs(installation)
    with installation.services() as services:
        rows = {job.ref: job for job in services.queries.jobs(limit=1000)}
    assert set(posted.values()) == {1}
    assert set(posted) <= set(rows)
    assert sorted(job.prompt for job in rows.values()) == sorted(f"{n}" for n in range(count))
    assert {rows[ref].state for ref in set(rows) - set(posted)} <= {JobState.SUBMITTING}


# The command, which prints its peak memory at the end: "VmHWM: 123 kB".
MEASURED = """
import atexit, sys
def report():
    with open("/proc/self/status") as lines:
        print(next(line for line in lines if line.startswith("VmHWM")), file=sys.stderr)
atexit.register(report)
from submitter.cli import main
main()
"""


def test_four_hundred_lines_take_hardly_more_memory_than_a_hundred(
    installation: Installation,
) -> None:
    """The jobs of all keys exist, so the batch only reads, looks up, watches and reports."""
    text = "x" * 40_000
    with installation.services() as services:
        services.database.write(lambda connection: _insert_waiting(connection, 400, text))
    peaks = []
    for count in (100, 400):
        batch_file(installation, [a_line(text, key=f"key-{n}") for n in range(count)])
        options = ("batch.jsonl", "--no-wait", "--no-check", "--report", "report.jsonl")
        with python(
            *("-c", MEASURED, "batch", *options),
            environ=installation.environ,
            folder=installation.folder,
        ) as process:
            done = process.ended()
        assert (done.status, done.out) == (0, f"{count} lines: {count} waiting\n")
        assert [line["line"] for line in report(installation)] == list(range(1, count + 1))
        peaks.append(int(done.err.rpartition("VmHWM:")[2].split()[0]))
    # The other 300 lines are 12 MB and so is their report. Measured: 200 bytes a line, plus 2 MB.
    assert peaks[1] - peaks[0] < 5_000, f"{peaks[0]} kB for 100 lines, {peaks[1]} kB for 400"
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
        "params": '{"aspectRatio": "64x64"}',
        "state": "waiting",
        "submitted_at": now,
        "deadline_at": now + 3600,
        "due_at": now + 3600,
    }
    connection.execute(
        insert(jobs), [{**alike, "ref": new_ref(now), "key": f"key-{n}"} for n in range(count)]
    )
