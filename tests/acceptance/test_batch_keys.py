"""Keys of users: a key belongs to one job, and another request with it posts nothing and fails."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from batches import a_line, as_jsonl, batch, batch_file, batch_running, posts, quick_sandbox, report
from installation import Installation
from waiting import until

from submitter.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with quick_sandbox() as running:
        yield running


def test_a_line_whose_key_is_another_prompts_job_is_bad_and_the_first_is_made(
    installation: Installation,
) -> None:
    with installation.started():
        for concurrency, key in (("1", "kq"), ("4", "kr")):
            lines = [a_line(f"A {key}", key=key), a_line(f"B {key}", key=key)]
            batch_file(installation, lines)
            options = ("--concurrency", concurrency, "--report", "report.jsonl")
            done = batch(installation, "batch.jsonl", *options)
            assert (done.status, done.out) == (1, "2 lines: 1 archived, 1 bad\n")
            made, bad = sorted(report(installation), key=lambda line: "error" in line)
            assert list(bad) == ["line", "key", "error"]
            assert (bad["key"], bad["line"] + made["line"]) == (key, 3)
            assert made["prompt"] == lines[made["line"] - 1]["prompt"]
            reason = "which was asked for something else; nothing posted"
            assert f"{key!r} is job {made['ref']}, {reason}" in bad["error"]
            assert f"line {bad['line']}: {bad['error']}" in done.err
    assert sum(posts(installation).values()) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"model": "nano-banana"},
        {"quality": "high"},
        {"size": "3:2"},
        {"variants": 2},
        {"images": ["http://x.test/a.png"]},
    ],
)
def test_the_same_prompt_with_another_model_or_params_is_something_else(
    installation: Installation, other: dict[str, object]
) -> None:
    assert (
        batch(installation, "-", "--no-wait", stdin=as_jsonl([a_line("a fox", key="kq")])).status
        == 0
    )
    done = batch(
        installation, "-", "--no-wait", stdin=as_jsonl([a_line("a fox", key="kq") | other])
    )
    assert (done.status, done.out) == (1, "1 lines: 1 bad\n")
    assert sum(posts(installation).values()) == 1


def test_the_same_request_however_written_and_whatever_its_mode_is_the_same_job(
    installation: Installation,
) -> None:
    first = {"prompt": "a fox", "key": "kq", "size": "3:2", "quality": "high"}
    again = {
        "key": "kq",
        "params": {"quality": "high", "size": "3:2"},
        "prompt": " a fox ",
        "mode": "poll",
        "model": "gpt-image-1.5",
    }
    done = batch(
        installation,
        "-",
        "--no-wait",
        "--concurrency",
        "1",
        "--strict",
        stdin=as_jsonl([first, again]),
    )
    assert (done.status, done.out) == (0, "2 lines: 2 waiting\n"), done.err
    assert "1 lines were submitted before" in done.err
    assert posts(installation) == {"a fox": 1}


def test_a_reference_picture_that_is_gone_is_not_needed_to_find_its_job(
    installation: Installation,
) -> None:
    picture = installation.folder / "p.png"
    picture.write_bytes(bytes.fromhex(PIXEL))
    lines = as_jsonl([a_line("a fox", key="kq", images=["p.png"])])
    assert batch(installation, "-", "--no-wait", stdin=lines).status == 0
    assert batch(installation, "-", "--no-wait", stdin=lines).status == 0
    picture.unlink()
    done = batch(installation, "-", "--no-wait", stdin=lines)
    assert (done.status, "1 lines were submitted before" in done.err) == (0, True), done.err
    assert posts(installation) == {"a fox": 1}


# One grey pixel, a PNG.
PIXEL = (
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)


def test_strict_finds_a_key_that_two_lines_use_for_different_things_and_posts_nothing(
    installation: Installation,
) -> None:
    batch_file(
        installation,
        [
            a_line("A meaning", key="kq"),
            a_line("A meaning", key="kq"),
            a_line("B meaning", key="kq"),
            a_line("fine"),
        ],
    )
    done = batch(installation, "batch.jsonl", "--strict")
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines() == [
        (
            "line 3: column key: 'kq' is line 1's key, which asks for something else; "
            "give this line another"
        ),
        "1 of 4 lines are bad: nothing was posted",
    ]
    assert posts(installation) == {}


def test_two_batches_side_by_side_know_which_of_them_made_a_job(installation: Installation) -> None:
    """Each prints how many lines were submitted before; the sum is all lines but those posted."""
    count = 40
    batch_file(
        installation,
        [
            a_line(f"{n}", key=f"key-{n}", script={"answer": {"mode": "slow", "seconds": 0.05}})
            for n in range(count)
        ],
    )
    with ExitStack() as stack:
        both = [
            stack.enter_context(
                batch_running(installation, "batch.jsonl", "--no-wait", "--concurrency", "8")
            )
            for _ in range(2)
        ]
        until(lambda: all(one.process.poll() is not None for one in both))
        assert [one.process.returncode for one in both] == [0, 0], (
            both[0].output() + both[1].output()
        )
        said = [
            line
            for one in both
            for line in one.output().splitlines()
            if "were submitted before" in line
        ]
    assert sum(int(line.split()[0]) for line in said) == count
    assert posts(installation) == Counter({f"{n}": 1 for n in range(count)})


# One key, one command.


def test_submit_under_the_key_of_another_prompt_says_whose_it_is_and_posts_nothing(
    installation: Installation,
) -> None:
    command = ("submitter", "submit", "--key", "kq", "--mode", "poll", "--json")
    first = installation.invoke(*command, "a fox")
    assert first.status == 0
    ref = json.loads(first.out)["ref"]
    again = installation.invoke(*command, "a fox")
    assert (again.status, json.loads(again.out)["ref"]) == (0, ref)
    for options in ((), ("--wait",)):
        other = installation.invoke(*command, "something else", *options)
        assert (other.status, other.out) == (1, "")
        assert (
            f"the key 'kq' belongs to job {ref}, which was asked for something else; nothing posted"
            in other.err
        )
    assert posts(installation) == {"a fox": 1}


# The report and the input.


@pytest.mark.parametrize("named", ["batch.jsonl", "./batch.jsonl", "link", "hard", "-"])
def test_a_report_that_is_the_input_is_refused_and_nothing_is_lost(
    installation: Installation, named: str
) -> None:
    path = batch_file(installation, [a_line("a fox")])
    before = path.read_bytes()
    (installation.folder / "link").symlink_to("batch.jsonl")
    os.link(path, installation.folder / "hard")
    if named == "-":
        script = installation.folder / "by-stdin"
        script.write_text("#!/bin/sh\nexec submitter batch - --report batch.jsonl < batch.jsonl\n")
        script.chmod(0o755)
        done = installation.run(str(script))
    else:
        done = batch(installation, "batch.jsonl", "--report", named)
    assert (done.status, done.out) == (2, "")
    assert "--report is the input file; name another" in done.err
    assert path.read_bytes() == before
    assert posts(installation) == {}


def test_the_file_a_report_is_first_written_to_is_not_the_input_either(
    installation: Installation,
) -> None:
    path = batch_file(installation, [a_line("a fox")], "r.jsonl.part")
    done = batch(installation, "r.jsonl.part", "--report", "r.jsonl")
    assert (done.status, "--report is the input file; name another" in done.err) == (2, True)
    assert path.read_text() == as_jsonl([a_line("a fox")])


@pytest.mark.parametrize("by_stdin", [True, False])
def test_a_wrong_csv_header_is_not_offered_to_be_continued(
    installation: Installation, *, by_stdin: bool
) -> None:
    text = "promt,size\na,64x64\n"
    (installation.folder / "bad.csv").write_text(text)
    done = (
        batch(installation, "-", "--format", "csv", stdin=text)
        if by_stdin
        else batch(installation, "bad.csv")
    )
    assert (done.status, "no column prompt" in done.err, "again" in done.err) == (2, True, False)
