"""The pure decision about a report, for every state, outcome and source."""

from dataclasses import replace
from itertools import product

import pytest

from receiver.ingest.inbox import decide
from receiver.ledger.rows import Job
from receiver.model import (
    FINAL_STATES,
    Api,
    Decision,
    JobState,
    Mode,
    Outcome,
    Reason,
    Report,
    Result,
    Source,
)

NEW = Job(
    ref="01KN0000000000000000000000",
    provider="grsai",
    base_url="https://provider.test",
    provider_id=None,
    api=Api.DRAW,
    mode=Mode.WEBHOOK,
    model="gpt-image-1.5",
    prompt="a red fox",
    key=None,
    state=JobState.SUBMITTING,
    outcome=None,
    reason=None,
    message="",
    progress=0,
    submitted_at=1.0,
    deadline_at=3601.0,
    ended_at=None,
    finished_at=None,
    round=0,
    due_at=121.0,
    claim=None,
    attempts=0,
)
WAITING = replace(NEW, state=JobState.WAITING, provider_id="task-1")
ARCHIVING = replace(WAITING, state=JobState.ARCHIVING, outcome=Outcome.SUCCEEDED)
ARCHIVED = replace(ARCHIVING, state=JobState.ARCHIVED)
FAILED = replace(
    WAITING, state=JobState.FAILED, outcome=Outcome.FAILED, reason=Reason.PROVIDER_ERROR
)
BAD_ASSET = replace(ARCHIVED, state=JobState.FAILED, reason=Reason.BAD_ASSET)
REFUSED = replace(NEW, state=JobState.FAILED, reason=Reason.REFUSED)
EXPIRED_SILENT = replace(WAITING, state=JobState.EXPIRED)
EXPIRED_URL = replace(ARCHIVED, state=JobState.EXPIRED)

RUNNING_REPORT = Report(Outcome.RUNNING, "task-1", "running", 10)
SUCCESS = Report(
    Outcome.SUCCEEDED, "task-1", "succeeded", 100, (Result("https://files.test/0.png"),)
)
EMPTY = replace(SUCCESS, results=())
FAILURE = Report(Outcome.FAILED, "task-1", "failed", reason=Reason.PROVIDER_ERROR)

EVERY_SOURCE = tuple(Source)
PUSHED = (Source.CALLBACK, Source.STREAM, Source.SYNC)


@pytest.mark.parametrize(
    ("job", "report", "sources", "verdict"),
    [
        pytest.param(
            NEW,
            RUNNING_REPORT,
            EVERY_SOURCE,
            Decision.PROGRESS,
            id="running before the submit's answer",
        ),
        pytest.param(
            NEW, SUCCESS, EVERY_SOURCE, Decision.ENDED, id="success before the submit's answer"
        ),
        pytest.param(
            NEW, FAILURE, EVERY_SOURCE, Decision.ENDED, id="failure before the submit's answer"
        ),
        pytest.param(
            NEW, EMPTY, EVERY_SOURCE, Decision.EMPTY, id="empty before the submit's answer"
        ),
        pytest.param(WAITING, RUNNING_REPORT, EVERY_SOURCE, Decision.PROGRESS, id="running"),
        pytest.param(WAITING, SUCCESS, EVERY_SOURCE, Decision.ENDED, id="success"),
        pytest.param(WAITING, FAILURE, EVERY_SOURCE, Decision.ENDED, id="failure"),
        pytest.param(WAITING, EMPTY, EVERY_SOURCE, Decision.EMPTY, id="empty"),
        pytest.param(
            ARCHIVING, RUNNING_REPORT, EVERY_SOURCE, Decision.LATE, id="running after the success"
        ),
        pytest.param(
            ARCHIVING,
            SUCCESS,
            (Source.POLL,),
            Decision.REFRESHED,
            id="success polled while its assets are on their way",
        ),
        pytest.param(
            ARCHIVING,
            SUCCESS,
            PUSHED,
            Decision.DUPLICATE,
            id="success pushed while its assets are on their way",
        ),
        pytest.param(
            ARCHIVING, EMPTY, EVERY_SOURCE, Decision.DUPLICATE, id="empty after the success"
        ),
        pytest.param(
            ARCHIVING, FAILURE, EVERY_SOURCE, Decision.CONTRADICTION, id="failure after the success"
        ),
        pytest.param(
            ARCHIVED, RUNNING_REPORT, EVERY_SOURCE, Decision.LATE, id="running after the archive"
        ),
        pytest.param(
            ARCHIVED, SUCCESS, EVERY_SOURCE, Decision.DUPLICATE, id="success after the archive"
        ),
        pytest.param(
            ARCHIVED, FAILURE, EVERY_SOURCE, Decision.CONTRADICTION, id="failure after the archive"
        ),
        pytest.param(
            FAILED, RUNNING_REPORT, EVERY_SOURCE, Decision.LATE, id="running after the failure"
        ),
        pytest.param(
            FAILED, SUCCESS, EVERY_SOURCE, Decision.CONTRADICTION, id="success after the failure"
        ),
        pytest.param(
            FAILED, EMPTY, EVERY_SOURCE, Decision.CONTRADICTION, id="empty after the failure"
        ),
        pytest.param(
            FAILED, FAILURE, EVERY_SOURCE, Decision.DUPLICATE, id="failure after the failure"
        ),
        pytest.param(
            BAD_ASSET, SUCCESS, EVERY_SOURCE, Decision.DUPLICATE, id="success after a bad asset"
        ),
        pytest.param(
            BAD_ASSET, FAILURE, EVERY_SOURCE, Decision.CONTRADICTION, id="failure after a bad asset"
        ),
        pytest.param(
            REFUSED, RUNNING_REPORT, EVERY_SOURCE, Decision.LATE, id="running after the refusal"
        ),
        pytest.param(
            REFUSED, SUCCESS, EVERY_SOURCE, Decision.ENDED, id="success after the refusal"
        ),
        pytest.param(
            REFUSED,
            EMPTY,
            EVERY_SOURCE,
            Decision.CONTRADICTION,
            id="success without a result after the refusal",
        ),
        pytest.param(
            REFUSED,
            FAILURE,
            EVERY_SOURCE,
            Decision.CONTRADICTION,
            id="failure after the refusal",
        ),
        pytest.param(
            EXPIRED_SILENT,
            RUNNING_REPORT,
            EVERY_SOURCE,
            Decision.LATE,
            id="running after the deadline",
        ),
        pytest.param(
            EXPIRED_SILENT,
            SUCCESS,
            EVERY_SOURCE,
            Decision.CONTRADICTION,
            id="success after the deadline",
        ),
        pytest.param(
            EXPIRED_SILENT,
            FAILURE,
            EVERY_SOURCE,
            Decision.CONTRADICTION,
            id="failure after the deadline",
        ),
        pytest.param(
            EXPIRED_URL, SUCCESS, EVERY_SOURCE, Decision.DUPLICATE, id="success after its URLs died"
        ),
    ],
)
def test_a_report_is_judged_by_what_the_job_knows(
    job: Job, report: Report, sources: tuple[Source, ...], verdict: Decision
) -> None:
    assert {source: decide(job, report, source) for source in sources} == dict.fromkeys(
        sources, verdict
    )


JOBS = (NEW, WAITING, ARCHIVING, ARCHIVED, FAILED, BAD_ASSET, REFUSED, EXPIRED_SILENT, EXPIRED_URL)
REPORTS = (RUNNING_REPORT, SUCCESS, EMPTY, FAILURE)
CHANGING = {Decision.PROGRESS, Decision.ENDED, Decision.EMPTY, Decision.REFRESHED}


@pytest.mark.parametrize(("report", "source"), list(product(REPORTS, Source)))
def test_the_report_of_another_task_is_never_believed(report: Report, source: Source) -> None:
    stray = replace(report, provider_id="task-2")
    knowing = [job for job in JOBS if job.provider_id]
    assert {
        decide(job, stray, source, confirm_always=confirm)
        for job in knowing
        for confirm in (True, False)
    } == {Decision.OTHER_ID}


@pytest.mark.parametrize(
    "unnamed",
    [
        (NEW, SUCCESS),
        (WAITING, replace(SUCCESS, provider_id=None)),
        (NEW, replace(SUCCESS, provider_id=None)),
    ],
)
def test_an_id_that_one_side_does_not_know_is_no_other_id(unnamed: tuple[Job, Report]) -> None:
    assert decide(*unnamed, Source.CALLBACK) is Decision.ENDED


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("report", REPORTS)
def test_where_callbacks_want_confirmation_only_callbacks_go_unbelieved(
    job: Job, report: Report
) -> None:
    undecided = job.outcome is None and (
        job.state not in FINAL_STATES or (job, report) == (REFUSED, SUCCESS)
    )
    believed = decide(job, report, Source.CALLBACK)
    assert decide(job, report, Source.CALLBACK, confirm_always=True) is (
        Decision.UNCONFIRMED if undecided else believed
    )
    for source in (Source.POLL, Source.STREAM, Source.SYNC):
        assert decide(job, report, source, confirm_always=True) is decide(job, report, source)


@pytest.mark.parametrize("job", [job for job in JOBS if job.state in FINAL_STATES])
def test_nothing_changes_a_final_job_but_a_success_that_we_took_for_refused(job: Job) -> None:
    reports = [report for report in REPORTS if (job, report) != (REFUSED, SUCCESS)]
    verdicts = {decide(job, report, source) for report in reports for source in Source}
    assert not verdicts & CHANGING


@pytest.mark.parametrize("job", JOBS)
def test_a_running_report_never_ends_a_job(job: Job) -> None:
    assert {decide(job, RUNNING_REPORT, source) for source in Source} <= {
        Decision.PROGRESS,
        Decision.LATE,
    }
