"""``submitter batch`` as users run it, against the sandbox and a real ``receiver serve``."""

import csv
import hashlib
import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batches import a_line, as_jsonl, batch, batch_file, batch_running, posts, quick_sandbox, report
from installation import Installation
from job_keys import JOB_KEYS
from waiting import until

from submitter.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with quick_sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def service(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Run one service for all tests of this module."""
    installation = Installation(tmp_path_factory.mktemp("service"), sandbox)
    installation.environ |= {"POLL_AFTER": "2", "POLL_INTERVAL": "1"}
    with installation.started() as process:
        yield installation
        assert installation.invoke("receiver", "audit").status == 0
        assert "Traceback" not in process.output()


@pytest.fixture
def served(service: Installation, tmp_path: Path) -> Installation:
    """Return the running service with an empty folder, and without the tasks of other tests."""
    return service.for_another_test(tmp_path)


@pytest.fixture
def installation(tmp_path: Path, sandbox: Sandbox) -> Installation:
    """Return a new installation in which nothing runs."""
    return Installation(tmp_path, sandbox)


MIXED: list[dict[str, Any] | str] = [
    a_line("plain"),
    a_line("two", variants=2),
    a_line("refused", script={"refuse": "insufficient credits"}),
    '{"prompt": "broken"',
    a_line("moderated", script={"fail": "output_moderation"}),
    a_line("broke", script={"fail": "error"}),
    "",
    {"size": "64x64"},
    a_line("lost answer", script={"answer": "lost"}),
    a_line("twice", script={"callback": {"mode": "duplicate", "times": 3}}),
    a_line("early", script={"callback": "early"}),
    a_line("polled", mode="poll"),
    a_line("newer", mode="poll", api="api"),
    a_line("no file", images=["no-such.png"]),
]
ENDS = {
    1: "archived",
    2: "archived",
    3: "refused",
    5: "output_moderation",
    6: "provider_error",
    9: "archived",
    10: "archived",
    11: "archived",
    12: "archived",
    13: "archived",
}


def test_every_line_is_posted_once_and_is_in_the_report_whatever_goes_wrong(
    served: Installation,
) -> None:
    batch_file(served, MIXED)
    done = batch(served, "batch.jsonl", "--report", "report.jsonl")
    assert (done.status, done.out) == (1, "13 lines: 7 archived, 3 failed, 3 bad\n")
    assert "line 4: column 19: not JSON" in done.err
    assert "line 8: column prompt: Field required" in done.err
    assert "line 14: column images: no-such.png: there is no such file" in done.err
    lines = report(served)
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]
    assert {
        line["line"]: line["reason"] or line["state"] for line in lines if "ref" in line
    } == ENDS
    assert {tuple(line) for line in lines if "ref" in line} == {(*JOB_KEYS, "line")}
    assert [tuple(line) for line in lines if "ref" not in line] == [("line", "error")] * 3
    archived = [line["assets"] for line in lines if line.get("state") == "archived"]
    assert [len(assets) for assets in archived] == [1, 2, 1, 1, 1, 1, 1]
    keys = [asset["key"] for assets in archived for asset in assets]
    assert all((served.data / "archive" / key).exists() for key in keys)
    assert set(posts(served).values()) == {1}


def test_run_again_it_pays_nothing_and_posts_only_what_was_refused(served: Installation) -> None:
    lines = [
        a_line("plain again"),
        a_line("refused again", script={"refuse": "insufficient credits"}),
        a_line("broke again", script={"fail": "error"}),
        {},
    ]
    batch_file(served, lines)
    batch(served, "batch.jsonl", "--report", "report.jsonl")
    first, stats = report(served), served.sandbox.stats()
    again = batch(served, "batch.jsonl", "--report", "report.jsonl")
    assert (again.status, again.out) == (1, "4 lines: 1 archived, 2 failed, 1 bad\n")
    assert "2 lines were submitted before" in again.err
    now = served.sandbox.stats()
    assert (now["accepted"], now["refused"]) == (stats["accepted"], stats["refused"] + 1)
    second = report(served)
    assert [second[n] for n in (0, 2, 3)] == [first[n] for n in (0, 2, 3)]
    assert (second[1]["reason"], second[1]["ref"] > first[1]["ref"]) == ("refused", True)


def test_the_pictures_of_each_job_are_saved_and_again_only_what_is_missing(
    served: Installation,
) -> None:
    lines = [a_line("two", variants=2), a_line("broke", script={"fail": "error"}), a_line("one")]
    batch_file(served, lines)
    options = ("batch.jsonl", "--name", "saved", "--output", "new/pictures", "--report", "r.jsonl")
    assert batch(served, *options).status == 1, "a job failed"
    folder = served.folder / "new" / "pictures"
    found = [json.loads(line) for line in (served.folder / "r.jsonl").read_text().splitlines()]
    assert [[str(Path(path).name) for path in line["files"]] for line in found] == [
        [f"{line['ref']}-{asset['index']}.png" for asset in line["assets"]] for line in found
    ]
    assert [len(line["files"]) for line in found] == [2, 0, 1]
    for line in found:
        for asset, path in zip(line["assets"], line["files"], strict=True):
            data = (served.folder / path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == asset["sha256"]
    kept, lost, foreign = sorted(folder.iterdir())
    lost.unlink()
    foreign.write_bytes(b"mine")
    before = kept.stat()
    again = batch(served, *options)
    assert (again.status, "exists and is another file" in again.err) == (1, True)
    assert (kept.stat(), lost.exists(), foreign.read_bytes()) == (before, True, b"mine")
    assert len(served.tasks()) == 3, "nothing is paid twice"


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_paid(
    served: Installation,
) -> None:
    batch_file(served, [a_line("a fox")])
    (served.folder / "file").touch()
    submit = ("submitter", "submit", "a fox", "--output", "file/pictures")
    for done in (
        batch(served, "batch.jsonl", "--output", "file/pictures"),
        served.invoke(*submit),
        batch(served, "batch.jsonl", "--output", "pictures", "--no-wait"),
    ):
        assert (done.status, "--output" in done.err, done.out) == (2, True, "")
    assert served.tasks() == []


def test_another_name_is_another_batch_and_a_key_of_ones_own_is_not(served: Installation) -> None:
    batch_file(served, [a_line("derived"), a_line("derived"), a_line("own", key="mine")])
    assert batch(served, "batch.jsonl").status == 0
    again = batch(served, "batch.jsonl", "--name", "second")
    assert (again.status, "1 lines were submitted before" in again.err) == (0, True)
    assert posts(served) == {"derived": 4, "own": 1}
    batch_file(served, [a_line("something else", key="mine")])
    other = batch(served, "batch.jsonl", "--report", "-")
    assert "line 1: column key: 'mine' is job" in other.err
    assert (other.status, json.loads(other.out)["key"]) == (1, "mine")
    assert posts(served)["something else"] == 0


def test_lines_come_by_stdin_as_jsonl_or_csv_and_mean_the_same(served: Installation) -> None:
    lines = [
        a_line("a fox, in snow", quality="high", variants=2),
        a_line("an owl", quality="low", variants=1),
    ]
    assert batch(served, "-", stdin=as_jsonl(lines)).status == 0
    table = io.StringIO()
    writer = csv.DictWriter(table, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    done = batch(served, "-", "--format", "csv", "--report", "-", stdin=table.getvalue())
    assert done.status == 0, done.err
    assert [
        (line["line"], len(line["assets"])) for line in map(json.loads, done.out.splitlines())
    ] == [(2, 2), (3, 1)]
    assert "2 lines: 2 archived" in done.err
    (served.folder / "named.CSV").write_text(table.getvalue(), encoding="utf-8")
    assert batch(served, "named.CSV", "--name", "stdin").status == 0
    assert posts(served) == {"a fox, in snow": 1, "an owl": 1}
    (body,) = [task["request"] for task in served.tasks() if task["prompt"] == "a fox, in snow"]
    assert body.items() >= {"quality": "high", "variants": 2, "aspectRatio": "64x64"}.items()


# Before the first POST.


@pytest.mark.parametrize("by_stdin", [False, True])
def test_strict_posts_nothing_if_any_line_is_bad(
    installation: Installation, *, by_stdin: bool
) -> None:
    lines: list[dict[str, Any] | str] = [
        a_line("good"),
        a_line("bad", variants=0),
        a_line("no file", image="no-such.png"),
        "oops",
        a_line("good too"),
    ]
    path = "-" if by_stdin else batch_file(installation, lines).name
    done = batch(installation, path, "--strict", stdin=as_jsonl(lines) if by_stdin else "")
    assert (done.status, done.out) == (1, "")
    assert [line.partition(":")[0] for line in done.err.splitlines()] == [
        "line 2",
        "line 3",
        "line 4",
        "3 of 5 lines are bad",
    ]
    good = as_jsonl([a_line("good"), a_line("good too")])
    assert batch(installation, "-", "--strict", "--no-wait", stdin=good).status == 0
    assert posts(installation) == {"good": 1, "good too": 1}


def test_every_mistake_of_the_configuration_is_printed_at_once_and_before_the_first_post(
    installation: Installation,
) -> None:
    batch_file(
        installation, [a_line("a"), a_line("b", mode="poll"), a_line("c", provider="openai")]
    )
    missing = {"GRSAI_API_KEY": "", "PUBLIC_URL": ""}
    done = batch(installation, "batch.jsonl", "--report", "no/such/folder/r.jsonl", environ=missing)
    assert (done.status, done.out) == (2, "")
    for said in (
        "GRSAI_API_KEY: not set",
        "OPENAI_API_KEY: not set",
        "PUBLIC_URL: not set",
        "--report no/such/folder/r.jsonl: No such",
    ):
        assert said in done.err
    (installation.folder / "bad.csv").write_text("promt,promt\na,b\n")
    done = batch(installation, "bad.csv", environ=missing)
    assert done.status == 2
    assert all(said in done.err for said in ("names 'promt' twice", "no column prompt"))
    assert posts(installation) == {}
    # Polled lines need no PUBLIC_URL. The lines of stdin are not known before, so --mode decides.
    no_url = {"PUBLIC_URL": ""}
    batch_file(installation, [a_line("b", mode="poll")])
    assert batch(installation, "batch.jsonl", "--no-wait", environ=no_url).status == 0
    webhook = as_jsonl([a_line("d")])
    assert batch(installation, "-", "--no-wait", stdin=webhook, environ=no_url).status == 2
    mixed = as_jsonl([a_line("d"), a_line("e", mode="webhook")])
    done = batch(installation, "-", "--no-wait", "--mode", "poll", stdin=mixed, environ=no_url)
    assert (done.status, "line 2: PUBLIC_URL: not set" in done.err) == (1, True)
    assert posts(installation) == {"b": 1, "d": 1}


@pytest.mark.parametrize(
    "options",
    [
        ["no-such.jsonl"],
        ["-", "--concurrency", "0"],
        ["-", "--rate", "0"],
        ["-", "--resubmit", "1", "--no-wait"],
        ["-", "--api", "api"],
    ],
)
def test_wrong_usage_is_exit_status_2(installation: Installation, options: list[str]) -> None:
    done = batch(installation, *options, stdin=as_jsonl([a_line("a")]))
    assert (done.status, posts(installation)) == (2, {})


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv"])
def test_a_file_without_lines_is_done_at_once(installation: Installation, name: str) -> None:
    (installation.folder / name).touch()
    done = batch(installation, name, "--report", "report.jsonl")
    assert (done.status, done.out, report(installation)) == (0, "0 lines: nothing to do\n", [])


# Rate, retries, limits.


def test_the_rate_is_kept(installation: Installation) -> None:
    batch_file(installation, [a_line(f"rate {n}") for n in range(12)])
    options = ("--no-wait", "--rate", "10", "--concurrency", "8")
    assert batch(installation, "batch.jsonl", *options).status == 0
    times = sorted(task["submitted_at"] for task in installation.tasks())
    # Eleven tenths of a second, less what the first submit was late.
    assert times[-1] - times[0] >= 0.9


def test_a_line_that_must_come_later_does_not_hold_up_the_others(
    installation: Installation,
) -> None:
    lines = [a_line("too many", script={"refuse": {"status": 429}})]
    batch_file(installation, [*lines, *(a_line(f"{n}") for n in range(20))])
    with batch_running(installation, "batch.jsonl", "--no-wait", "--concurrency", "2") as process:
        until(lambda: len(installation.tasks()) == 20)
        process.says("submit not sent, will be retried")
        assert process.process.poll() is None
        process.kill()
    # A waiting line has no job, so that a killed batch finds the line not posted.
    found = installation.invoke("receiver", "jobs", "--json", "--limit", "10000").out.splitlines()
    assert {json.loads(line)["prompt"] for line in found} == {str(n) for n in range(20)}
    assert len(found) == 20


def test_a_failure_of_the_provider_is_posted_again_and_moderation_never(
    served: Installation,
) -> None:
    lines = [
        a_line("breaks", script={"fail": "error"}),
        a_line("violation", script={"fail": "violation"}),
        a_line("fine"),
    ]
    batch_file(served, lines)
    done = batch(served, "batch.jsonl", "--resubmit", "2", "--report", "report.jsonl")
    assert (done.status, done.out) == (1, "3 lines: 1 archived, 2 failed\n")
    assert posts(served) == {"breaks": 3, "violation": 1, "fine": 1}
    last = report(served)[0]
    assert last["key"].endswith(" (again 2)")
    # Resubmits of earlier runs count, and the report always has the newest job.
    for options in (["--resubmit", "2"], [], ["--no-wait"]):
        assert batch(served, "batch.jsonl", "--report", "report.jsonl", *options).status == 1
        assert report(served)[0] == last
    assert posts(served)["breaks"] == 3
    assert batch(served, "batch.jsonl", "--resubmit", "3").status == 1
    assert posts(served)["breaks"] == 4


def test_after_the_timeout_a_batch_prints_how_many_jobs_are_not_final(
    served: Installation,
) -> None:
    batch_file(served, [a_line("in time")])
    assert batch(served, "batch.jsonl").status == 0
    batch_file(served, [a_line("slow", script={"delay": 600}), a_line("in time")])
    done = batch(served, "batch.jsonl", "--timeout", "1", "--report", "report.jsonl")
    assert (done.status, done.out) == (1, "2 lines: 1 waiting, 1 archived\n")
    assert "1 of 2 jobs are not final after 1 s; they go on" in done.err
    assert [line["state"] for line in report(served)] == ["waiting", "archived"]


def test_without_a_worker_it_says_so_and_no_wait_needs_none(installation: Installation) -> None:
    batch_file(installation, [a_line("no worker")])
    assert batch(installation, "batch.jsonl", "--no-wait").status == 0
    done = batch(installation, "batch.jsonl", "--timeout", "0")
    assert (done.status, "start `receiver serve`" in done.err) == (1, True)


def test_at_a_terminal_a_bar_shows_states_and_the_remaining_time(served: Installation) -> None:
    batch_file(served, [a_line("bar b")])
    assert batch(served, "batch.jsonl").status == 0
    batch_file(served, [a_line("bar a", script={"delay": 2}), a_line("bar b"), "oops"])
    shown = batch(served, "batch.jsonl", environ={"FORCE_COLOR": "1"}).err
    assert "2/3" in shown
    assert "1 waiting, 1 archived, 1 bad" in shown
    assert "0:00:0" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_prints_how_to_continue_and_pays_nothing_twice(
    served: Installation, number: signal.Signals
) -> None:
    prompts = [f"{number.name} {n}" for n in range(40)]
    batch_file(served, [a_line(prompt) for prompt in prompts])
    options = ("--rate", "20", "--report", "report.jsonl")
    with batch_running(served, "batch.jsonl", *options) as process:
        until(lambda: len(served.tasks()) >= 5)
        assert process.stop(number) == 130
        assert "run the same command again to continue" in process.output()
    before = len(served.tasks())
    assert 5 <= before < 40
    assert len(report(served)) == before
    assert batch(served, "batch.jsonl", "--report", "report.jsonl").status == 0
    assert [line["prompt"] for line in report(served)] == prompts
    assert posts(served) == dict.fromkeys(prompts, 1)
    assert {line["state"] for line in report(served)} == {"archived"}


def test_a_silent_stream_can_be_interrupted(installation: Installation) -> None:
    pipe = installation.folder / "pipe"
    os.mkfifo(pipe)
    with batch_running(installation, "pipe", "--no-wait") as process:
        with pipe.open("w") as stream:
            stream.write(as_jsonl([a_line("first")]))
            stream.flush()
            until(lambda: len(installation.tasks()) == 1)
            # It ends although the stream is still open.
            assert process.stop(signal.SIGINT) == 130
        assert "Fatal Python error" not in process.output()
