"""Every spelling that real clients have seen, by every route, with one start of the service."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installation import Installation

from receiver.model import Api, Mode
from receiver.settings import Settings
from submitter.sandbox import Sandbox
from submitter.submit import Submitter

WRAPPINGS = ("envelope", "list", "string", "form", "multipart", "event", "mark", "utf16", "gbk")
REPORTS: list[dict[str, Any]] = [
    *({"mode": mode} for mode in (*WRAPPINGS, "gzip")),
    *({"dirt": dirt} for dirt in ("bad_utf8", "surrogate", "nan", "control")),
    *({"results": form} for form in ("texts", "object", "url_list", "image_url", "video_url")),
    {"results": "data_url"},
    *({"status": word} for word in ("done", "SUCCESS", "of-tomorrow")),
    {"mode": "gzip", "dirt": "bad_utf8", "results": "texts", "status": "finished"},
]
FAILURES: list[dict[str, Any]] = [{"failure": form} for form in ("camel", "upper", "object")]
ANSWERS = ("code_text", "code_200", "code_null", "bare_id", "task_id", "text", "event", "mark")
FILES: list[dict[str, Any]] = [
    {"coding": "utf-8"},
    {"coding": "aws-chunked"},
    {"packed": "gzip"},
    {"packed": "deflate"},
    {"status": 203},
    {"status": 206},
    {"last_chunk": False},
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Run one service and one strict sandbox for all routes."""
    folder: Path = tmp_path_factory.mktemp("spellings")
    with Sandbox(looks=1, script={"delay": 0.05, "strict": True, "bytes": 20_000}) as sandbox:
        installation = Installation(folder, sandbox)
        # A poll within the test must not hide a report that is not understood.
        installation.environ |= {"POLL_AFTER": "3000", "POLL_INTERVAL": "0.2"}
        with installation.started():
            yield installation


def run(
    installation: Installation, mode: Mode, scripts: list[dict[str, Any]], api: Api = Api.DRAW
) -> list[str]:
    """Post a job for each script, wait for all, and return how each ended."""
    with Submitter(Settings.load(installation.environ)) as submitter:
        refs = [
            submitter.submit(
                f"spelling {script}",
                model="gpt-image-2",
                params={"aspectRatio": "64x64", "sandbox": script},
                mode=mode,
                api=api,
            ).ref
            for script in scripts
        ]
        jobs = submitter.wait(refs, timeout=60)
    return [" ".join(filter(None, [job.state, job.reason, job.message])) for job in jobs]


def archived(count: int) -> list[str]:
    return ["archived"] * count


@pytest.mark.parametrize("mode", [Mode.WEBHOOK, Mode.POLL, Mode.STREAM])
def test_a_report_in_any_spelling_ends_its_job_as_the_plain_one(
    running: Installation, mode: Mode
) -> None:
    scripts = [{"report": report} for report in REPORTS]
    assert run(running, mode, scripts) == archived(len(scripts))
    moderated = [{"fail": "output_moderation", "report": report} for report in FAILURES]
    said = "failed output_moderation the result was rejected by moderation"
    assert run(running, mode, moderated) == [said] * len(moderated)
    with running.services() as services:
        deliveries = [
            row
            for job in services.queries.jobs(limit=len(moderated + scripts))
            for row in services.queries.delivery_log(job.ref)
        ]
    assert "unreadable" not in {row.verdict for row in deliveries}
    assert any(row.repaired for row in deliveries)


def test_an_answer_to_a_submit_in_any_spelling_is_an_accepted_job(running: Installation) -> None:
    scripts: list[dict[str, Any]] = [{"answer": mode} for mode in (*ANSWERS, "unending")]
    scripts += [{"answer": {"status": status}} for status in (201, 202)]
    for mode in (Mode.WEBHOOK, Mode.POLL):
        assert run(running, mode, scripts) == archived(len(scripts))
    # The whole task as the answer, finished or failed already.
    ends: list[dict[str, Any]] = [{"answer": "finished"}, {"answer": "finished", "fail": "error"}]
    assert run(running, Mode.POLL, ends) == [
        "archived",
        "failed provider_error generation failed, please submit again",
    ]
    (redirected,) = run(running, Mode.WEBHOOK, [{"answer": "redirect"}])
    assert redirected.startswith("failed refused the provider redirects to https://grsaiapi.com")


def test_a_stream_in_any_spelling_is_understood(running: Installation) -> None:
    scripts = [{"stream": mode} for mode in ("task", "id", "lines", "comments", "no_done")]
    assert run(running, Mode.STREAM, scripts) == archived(len(scripts))
    assert run(running, Mode.STREAM, scripts[:1], Api.NEWER) == archived(1)
    errors = [{"stream": mode} for mode in ("error_event", "late_error")]
    refused = run(running, Mode.STREAM, errors)
    assert refused == ["failed refused refused inside the stream"] * 2


def test_a_bad_request_about_our_own_task_is_its_end(running: Installation) -> None:
    scripts: list[dict[str, Any]] = [
        {"fail": "violation", "result": "bad_request"},
        {"fail": "error", "result": "bad_request"},
        {"result": "bad_request"},
    ]
    assert run(running, Mode.POLL, scripts, Api.NEWER) == [
        "failed violation the result violates the content policy",
        "failed provider_error generation failed, please submit again",
        "archived",
    ]


def test_a_file_in_any_answer_is_archived_as_it_is(running: Installation) -> None:
    scripts = [{"file": {"mode": "odd", **odd}} for odd in FILES]
    assert run(running, Mode.WEBHOOK, scripts) == archived(len(scripts))
    made = {file["sha256"] for task in running.tasks()[-len(scripts) :] for file in task["files"]}
    with running.services() as services:
        jobs = services.queries.jobs(limit=len(scripts))
        found = services.queries.assets([job.ref for job in jobs])
    assert {asset.sha256 for assets in found.values() for asset in assets} == made


def test_a_strict_sandbox_refuses_what_the_vendor_would_ignore(running: Installation) -> None:
    with Submitter(Settings.load(running.environ)) as submitter:
        job = submitter.submit("a fox", model="gpt-image-2", params={"size": "1:1"})
    assert (job.state, job.message) == (
        "failed",
        "size is ignored: gpt-image-2 does not have it",
    )
