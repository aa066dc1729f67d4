"""Paid once: what is posted and stored, and what happens if the answer is strange, late or lost."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from submitting import asked, grsai_client, submit_service
from waiting import until
from web_client import web_client

from receiver.errors import ConfigurationError, LedgerError, NotSentError
from receiver.ledger.rows import Job
from receiver.model import Api, JobState, Mode, Provider, Reason, Submission
from receiver.providers.dialect import Task
from receiver.services import Services
from receiver.settings import Settings
from submitter.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(looks=1) as sandbox:
        yield sandbox


def finals(services: Services, job: Job) -> Job:
    """Wait until a stream has reported the end of the job."""
    until(lambda: services.jobs.get(job.ref).outcome, what="the stream's end")
    return services.jobs.get(job.ref)


@pytest.mark.parametrize(
    ("submission", "public", "named"),
    [
        (
            asked(Mode.WEBHOOK),
            False,
            "PUBLIC_URL: not set, so callbacks cannot reach us; set it, or use --mode poll",
        ),
        (
            asked(Mode.WEBHOOK, Api.NEWER),
            True,
            "--api api: the newer API has no callbacks; use --mode poll or --mode stream",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_is_posted(
    services: Services, sandbox: Sandbox, submission: Submission, *, public: bool, named: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        submit_service(services, public=public).submit(submission)
    assert refused.value.mistakes == [named]
    assert sandbox.stats()["accepted"] == 0
    assert services.queries.jobs() == []


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ({"message": "insufficient credits"}, "insufficient credits"),
        ({"message": "不存在该模型: veo3.1-fast"}, "不存在该模型: veo3.1-fast"),
        ({"status": 401}, "refused by the script"),
    ],
)
def test_a_refusal_is_a_failed_job_with_the_providers_message_and_is_not_repeated(
    services: Services, sandbox: Sandbox, refusal: dict[str, Any], message: str
) -> None:
    job = submit_service(services).submit(asked(refuse=refusal))
    assert (job.state, job.reason, job.message) == (JobState.FAILED, Reason.REFUSED, message)
    assert sandbox.stats()["refused"] == 1


def test_too_many_requests_is_repeated_after_5_10_20_seconds_and_then_fails_as_never_sent(
    services: Services, sandbox: Sandbox
) -> None:
    pauses: list[float] = []
    job = submit_service(services, pauses=pauses).submit(asked(refuse=429))
    assert pauses == [5.0, 10.0, 20.0]
    assert sandbox.stats()["refused"] == 4
    assert (job.state, job.reason) == (JobState.FAILED, Reason.REFUSED)
    assert job.message == "never sent: the provider answered 429: too many requests"
    assert [row.ref for row in services.queries.jobs()] == [job.ref]


def test_while_a_submit_waits_to_be_repeated_there_is_no_job_that_could_look_lost(
    services: Services,
) -> None:
    seen: list[int] = []
    watching = submit_service(services)
    watching._pause = lambda _seconds: seen.append(len(services.queries.jobs()))
    watching.submit(asked(refuse=429))
    assert seen == [0, 0, 0]


def test_a_connection_that_is_never_made_leaves_nothing_behind_until_it_is_given_up(
    services: Services,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    job = submit_service(services, base_url=address).submit(asked())
    assert (job.state, job.reason) == (JobState.FAILED, Reason.REFUSED)
    assert job.message.startswith("never sent: no connection to http://127.0.0.1:")


def test_a_lost_answer_leaves_the_job_submitting_and_its_callback_adopts_it(
    services: Services, sandbox: Sandbox
) -> None:
    job = submit_service(services).submit(asked(answer="lost"))
    assert (job.state, job.provider_id) == (JobState.SUBMITTING, None)
    (task,) = sandbox.tasks()
    ticket = task["webhook"].rpartition("/")[2]
    with web_client(services.settings.data_dir) as web:
        assert (
            web.callback(ticket, {"id": task["id"], "status": "running", "progress": 5}).status_code
            == 200
        )
    adopted = services.jobs.get(job.ref)
    assert (adopted.state, adopted.provider_id) == (JobState.WAITING, task["id"])
    assert sandbox.stats()["accepted"] == 1


@pytest.mark.parametrize("refusal", [{"status": 500}, {"status": 502}, {"status": 503}])
def test_a_gateways_error_may_hide_an_accepted_job_so_nothing_is_posted_again(
    services: Services, sandbox: Sandbox, refusal: dict[str, Any]
) -> None:
    job = submit_service(services).submit(asked(refuse=refusal))
    assert job.state is JobState.SUBMITTING
    assert sandbox.stats()["refused"] == 1


def test_an_answer_that_never_comes_counts_as_lost(services: Services, sandbox: Sandbox) -> None:
    job = submit_service(services).submit(asked(answer={"mode": "slow", "seconds": 30}))
    assert job.state is JobState.SUBMITTING
    assert sandbox.stats()["accepted"] == 1


def test_the_row_is_written_once_the_connection_stands_and_before_the_first_byte(
    services: Services,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        rows: list[int] = []

        def cut() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                rows.append(len(services.queries.jobs()))

        peer = threading.Thread(target=cut)
        peer.start()
        job = submit_service(services, base_url=address).submit(asked())
        peer.join()
    assert rows == [1]
    assert job.state is JobState.SUBMITTING


@pytest.mark.parametrize("api", [Api.DRAW, Api.NEWER])
def test_a_poll_job_is_posted_without_a_callback_url_and_soon_due(
    services: Services, sandbox: Sandbox, api: Api
) -> None:
    job = submit_service(services).submit(asked(Mode.POLL, api))
    assert job.state is JobState.WAITING
    assert job.due_at is not None
    assert job.due_at - job.submitted_at <= services.settings.poll_interval + 5
    (task,) = sandbox.tasks()
    assert task["request"].get("webHook", "-1") == "-1"
    task_ = Task(Provider.GRSAI, job.provider_id or "", job.base_url, api)
    assert services.clients.result(task_)


@pytest.mark.parametrize("api", [Api.DRAW, Api.NEWER])
@pytest.mark.parametrize("stream", ["ok", "no_done"])
def test_a_stream_is_taken_in_event_by_event_to_its_end(
    services: Services, api: Api, stream: str
) -> None:
    job = submit_service(services).submit(
        asked(Mode.STREAM, api, stream=stream, delay=0.2, progress=2)
    )
    assert finals(services, job).state is JobState.ARCHIVING
    verdicts = [row.verdict for row in services.queries.deliveries(job.ref)]
    assert verdicts[0] == "progress"
    assert verdicts[-1] == "ended"
    assert {row.source for row in services.queries.deliveries(job.ref)} == {"stream"}


@pytest.mark.parametrize("stream", ["cut", {"mode": "hang", "seconds": 1}])
def test_a_stream_without_an_end_leaves_the_job_to_polling(services: Services, stream: Any) -> None:
    job = submit_service(services).submit(asked(Mode.STREAM, stream=stream, delay=0.1))
    assert job.state is JobState.WAITING
    assert job.provider_id is not None
    until(
        lambda: (
            not [thread for thread in threading.enumerate() if thread.name.startswith("stream-")]
        ),
        what="the reader's end",
    )
    waiting = services.jobs.get(job.ref)
    assert waiting.state is JobState.WAITING
    assert waiting.due_at is not None


def test_a_json_error_instead_of_a_stream_is_a_refusal(services: Services) -> None:
    job = submit_service(services).submit(asked(Mode.STREAM, stream="json_error"))
    assert (job.state, job.reason) == (JobState.FAILED, Reason.REFUSED)


def test_a_key_is_spent_by_one_job(services: Services, sandbox: Sandbox) -> None:
    first = submit_service(services).submit(asked(Mode.POLL, key="order-1"))
    again = submit_service(services).submit(asked(Mode.POLL, key="order-1"))
    assert again.ref == first.ref
    assert sandbox.stats()["accepted"] == 1


def test_a_refused_job_has_not_spent_its_key(services: Services) -> None:
    refused = submit_service(services).submit(
        asked(Mode.POLL, key="order-1", refuse="insufficient credits")
    )
    made = submit_service(services).submit(asked(Mode.POLL, key="order-1"))
    assert made.ref != refused.ref
    assert made.state is JobState.WAITING
    assert services.jobs.get(refused.ref).key is None


def test_eight_who_submit_one_key_at_once_pay_once(services: Services, sandbox: Sandbox) -> None:
    refs: list[str] = []
    start = threading.Barrier(8)

    def submit() -> None:
        start.wait()
        refs.append(submit_service(services).submit(asked(Mode.POLL, key="order-1")).ref)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 8
    assert len(set(refs)) == 1
    assert sandbox.stats()["accepted"] == 1


def test_params_cannot_turn_the_answer_elsewhere(services: Services, sandbox: Sandbox) -> None:
    submission = Submission(
        "a fox",
        "gpt-image-1.5",
        {"webHook": "http://127.0.0.1:1/elsewhere", "sandbox": {"delay": 0}},
        Mode.POLL,
    )
    submit_service(services).submit(submission)
    assert [task["request"]["webHook"] for task in sandbox.tasks()] == ["-1"]


def test_without_retries_a_submit_that_was_not_sent_fails_at_once(
    services: Services, sandbox: Sandbox
) -> None:
    pauses: list[float] = []
    job = submit_service(services, pauses=pauses).submit(asked(refuse=429), back_off=())
    assert (pauses, job.reason, sandbox.stats()["refused"]) == ([], Reason.REFUSED, 1)


def test_the_error_of_an_unreachable_provider_does_not_have_its_key() -> None:
    client = grsai_client("http://127.0.0.1:1", "sk-secret-key", (1.0, 1.0))
    request = client.dialect.build_submit(client.account, asked(), None)
    with pytest.raises(NotSentError) as raised:
        client.submit(request, lambda: None)
    assert "sk-secret-key" not in str(raised.value)


# Streams as other servers send them.


def streamed(*pieces: bytes) -> tuple[socket.socket, str]:
    """Serve one stream made of these pieces; return the listener and its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            )
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass  # closed with something unread, a socket resets what it has sent

    threading.Thread(target=serve).start()
    return server, f"http://127.0.0.1:{server.getsockname()[1]}"


DONE = b'data: {"id":"t-1","status":"succeeded","results":[{"url":"http://127.0.0.1:9/0.png"}]}\n\n'


@pytest.mark.parametrize(
    "pieces",
    [
        (b"\n", DONE),
        (b": ping\n\n", DONE),
        (b"event: message\r\n", DONE),
        (DONE[:10], DONE[10:40], DONE[40:]),
        (DONE.replace(b"data: ", b"data:"),),
        (DONE.rstrip(b"\n"),),
    ],
    ids=["blank line", "comment", "named event", "in pieces", "no space", "no last line end"],
)
def test_a_stream_may_begin_and_break_its_lines_as_it_likes(
    services: Services, pieces: tuple[bytes, ...]
) -> None:
    server, address = streamed(*pieces)
    with server:
        job = submit_service(services, base_url=address).submit(asked(Mode.STREAM))
        assert finals(services, job).state is JobState.ARCHIVING


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"id":"t-1","status":"running","progr',
        b'data: {"code":1,"msg":"success","data":{"ID":"t-1"}}\n\n',
        b'data: "t-1"\n\n',
    ],
)
def test_an_id_in_an_event_that_is_no_report_is_kept(services: Services, event: bytes) -> None:
    server, address = streamed(event)
    with server:
        job = submit_service(services, base_url=address).submit(asked(Mode.STREAM))
    assert (job.state, job.provider_id) == (JobState.WAITING, "t-1")


def test_a_stream_of_large_events_costs_little_time(services: Services) -> None:
    text = b"x" * 1000
    server, address = streamed(
        *[b'data: {"id":"t-1","status":"running","note":"%s"}\n\n' % text] * 200, DONE
    )
    with server:
        job = submit_service(services, base_url=address).submit(asked(Mode.STREAM))
        assert finals(services, job).state is JobState.ARCHIVING
    assert len(services.queries.delivery_log(job.ref)) == 201


def test_an_id_that_the_ledger_cannot_take_now_is_kept_until_it_can(services: Services) -> None:
    pauses: list[float] = []
    patient = submit_service(services, pauses=pauses)
    accepted, failures = (
        services.jobs.record_accepted,
        [LedgerError("away"), LedgerError("still away")],
    )

    def sometimes(ref: str, provider_id: str, poll_url: str | None = None) -> Job:
        if failures:
            raise failures.pop()
        return accepted(ref, provider_id, poll_url)

    services.jobs.record_accepted = sometimes  # type: ignore[method-assign]  # the ledger of this test only
    job = patient.submit(asked(Mode.POLL))
    assert (job.state, len(pauses)) == (JobState.WAITING, 2)
    assert job.provider_id is not None


def test_a_data_dir_may_have_a_percent_sign(tmp_path: Path) -> None:
    with closing(
        Services(Settings.load({"DATA_DIR": str(tmp_path / "a%2Fb %")})).open()
    ) as services:
        assert services.queries.jobs() == []
    assert (tmp_path / "a%2Fb %" / "ledger.sqlite3").exists()
