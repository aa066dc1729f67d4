"""Senders of callbacks against a real ``receiver serve``: every report counts once, others never.

The scenarios SCN-001 to SCN-016 are those of the public suite
``luckyteagirl/webhook-receiver-conformance``. Our sender signs nothing; the ticket in the URL is
signed, so "signature" means the ticket. SCN-010 (a stale timestamp) does not apply: a provider may
report late and repeat itself, so tickets live for two years, and an old one is accepted. Below are
the known and possible faults of GRSAI: reports before the submit's answer, instead of it, twice,
out of order, or never.
"""

import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from installation import Installation
from running_receiver import FinishedTask, RunningReceiver, send_all
from side_by_side import side_by_side
from waiting import until

from receiver.failpoints import Point
from receiver.ingest.tickets import Tickets
from receiver.model import JobState, new_ref
from submitter.sandbox import Sandbox

CANARY = "canary-5e1f"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    folder = tmp_path_factory.mktemp("receiver")
    (folder / "failpoints").mkdir()
    with Sandbox(looks=1) as sandbox:
        installation = Installation(folder, sandbox)
        installation.environ |= {"POLL_AFTER": "1", "POLL_INTERVAL": "1"}
        with (
            installation.started(RECEIVER_FAULTS=str(folder / "failpoints")) as service,
            installation.services() as services,
        ):
            yield RunningReceiver(installation, service, services, folder / "failpoints")
            assert services.totals.audit().ok
            assert "Traceback" not in service.output()


def test_scn_001_a_single_report_is_accepted(receiver: RunningReceiver) -> None:
    finished = receiver.finished_task()
    answer = receiver.post(finished.ticket, finished.final)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "ref": finished.ref})
    assert receiver.is_safe_once(finished)
    assert receiver.verdicts(finished.ref) == ["ended"]


def test_scn_002_a_report_that_is_repeated_is_answered_alike_and_counts_once(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    answers = [receiver.post(finished.ticket, finished.final) for _ in range(3)]
    assert receiver.is_safe_once(finished)
    answers.append(receiver.post(finished.ticket, finished.final))
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (200, {"ok": True, "ref": finished.ref})
    ] * 4
    assert receiver.verdicts(finished.ref) == ["ended", *["duplicate"] * 3]


def test_scn_003_many_of_the_same_at_once_count_once(receiver: RunningReceiver) -> None:
    finished = receiver.finished_task()
    answers = side_by_side([partial(receiver.post, finished.ticket, finished.final)] * 16)
    assert {answer.status_code for answer in answers} == {200}
    assert receiver.is_safe_once(finished)
    assert Counter(receiver.verdicts(finished.ref)) == {"ended": 1, "duplicate": 15}


def test_scn_004_reports_in_the_wrong_order_change_nothing(receiver: RunningReceiver) -> None:
    finished = receiver.finished_task()
    late = [
        {"id": finished.task_id, "status": "running", "progress": progress}
        for progress in (90, 50, 10)
    ]
    answers = [receiver.post(finished.ticket, body) for body in (finished.final, *late)]
    assert {answer.status_code for answer in answers} == {200}
    assert receiver.is_safe_once(finished)
    assert receiver.verdicts(finished.ref) == ["ended", "late", "late", "late"]


def test_scn_005_a_sender_that_does_not_wait_for_the_answer_and_repeats_counts_once(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    with socket.create_connection(("127.0.0.1", receiver.installation.port)) as impatient:
        impatient.sendall(receiver.raw(finished, json.dumps(finished.final).encode()))
    until(lambda: receiver.verdicts(finished.ref), what="that the first one is taken in")
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    assert receiver.is_safe_once(finished)
    assert receiver.verdicts(finished.ref) == ["ended", "duplicate"]


def test_scn_006_a_report_that_broke_off_is_ignored_and_its_repetition_is_accepted(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    with socket.create_connection(("127.0.0.1", receiver.installation.port)) as broken:
        broken.sendall(receiver.raw(finished, json.dumps(finished.final).encode())[:-1])
        broken.shutdown(socket.SHUT_WR)
        assert broken.makefile("rb").read().split()[1:2] == [b"400"]
    assert not set(receiver.verdicts(finished.ref)) - {"unreadable"}
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    assert receiver.is_safe_once(finished)


def test_scn_007_without_a_ticket_a_body_is_not_believed_but_the_provider_is_asked(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    forged = {
        **finished.final,
        "results": [{"url": f"{receiver.installation.sandbox.url}/forged.png"}],
    }
    answer = requests.post(f"{receiver.installation.url}/callback", json=forged, timeout=20)
    assert answer.status_code == 202
    (job,) = until(
        lambda: receiver.services.queries.jobs(search=finished.task_id),
        what="that the provider knows the task",
    )
    finished.ref = job.ref
    assert receiver.is_safe_once(finished)


def other_characters(ticket: str) -> str:
    return ticket[:30] + "!" * 13 + ticket[43:]


def without_signature(ticket: str) -> str:
    return ticket.partition(".")[0]


def one_character_longer(ticket: str) -> str:
    return f"{ticket}A"


@pytest.mark.parametrize("wrong", [other_characters, without_signature, one_character_longer])
def test_scn_008_a_malformed_ticket_is_refused(receiver: RunningReceiver, wrong: Any) -> None:
    finished = receiver.finished_task()
    assert receiver.post(wrong(finished.ticket), finished.final).status_code == 404
    assert not receiver.knows(finished.ref)


def test_scn_009_a_ticket_signed_with_another_secret_is_refused(receiver: RunningReceiver) -> None:
    finished = receiver.finished_task()
    assert (
        receiver.post(
            Tickets(["a secret of another service"]).sign(finished.ref), finished.final
        ).status_code
        == 404
    )
    assert not receiver.knows(finished.ref)


def test_scn_010_an_old_ticket_is_accepted_like_any_other(receiver: RunningReceiver) -> None:
    finished = receiver.finished_task()
    finished.ref = new_ref(time.time() - 400 * 86_400)
    finished.ticket = receiver.services.tickets.sign(finished.ref)
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    assert receiver.is_safe_once(finished)


def test_scn_011_a_signature_holds_for_its_own_job_only(receiver: RunningReceiver) -> None:
    finished, other = receiver.finished_task(), receiver.finished_task()
    signature = finished.ticket.partition(".")[2]
    assert receiver.post(f"{other.ref}.{signature}", finished.final).status_code == 404
    assert not receiver.knows(other.ref)
    # A report is not signed: with a valid ticket, the report of another task is only stored.
    assert (
        receiver.post(finished.ticket, {"id": finished.task_id, "status": "running"}).status_code
        == 200
    )
    assert receiver.post(finished.ticket, {**other.final, "id": "another-task"}).status_code == 200
    assert receiver.verdicts(finished.ref)[1] == "other_id"
    assert receiver.is_safe_once(finished)


BODIES = {
    "no JSON": b"<html>",
    "cut JSON": b'{"id": "x", "status": "succ',
    "not an object": b"[1, 2]",
    "empty": b"",
    "not UTF-8": b'{"id": "\xff", "status": "succeeded"}',
    "not a number": b'{"id": "x", "progress": NaN}',
    "deep": b'{"id":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_scn_012_a_body_that_cannot_be_read_is_refused_stored_and_does_no_harm(
    receiver: RunningReceiver, body: bytes
) -> None:
    finished = receiver.finished_task()
    assert receiver.post(finished.ticket, body).status_code == 400
    (kept,) = receiver.services.queries.deliveries(finished.ref)
    assert (kept.verdict, kept.body) == ("unreadable", body)
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    assert receiver.verdicts(finished.ref) == ["unreadable", "ended"]


@pytest.mark.parametrize(
    "declared",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "nonsense",
    ],
)
def test_scn_012_the_declared_content_type_does_not_matter(
    receiver: RunningReceiver, declared: str
) -> None:
    finished = receiver.finished_task()
    assert (
        receiver.post(finished.ticket, finished.final, **{"Content-Type": declared}).status_code
        == 200
    )
    assert receiver.verdicts(finished.ref) == ["ended"]


def test_scn_013_a_receiver_that_is_restarted_between_two_attempts_counts_once(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    receiver.kill("gunicorn")
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    assert receiver.is_safe_once(finished)
    assert receiver.verdicts(finished.ref) == ["ended", "duplicate"]


def test_scn_013_a_receiver_that_dies_after_storing_and_before_answering_keeps_the_report(
    receiver: RunningReceiver,
) -> None:
    finished = until(receiver.die_answering, what="that the answering process is killed")
    assert finished is not None
    receiver.is_back()
    assert receiver.verdicts(finished.ref) == ["ended"]
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    # The killed process could not notify; polling would find the work, but seconds later.
    receiver.services.engine.notify()
    assert receiver.is_safe_once(finished)


def test_scn_014_a_sender_that_dies_after_sending_and_repeats_counts_once(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    with socket.create_connection(("127.0.0.1", receiver.installation.port)) as dying:
        dying.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # closing resets, as a dead process does
        dying.sendall(receiver.raw(finished, json.dumps(finished.final).encode()))
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    assert receiver.is_safe_once(finished)
    assert receiver.verdicts(finished.ref).count("ended") == 1


def test_scn_015_work_that_breaks_off_half_way_is_done_again_and_its_effect_is_there_once(
    receiver: RunningReceiver,
) -> None:
    (receiver.failpoints / Point.STORED).touch()
    finished = receiver.finished_task()
    assert receiver.post(finished.ticket, finished.final).status_code == 200
    assert receiver.is_safe_once(finished)
    assert not (receiver.failpoints / Point.STORED).exists(), (
        "the worker was killed with the object in the archive and the ledger not updated"
    )


def test_scn_016_no_secret_of_a_sender_is_in_logs_or_metrics(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    url = f"{receiver.installation.sandbox.url}/file/{'0' * 32}.png?signature={CANARY}"
    bodies: list[object] = [
        f'{{"id": "{CANARY}'.encode(),
        {"id": finished.task_id, "status": "running", "token": CANARY},
        {**finished.final, "results": [{"url": url}], "url": url},
    ]
    answers = [
        receiver.post(
            finished.ticket, body, Authorization=f"Bearer {CANARY}", Cookie=f"session={CANARY}"
        )
        for body in bodies
    ]
    answers.append(
        requests.post(
            f"{receiver.url(finished.ticket[:-1])}?key={CANARY}", json={"token": CANARY}, timeout=20
        )
    )
    assert [answer.status_code for answer in answers] == [400, 200, 200, 404]
    until(
        lambda: (
            finished.ref in receiver.service.output()
            and "archiving attempt failed" in receiver.service.output()
        ),
        what="an attempt at the URL",
    )
    shown = [
        receiver.service.output(),
        requests.get(f"{receiver.installation.url}/metrics", timeout=10).text,
        *(answer.text for answer in answers),
    ]
    assert not [text for text in shown if CANARY in text]
    assert not [text for text in shown if finished.ticket.partition(".")[2] in text]


# What GRSAI is known, or feared, to do


@pytest.mark.parametrize("mode", ["early", "duplicate", "reorder", "contradiction", "forged"])
def test_an_early_repeated_reordered_contradicted_or_forged_report_counts_once(
    receiver: RunningReceiver, mode: str
) -> None:
    job = receiver.installation.submit(callback=mode)
    assert receiver.is_safe_once(FinishedTask(job.ref, "", "", {}))
    until(
        lambda: receiver.installation.sandbox.stats()["callbacks_due"] == 0,
        what="that nothing more comes",
    )
    assert receiver.is_safe_once(FinishedTask(job.ref, "", "", {}))


@pytest.mark.parametrize(
    "script",
    [{"callback": "lost"}, {"answer": "lost"}],
    ids=["the callback", "the answer to the submit"],
)
def test_of_callback_and_answer_either_may_be_lost(
    receiver: RunningReceiver, script: dict[str, Any]
) -> None:
    job = receiver.installation.submit(**script)
    assert receiver.is_safe_once(FinishedTask(job.ref, "", "", {}))


def test_a_job_another_machine_submitted_with_the_same_secret_is_adopted_by_its_callback(
    receiver: RunningReceiver,
) -> None:
    finished = receiver.finished_task()
    elsewhere = Tickets([(receiver.installation.data / "secrets" / "callback").read_text().strip()])
    assert not receiver.knows(finished.ref)
    assert receiver.post(elsewhere.sign(finished.ref), finished.final).status_code == 200
    assert receiver.is_safe_once(finished)


def test_a_burst_of_reports_from_many_senders_in_any_order_loses_none(
    receiver: RunningReceiver,
) -> None:
    refs = [new_ref(time.time()) for _ in range(80)]
    reports = [
        (ref, status) for ref in refs for status in ("running", "running", "failed", "failed")
    ]
    random.Random(4).shuffle(reports)  # noqa: S311 - an order, the same every time
    with_sessions = [reports[number::12] for number in range(12)]
    statuses = side_by_side([partial(send_all, receiver, part) for part in with_sessions])
    assert Counter(status for part in statuses for status in part) == {200: len(reports)}
    jobs = receiver.services.queries.jobs_named(refs)
    assert [job.state for job in jobs] == [JobState.FAILED] * len(refs)
    for ref in refs:
        assert Counter(receiver.verdicts(ref))["ended"] == 1
        assert len(receiver.verdicts(ref)) == 4


# One clock


def test_every_process_of_the_service_uses_one_clock_also_after_a_restart(
    receiver: RunningReceiver,
) -> None:
    for words in ("receiver worker", "gunicorn"):
        receiver.kill(words)  # what takes its place is started as a program
    clocks = {}
    for pid, line in receiver.service.members().items():
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        clocks[line] = re.findall(rb"RECEIVER_CLOCK=([0-9.]+)", environ)
    events = {tuple(clock) for line, clock in clocks.items() if "thumbnail" not in line}
    assert len(events) == 1, clocks
    assert abs(float(events.pop()[0]) - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))) < 1
