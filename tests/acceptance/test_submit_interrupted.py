"""An interrupted ``submitter submit`` prints which job goes on, so that it is not paid twice."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from batches import quick_sandbox
from installation import Installation
from processes import Running, running
from waiting import until

from submitter.sandbox import Sandbox

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with quick_sandbox() as running:
        yield running


def only_ref(installation: Installation) -> str:
    """Return the ref of the only job."""
    (line,) = installation.invoke("receiver", "jobs", "--json").out.splitlines()
    return str(json.loads(line)["ref"])


def messages(process: Running) -> list[str]:
    """Return what the command printed about the job, without the log."""
    return [
        line
        for line in process.output().splitlines()
        if "goes on" in line or "may have been" in line or "Aborted" in line
    ]


def objects(process: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output().splitlines() if line.startswith('{"ref"')]


def submitting(*options: str, **script: Any) -> tuple[str, ...]:
    command = ("submitter", "submit", "a fox", "--mode", "poll", "--wait", "--no-check")
    return (*command, "--param", f"sandbox={json.dumps(script)}", *options)


@pytest.mark.parametrize("number", STATUS)
def test_interrupted_while_it_waits_it_prints_the_ref(
    installation: Installation, number: signal.Signals
) -> None:
    with running(
        submitting("--json", delay=60), installation.environ, installation.folder
    ) as process:
        process.says("no worker is running on this ledger")
        assert process.stop(number) == STATUS[number]
        ref = only_ref(installation)
        assert messages(process) == [
            f"{ref} goes on, look with: receiver show {ref}; do not submit it again"
        ]
        (job,) = objects(process)
    assert (job["ref"], job["state"]) == (ref, "waiting")


@pytest.mark.parametrize("options", [(), ("--key", "kq")])
@pytest.mark.parametrize("number", STATUS)
def test_interrupted_while_it_posts_it_prints_the_ref_of_the_row(
    installation: Installation, number: signal.Signals, options: tuple[str, ...]
) -> None:
    with running(
        submitting(*options, answer={"mode": "slow", "seconds": 60}),
        installation.environ,
        installation.folder,
    ) as process:
        until(lambda: installation.sandbox.stats()["accepted"] == 1)
        assert process.stop(number) == STATUS[number]
        ref = only_ref(installation)
        assert messages(process) == [
            f"{ref} goes on, look with: receiver show {ref}; do not submit it again"
        ]
    assert installation.sandbox.stats()["accepted"] == 1


def test_interrupted_without_a_row_it_prints_where_to_look(
    installation: Installation,
) -> None:
    """The provider answers 429, so that the row is deleted until the next retry."""
    with running(
        submitting(refuse={"status": 429}), installation.environ, installation.folder
    ) as process:
        process.says("submit not sent, will be retried")
        assert process.stop(signal.SIGINT) == 130
        assert messages(process) == ["it may have been posted: look with receiver jobs"]
    assert installation.invoke("receiver", "jobs", "--json").out == ""


def test_a_command_started_with_interrupts_ignored_ignores_them(
    installation: Installation,
) -> None:
    """As a shell starts a command in the background."""
    script = installation.folder / "in-background"
    script.write_text('#!/bin/sh\ntrap "" INT\nexec "$@"\n')
    script.chmod(0o755)
    with running(
        (str(script), *submitting("--timeout", "1.5", delay=60)),
        installation.environ,
        installation.folder,
    ) as process:
        process.says("no worker is running on this ledger")
        assert process.stop(signal.SIGINT) == 1
        assert "are not final after" in process.output()
