"""The commands as users and scripts see them: environment, stdout, stderr and exit status."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from installation import Installation
from job_keys import ASSET_KEYS, JOB_KEYS
from processes import Finished, running
from waiting import until

from receiver.cli import main as receiver
from submitter.cli import main as submitter
from submitter.sandbox import Sandbox

UNKNOWN = "01JZ2Q7V3N0123456789ABCDEF"
WORKER = ("receiver", "worker")


def job_in(done: Finished) -> dict[str, Any]:
    """Return the job object that is all a command wrote to stdout."""
    (line,) = done.out.splitlines()
    job: dict[str, Any] = json.loads(line)
    assert list(job) == JOB_KEYS
    assert all(list(asset) == ASSET_KEYS for asset in job["assets"])
    return job


def execute(installation: Installation, statement: str) -> None:
    with closing(
        sqlite3.connect(installation.data / "ledger.sqlite3", isolation_level=None)
    ) as connection:
        connection.execute(statement).close()


# Wrong usage and wrong configuration: exit status 2.


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (receiver, ["nonsense"], "No such command"),
        (receiver, ["serve", "--port", "65536"], "65536"),
        (receiver, ["jobs", "--state", "done"], "'submitting', 'waiting'"),
        (receiver, ["jobs", "--limit", "0"], "0"),
        (receiver, ["show"], "REF"),
        (receiver, ["retry"], "REFS"),
        (receiver, ["replay", "one"], "not a valid integer"),
        (submitter, ["submit"], "PROMPT"),
        (submitter, ["submit", "a fox", "--mode", "carrier-pigeon"], "'webhook', 'poll'"),
        (submitter, ["submit", "a fox", "--variants", "0"], "--variants"),
        (submitter, ["submit", "a fox", "--param", "quality"], "is not K=V, such as quality=high"),
    ],
)
def test_wrong_usage_is_explained(command: Any, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    "command", [["receiver", "serve"], ["receiver", "migrate"], ["submitter", "submit", "a fox"]]
)
def test_every_wrong_variable_is_named_at_once(
    installation: Installation, command: list[str]
) -> None:
    done = installation.invoke(
        *command,
        PORT="none",
        URL_LIFETIME="soon",
        FETCH_ALLOW="a/b",
        PUBLIC_URL="",
        PUBLIC_URL_FILE="/nowhere",
    )
    assert (done.status, done.out) == (2, "")
    first, *mistakes = done.err.splitlines()
    assert first == "the configuration is wrong:"
    assert sorted(line.split(":")[0].strip() for line in mistakes) == [
        "FETCH_ALLOW",
        "PORT",
        "PUBLIC_URL_FILE",
        "URL_LIFETIME",
    ]
    assert not installation.data.exists(), "nothing was begun"


def test_a_data_dir_that_cannot_be_used_is_a_wrong_configuration(
    installation: Installation,
) -> None:
    installation.data.write_text("a file, not a directory")
    for command in (("receiver", "audit"), ("receiver", "serve")):
        done = installation.invoke(*command)
        assert (done.status, "DATA_DIR: " in done.err, "Traceback" in done.err) == (2, True, False)


def test_a_submit_names_all_that_is_missing_before_anything_is_posted_or_written(
    installation: Installation,
) -> None:
    done = installation.invoke("submitter", "submit", "a fox", PUBLIC_URL="", GRSAI_API_KEY="")
    assert (done.status, done.out) == (2, "")
    assert "GRSAI_API_KEY: not set" in done.err
    assert (
        "PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll" in done.err
    )
    assert installation.sandbox.tasks() == []
    with installation.services() as services:
        assert services.queries.jobs() == []


# What became of a submit.


def test_a_refused_submit_is_a_failed_job_and_exit_status_1(installation: Installation) -> None:
    done = installation.invoke("submitter", "submit", "a fox", "--model", "no-such-model", "--json")
    job = job_in(done)
    assert (done.status, job["state"], job["reason"]) == (1, "failed", "refused")
    assert job["message"] == "不存在该模型: no-such-model"
    assert "refused 不存在该模型: no-such-model" in done.err


def test_a_submit_prints_what_it_knows_and_the_job_goes_on(
    installation: Installation,
) -> None:
    lost = installation.invoke(
        "submitter", "submit", "a fox", "--param", 'sandbox={"answer": "lost", "delay": 60}'
    )
    assert lost.status == 0
    assert "do not submit it again" in lost.err
    assert lost.out.endswith(" submitting\n")
    unwatched = installation.invoke(
        "submitter", "submit", "a fox", "--mode", "poll", "--wait", "--timeout", "0.1", "--json"
    )
    assert (unwatched.status, job_in(unwatched)["state"]) == (1, "waiting")
    assert "no worker is running on this ledger: start `receiver serve`" in unwatched.err
    assert "goes on, look with: receiver show" in unwatched.err
    assert len(installation.sandbox.tasks()) == 2, "nothing was posted twice"


@pytest.fixture(scope="module")
def polling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Run one worker that polls often, for all tests that only need a worker."""
    with Sandbox(looks=1) as sandbox:
        installation = Installation(tmp_path_factory.mktemp("polling"), sandbox)
        installation.environ |= {"POLL_INTERVAL": "0.1", "PUBLIC_URL": ""}
        with running(WORKER, installation.environ, installation.folder) as worker:
            worker.says("worker started")
            yield installation
            assert worker.stop() == 0


def test_a_submit_that_waits_prints_the_archived_job_on_one_line(polling: Installation) -> None:
    options = "--mode poll -o saved --json --variants 2 --param size=64x32 --param quality=high"
    options += " --batch b --metadata order=4711 --folder shop/a"
    script = ("--param", 'sandbox={"delay": 0.1}')
    done = polling.invoke("submitter", "submit", "a fox", *options.split(), *script)
    job = job_in(done)
    assert (done.status, job["state"], job["prompt"]) == (0, "archived", "a fox")
    assert [asset["width"] for asset in job["assets"]] == [64, 64]
    assert (job["batch"], job["metadata"]) == ("b", {"order": 4711})
    assert [asset["key"].startswith("shop/a/20") for asset in job["assets"]] == [True, True]
    saved = [f"saved/{job['ref']}-{number}.png" for number in range(2)]
    assert done.err.splitlines()[-2:] == saved
    assert [(polling.folder / path).stat().st_size for path in saved] == [
        asset["size"] for asset in job["assets"]
    ]
    (task,) = [task for task in polling.tasks() if task["prompt"] == "a fox"]
    assert (task["request"]["quality"], task["webhook"]) == ("high", None)


def test_a_key_with_resubmit_pays_for_each_retry_once_however_often_it_is_run(
    polling: Installation,
) -> None:
    options = "--key order-1 --wait --resubmit 1 --mode poll"
    script = ("--param", 'sandbox={"fail": "error", "delay": 0}')
    for _ in range(2):
        done = polling.invoke("submitter", "submit", "an owl", *options.split(), *script)
        assert (done.status, "posted again" in done.err) == (1, True)
    assert [task["prompt"] for task in polling.tasks()].count("an owl") == 2


def test_a_submit_for_several_pictures_of_a_model_that_makes_one_is_refused_or_split(
    polling: Installation,
) -> None:
    options = [
        "--model",
        "nano-banana",
        "--variants",
        "3",
        "--key",
        "three",
        "--wait",
        "--mode",
        "poll",
        "--json",
    ]
    script = ("--param", "aspectRatio=64x64", "--param", 'sandbox={"delay": 0}')
    refused = polling.invoke("submitter", "submit", "three owls", *options, *script)
    assert refused.status == 2
    assert "nano-banana makes one picture a job: submit 3 jobs, which --split" in refused.err
    for _ in range(2):
        done = polling.invoke("submitter", "submit", "three owls", *options, *script, "--split")
        jobs = [json.loads(line) for line in done.out.splitlines()]
        assert (done.status, [job["state"] for job in jobs]) == (0, ["archived"] * 3)
    assert [task["prompt"] for task in polling.tasks()].count("three owls") == 3


@pytest.mark.parametrize("form", ["camel", "upper", "object"])
def test_moderated_work_is_never_posted_again(polling: Installation, form: str) -> None:
    script = {"fail": "input_moderation", "delay": 0, "report": {"failure": form}}
    options = ["--wait", "--resubmit", "2", "--mode", "poll"]
    done = polling.invoke(
        "submitter",
        "submit",
        f"moderated {form}",
        *options,
        "--param",
        f"sandbox={json.dumps(script)}",
    )
    assert (done.status, "posted again" in done.err) == (1, False)
    assert [task["prompt"] for task in polling.tasks()].count(f"moderated {form}") == 1


def test_a_rejected_file_is_kept_shown_and_accepted(polling: Installation) -> None:
    script = {"delay": 0, "file": {"mode": "wrong_length", "at": 0.6}}
    options = ["--mode", "poll", "--wait", "--json", "--param", f"sandbox={json.dumps(script)}"]
    job = job_in(polling.invoke("submitter", "submit", "a broken owl", *options))
    (asset,), ref = job["assets"], job["ref"]
    assert (job["state"], job["reason"], asset["state"]) == ("failed", "bad_asset", "failed")
    assert "the source sent the same file twice" in job["message"]
    (task,) = [task for task in polling.tasks() if task["prompt"] == "a broken owl"]
    assert task["files"][0]["gets"] == 2, "no further download was spent"
    shown = polling.invoke("receiver", "show", ref)
    assert "\nrejected\t0\t" in shown.out
    assert asset["rejected"]["sha256"] in shown.out
    archive = polling.data / "archive"
    (kept,) = archive.rglob(f"quarantine/**/{ref}/0-*")
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == asset["rejected"]["sha256"]

    other = polling.invoke("receiver", "accept", ref, "0", "--sha256", "0" * 64)
    assert (other.status, "is another one by now" in other.err) == (1, True)
    assert polling.invoke("receiver", "accept", ref, "7").status == 1
    assert polling.invoke("receiver", "accept", "0", "0").status == 2
    assert polling.invoke("receiver", "accept", ref, "0").status == 0
    until(lambda: state_of(polling, ref) == "archived", what="that the job ends again")
    again = polling.invoke("receiver", "accept", ref, "0")
    assert (again.status, again.out) == (0, f"asset 0 of {ref} is accepted; the job is archived\n")
    accepted = job_in(polling.invoke("receiver", "show", ref, "--json"))["assets"][0]
    assert accepted["accepted_at"] is not None
    assert (
        hashlib.sha256((archive / accepted["key"]).read_bytes()).hexdigest()
        == (asset["rejected"]["sha256"])
    )
    assert not kept.exists()
    audit = polling.invoke("receiver", "audit", "--deep")
    assert (audit.status, "0 differences" in audit.out) == (0, True), audit.out


def state_of(installation: Installation, ref: str) -> Any:
    return job_in(installation.invoke("receiver", "show", ref, "--json"))["state"]


# What operators ask and do.


def seen_by_operators(installation: Installation, ref: str, lost: str) -> None:
    """Check every view of an archived job and of a failed one."""
    table = installation.invoke("receiver", "jobs")
    assert table.status == 0
    assert ref in table.out
    assert lost in table.out
    failed = installation.invoke("receiver", "jobs", "--state", "failed", "--json")
    assert (job_in(failed)["ref"], job_in(failed)["reason"]) == (lost, "output_moderation")
    assert installation.invoke("receiver", "jobs", "-q", "no such fox", "--json").out == ""
    shown = installation.invoke("receiver", "show", ref)
    job = job_in(installation.invoke("receiver", "show", ref, "--json"))
    assert shown.status == 0
    assert all(
        text in shown.out
        for text in (
            ref,
            "archived",
            "a fox",
            job["provider_id"],
            str(installation.data / "archive" / job["assets"][0]["key"]),
        )
    )
    missing = installation.invoke("receiver", "show", UNKNOWN)
    assert (missing.status, missing.out) == (1, "")
    assert f"there is no job {UNKNOWN}; `receiver jobs` lists what there is" in missing.err


def test_operators_see_and_correct_what_happened(installation: Installation) -> None:
    with installation.started() as service:
        safe, lost = (
            installation.submit("a fox", bytes=100_000),
            installation.submit("an owl", fail="output_moderation"),
        )
        installation.wait(safe.ref, lost.ref)
        seen_by_operators(installation, safe.ref, lost.ref)

        retried = installation.invoke("receiver", "retry", lost.ref, safe.ref, UNKNOWN)
        assert (retried.status, retried.out) == (1, f"{lost.ref} is waiting\n")
        assert f"{safe.ref} is archived: there is nothing to retry" in retried.err
        assert f"there is no job {UNKNOWN}" in retried.err
        (again,) = installation.wait(lost.ref)
        assert (again.state, again.reason) == ("failed", "output_moderation"), (
            "it was polled at once, and moderated again"
        )

        with installation.services() as services:
            ticket = services.tickets.sign(safe.ref)
            assert (
                requests.post(
                    f"{installation.url}/callback/{ticket}", data=b"{", timeout=5
                ).status_code
                == 400
            )
            kept = services.queries.deliveries(safe.ref)
        ended = next(str(row.id) for row in kept if row.verdict == "ended")
        replayed = installation.invoke("receiver", "replay", ended, str(kept[-1].id), "999")
        assert (replayed.status, replayed.out) == (1, f"{ended} is now duplicate\n")
        assert f"{kept[-1].id} is still unreadable" in replayed.err
        assert "there is no delivery 999" in replayed.err
        assert installation.is_safe(installation.wait(safe.ref)[0])

        migrated = installation.invoke("receiver", "migrate")
        assert (migrated.status, migrated.out[:24]) == (0, "the ledger's schema is 0")
        audited = installation.invoke("receiver", "audit")
        assert (audited.status, audited.out.splitlines()[-1]) == (0, "every invariant holds")
        execute(
            installation, "UPDATE assets SET state = 'pending', due_at = 9e9, finished_at = NULL"
        )
        audited = installation.invoke("receiver", "audit")
        assert audited.status == 1
        assert (
            f"broken: an archived job has assets, all of them archived: {safe.ref}" in audited.out
        )
        assert "Traceback" not in service.output()


def test_a_second_worker_waits_and_can_be_stopped_while_it_does(installation: Installation) -> None:
    with running(WORKER, installation.environ, installation.folder) as first:
        first.says("worker started")
        with running(WORKER, installation.environ, installation.folder) as second:
            second.says("waiting for the worker that is still running")
            assert second.stop() == 0
        with running(WORKER, installation.environ, installation.folder) as third:
            third.says("waiting for the worker that is still running")
            first.kill()
            third.says("worker started")
