"""The archive explains itself: lost ledgers, damaged pictures, and commands that are killed."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event

import pytest
from archives import invented_jobs, put, write_files
from click.testing import CliRunner
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, fault_proxy
from installation import Installation
from processes import running
from seaweed import S3Server
from side_by_side import side_by_side
from waiting import LIMIT, until

from receiver.archive.manifest import manifest_key
from receiver.archive.stores import Store
from receiver.archive.stores.s3 import S3Store
from receiver.cli import main as receiver
from receiver.maintenance import rebuild
from submitter.sandbox import Sandbox

REBUILD = ("receiver", "rebuild")
AUDIT = ("receiver", "audit", "--deep")
WORKER = ("receiver", "worker")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(looks=1, script={"delay": 0, "bytes": 5_000}) as running:
        yield running


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server) as proxy:
        yield proxy


def lose_the_ledger(installation: Installation) -> None:
    for path in installation.data.glob("ledger.sqlite3*"):
        path.unlink()


def made_up_files(installation: Installation, count: int) -> dict[str, str]:
    """Have an archive of jobs no ledger knows; return the key of each one's picture by its ref."""
    installation.data.mkdir()
    pictures = {}
    for ref, objects in invented_jobs(count):
        write_files(installation.data / "archive", objects)
        pictures[ref] = next(iter(objects))
    return pictures


def known(installation: Installation) -> int:
    """Count the jobs in the ledger; none where there is no ledger yet."""
    if not (installation.data / "ledger.sqlite3").exists():
        return 0
    with installation.services() as services:
        return services.totals.counts()["archived"]


def last(text: str) -> str:
    return text.splitlines()[-1]


def test_a_lost_ledger_is_rebuilt_agrees_with_the_archive_and_pays_nothing_twice(
    installation: Installation,
) -> None:
    installation.environ["POLL_INTERVAL"] = "0.1"
    submit = (
        "submitter",
        "submit",
        "a fox",
        "--key",
        "order-1",
        "--param",
        "size=64x64",
        "--mode",
        "poll",
        "--json",
        "--wait",
    )
    with running(WORKER, installation.environ, installation.folder) as worker:
        worker.says("worker started")
        assert installation.invoke(*submit).status == 0
        working = installation.invoke(*REBUILD)
        assert (working.status, working.out) == (1, "")
        assert "a worker is working on this ledger: stop it" in working.err
        assert worker.stop() == 0
    installation.submit("a lost sheep", delay=3600)
    lost = installation.invoke("receiver", "jobs", "--state", "archived", "--json").out
    lose_the_ledger(installation)
    back = installation.invoke(*REBUILD)
    assert (back.status, back.out, back.err) == (
        0,
        "restored 1 job with 1 picture; 0 were in the ledger already\n",
        "",
    )
    assert installation.invoke("receiver", "jobs", "--json").out == lost, (
        "and nothing of the one in flight"
    )
    accepted = installation.sandbox.stats()["accepted"]
    assert installation.invoke(*submit).status == 0
    assert installation.sandbox.stats()["accepted"] == accepted
    audited = installation.invoke(*AUDIT)
    assert (audited.status, last(audited.out)) == (0, "everything is where the ledger says")


def test_what_is_damaged_or_strange_is_printed_line_by_line_and_the_exit_status_says_so(
    installation: Installation,
) -> None:
    (first, one), (second, two), (third, three) = made_up_files(installation, 3).items()
    archive = installation.data / "archive"
    (archive / manifest_key(third)).write_text("{")
    rebuilt = installation.invoke(*REBUILD)
    assert rebuilt.status == 1
    assert rebuilt.out.splitlines()[0].startswith(f"wrong: {manifest_key(third)}: Invalid JSON")
    assert "restored 2 jobs with 2 pictures" in rebuilt.out
    (archive / one).write_bytes(b"other bytes")
    (archive / two).unlink()
    (archive / "a\x1b[31mred").write_bytes(b"")
    done = installation.invoke(*AUDIT)
    assert (done.status, last(done.out)) == (1, "NOT everything is where the ledger says")
    found = [
        line.partition(" (")[0]
        for line in done.out.splitlines()
        if line.startswith(("missing", "differs", "unknown"))
    ]
    assert found == [
        f"missing: {two}",
        f"differs: {one}",
        f"unknown object: {three}",
        f"unknown object: {manifest_key(third)}",
        "unknown object: a\\x1b[31mred",
    ]
    assert first in done.out
    assert second in done.out
    assert installation.invoke("receiver", "audit").status == 0, "the ledger itself holds"
    assert not (installation.data / "deep-audit.json").exists(), "it was through"


def test_an_archive_that_is_away_is_reported_with_what_to_do(installation: Installation) -> None:
    made_up_files(installation, 2)
    assert installation.invoke(*REBUILD).status == 0
    (installation.data / "archive").rename(installation.folder / "unmounted")
    for command in (REBUILD, AUDIT):
        done = installation.invoke(*command)
        assert (
            done.status,
            "mount it, or correct ARCHIVE_URL" in done.err,
            "Traceback" in done.err,
        ) == (1, True, False)
    (installation.folder / "unmounted").rename(installation.data / "archive")
    done = installation.invoke(*AUDIT)
    assert (done.status, "continuing where the last deep audit stopped: 0 jobs" in done.err) == (
        0,
        True,
    )


@pytest.mark.parametrize(
    "arguments", [["audit", "--anew"], ["audit", "--jobs", "4"], ["audit", "--deep", "--jobs", "0"]]
)
def test_wrong_usage_is_reported(arguments: list[str]) -> None:
    assert CliRunner().invoke(receiver, arguments).exit_code == 2


def test_a_folder_that_is_none_is_wrong_usage(installation: Installation) -> None:
    done = installation.invoke(*REBUILD, "--below", "../..")
    assert (done.status, "--below: not a key of the archive" in done.err) == (2, True), done


# Killed in the middle, and stopped by hand


def test_a_rebuild_killed_in_the_middle_has_whole_jobs_only_and_the_next_one_has_all(
    installation: Installation,
) -> None:
    count = 3 * rebuild.FOLDERS_AT_ONCE
    made_up_files(installation, count)
    with running(REBUILD, installation.environ, installation.folder) as process:
        until(
            lambda: known(installation) > 0 or process.process.poll() is not None,
            what="that some jobs are restored",
        )
        process.kill()
    some = known(installation)
    assert 0 < some <= count
    assert installation.invoke("receiver", "audit").status == 0
    done = installation.invoke(*REBUILD)
    assert (done.status, last(done.out)) == (
        0,
        (
            f"restored {count - some} jobs with {count - some} pictures;"
            f" {some} were in the ledger already"
        ),
    )
    assert installation.invoke("receiver", "audit").status == 0


def test_a_deep_audit_stopped_or_killed_goes_on_where_it_was(installation: Installation) -> None:
    pictures = made_up_files(installation, 6)
    assert installation.invoke(*REBUILD).status == 0
    stuck = (
        installation.data / "archive" / list(pictures.values())[2]
    )  # the newest is looked at first
    data = stuck.read_bytes()
    stuck.unlink()
    os.mkfifo(stuck)
    for number in (signal.SIGINT, signal.SIGTERM):
        with running((*AUDIT, "--jobs", "1"), installation.environ, installation.folder) as process:
            with stuck.open("wb") as pipe:  # opens once the audit is there
                process.process.send_signal(number)
                until(partial(has_arrived, process.pid, number), what="that the signal has arrived")
                pipe.write(b"now go on")
            assert process.process.wait(LIMIT) == 128 + number
            assert (
                "stopped (3 jobs and 0 objects done, 0 differences so far, of 6 jobs)"
                in process.output()
            )
            assert "run `receiver audit --deep` again to go on from there" in process.output()
    with (
        running((*AUDIT, "--jobs", "1"), installation.environ, installation.folder) as process,
        stuck.open("wb"),
    ):
        process.kill()
    stuck.unlink()
    stuck.write_bytes(data)
    done = installation.invoke(*AUDIT)
    assert (done.status, "continuing where the last deep audit stopped: 3 jobs" in done.err) == (
        0,
        True,
    )
    assert "6 jobs with 6 pictures, 12 objects: 0 differences" in done.out


def has_arrived(pid: int, number: signal.Signals) -> bool:
    """Say whether a process has no handler for a signal: the next signal would end it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = int(
        next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16
    )
    return not caught & 1 << (number - 1)


def on_s3(installation: Installation, server: S3Server, proxy: FaultProxy, bucket: str) -> None:
    installation.environ |= {
        **server.environment(),
        "AWS_ENDPOINT_URL_S3": proxy.url,
        "ARCHIVE_URL": f"s3://{bucket}/pictures",
    }


class BlockedRequests:
    """A rule under which the requests for one job's objects wait until ``released`` is set."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self.waiting, self.released = Event(), Event()

    def __call__(self, request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
        if self._ref in request.path and "list-type" not in request.path:
            self.waiting.set()
            self.released.wait(30)
        return forward(request)


def test_both_commands_are_killed_over_a_bucket_and_lose_nothing(
    installation: Installation, s3_server: S3Server, proxy: FaultProxy, bucket: str
) -> None:
    on_s3(installation, s3_server, proxy, bucket)
    count = rebuild.FOLDERS_AT_ONCE + 10
    archive = dict(invented_jobs(count))
    fill(bucket, archive)
    for command, done_by_then in ((REBUILD, rebuild.FOLDERS_AT_ONCE), (AUDIT, count)):
        proxy.rule = blocked = BlockedRequests(list(archive)[-1])
        with running(command, installation.environ, installation.folder) as process:
            until(blocked.waiting.is_set, what="that it reads the last job")
            process.kill()
        blocked.released.set()
        assert known(installation) == done_by_then, "whole transactions"
        done = installation.invoke(*command)
        assert (done.status, done.err) == (0, "")
    assert f"{count} jobs with {count} pictures, {2 * count} objects: 0 differences" in done.out
    assert installation.invoke("receiver", "audit").status == 0


def test_an_interrupted_rebuild_finishes_its_current_batch(
    installation: Installation, s3_server: S3Server, proxy: FaultProxy, bucket: str
) -> None:
    on_s3(installation, s3_server, proxy, bucket)
    archive = dict(invented_jobs(2))
    fill(bucket, archive)
    proxy.rule = blocked = BlockedRequests(next(iter(archive)))
    with running((*REBUILD, "--jobs", "1"), installation.environ, installation.folder) as process:
        until(blocked.waiting.is_set, what="that it reads the first job")
        process.process.send_signal(signal.SIGINT)
        until(partial(has_arrived, process.pid, signal.SIGINT), what="that the signal has arrived")
        blocked.released.set()
        assert process.process.wait(LIMIT) == 130
        assert "restored 1 job with 1 picture" in process.output()
        assert last(process.output()) == "stopped; run `receiver rebuild` again to go on"
    assert (
        "restored 1 job with 1 picture; 1 were in the ledger already"
        in installation.invoke(*REBUILD).out
    )


def fill(bucket: str, archive: dict[str, dict[str, bytes]]) -> None:
    with closing(S3Store(bucket, "pictures")) as store:
        store.check()
        shares = [list(archive.values())[start::8] for start in range(8)]
        side_by_side([partial(put_all, store, share) for share in shares])


def put_all(store: Store, archive: list[dict[str, bytes]]) -> None:
    for objects in archive:
        for key, data in objects.items():
            put(store, key, data)
