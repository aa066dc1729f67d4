"""What senders of callbacks do, against a real ``receiver serve``: every report counts once, and nothing that is not ours counts at all.

The scenarios SCN-001 to SCN-016 are those of the public suite ``luckyteagirl/webhook-receiver-conformance``, read for a sender that
signs nothing: what is signed is the ticket in the URL, so "signature" means ticket there. SCN-010, a stale timestamp, does not apply:
a provider may take its time and repeat itself late, so tickets do not expire, and an old one is taken like any other.
Below them stands what GRSAI is known or feared to do: reports before the submit's answer, instead of it, twice, out of order or never.
"""

import json
import os
import random
import re
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from installation import Premises
from processes import Running
from side_by_side import side_by_side
from waiting import until

from receiver.failpoints import Point
from receiver.ingest.tickets import Tickets
from receiver.model import JobState, new_ref
from receiver.services import Services
from submitter.sandbox import Sandbox

CANARY = "canary-5e1f"


@dataclass
class Made:
    """A job the provider finished, of which nobody here has heard yet: its ticket, and the report that says so."""

    ref: str
    ticket: str
    task: str
    final: dict[str, Any]


@dataclass
class House:
    """One service for all these tests. ``faults`` is the folder in which its fault points are armed."""

    here: Premises
    service: Running
    services: Services
    faults: Path

    def made(self, **script: Any) -> Made:
        """Have the provider finish a job whose callbacks are left to the test."""
        order: dict[str, Any] = {
            "model": "m",
            "prompt": "a fox",
            "size": "64x64",
            "webHook": "-1",
            "sandbox": {"delay": 0, **script},
        }
        task = self._ask("/v1/draw/completions", **order)["id"]
        until(
            lambda: self.here.sandbox.task(task)["status"] != "running",
            what="that the provider is done",
        )
        ref = new_ref(time.time())
        return Made(
            ref, self.services.tickets.sign(ref), task, self._ask("/v1/draw/result", id=task)
        )

    def _ask(self, path: str, **question: Any) -> Any:
        headers = {"Authorization": "Bearer sk-test"}
        return requests.post(
            self.here.sandbox.url + path, json=question, headers=headers, timeout=10
        ).json()["data"]

    def url(self, ticket: str) -> str:
        """Return the callback URL of a ticket."""
        return f"{self.here.url}/callback/{ticket}"

    def post(self, ticket: str, body: object, **headers: str) -> requests.Response:
        """Send a callback; what is not bytes goes as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(
            self.url(ticket), data=data, headers=headers, timeout=20, allow_redirects=False
        )

    def raw(self, made: Made, body: bytes) -> bytes:
        """Return a callback as it goes over the wire."""
        head = [
            f"POST /callback/{made.ticket} HTTP/1.1",
            "Host: x",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "",
            "",
        ]
        return "\r\n".join(head).encode() + body

    def verdicts(self, ref: str) -> list[str]:
        """Return what a job's callbacks were taken for."""
        return [
            row.verdict
            for row in self.services.queries.delivery_log(ref)
            if row.source == "callback"
        ]

    def is_safe_once(self, made: Made) -> bool:
        """Wait for the end of a job; say whether its picture is in the archive, byte for byte and once."""
        (job,) = self.here.wait(made.ref)
        told = Counter(
            event["type"]
            for event in self.services.queries.events(limit=100_000)
            if event["ref"] == made.ref
        )
        objects = [path.name for path in self.here.data.glob(f"archive/*/*/*/{made.ref}/*")]
        return (
            self.here.is_safe(job)
            and sorted(objects) == ["0.png", "job.json"]
            and told - Counter(["job.at_risk"]) == Counter(["asset.archived", "job.archived"])
        )

    def knows(self, ref: str) -> bool:
        """Say whether there is such a job."""
        return self.services.queries.job(ref) is not None

    def kill(self, words: str) -> None:
        """Kill the processes with these words in their command lines, and wait until they are back."""
        pids = {pid for pid, line in self.service.members().items() if words in line}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: not pids & set(self.service.members()) and self._has(words),
            what=f"another {words}",
        )
        self.is_back()

    def _has(self, words: str) -> bool:
        return any(words in line for line in self.service.members().values())

    def is_idle(self) -> bool:
        """Say whether there is no work left, now or later."""
        return all(
            self.services.queries.next_due(table) is None for table in ("assets", "jobs", "hints")
        )

    def is_back(self) -> None:
        """Wait until the service answers."""
        until(
            lambda: self.here.status("/readyz") == requests.codes.ok,
            what="that the service answers again",
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    (folder / "faults").mkdir()
    with Sandbox(looks=1) as sandbox:
        here = Premises(folder, sandbox)
        here.environ |= {"POLL_AFTER": "1", "POLL_INTERVAL": "1"}
        with (
            here.started(RECEIVER_FAULTS=str(folder / "faults")) as service,
            here.services() as services,
        ):
            yield House(here, service, services, folder / "faults")
            assert services.queries.audit().ok
            assert "Traceback" not in service.output()


def test_scn_001_a_single_report_is_taken_in(house: House) -> None:
    made = house.made()
    answer = house.post(made.ticket, made.final)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "ref": made.ref})
    assert house.is_safe_once(made)
    assert house.verdicts(made.ref) == ["ended"]


def test_scn_002_a_report_that_is_repeated_is_answered_alike_and_counts_once(house: House) -> None:
    made = house.made()
    answers = [house.post(made.ticket, made.final) for _ in range(3)]
    assert house.is_safe_once(made)
    answers.append(house.post(made.ticket, made.final))
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (200, {"ok": True, "ref": made.ref})
    ] * 4
    assert house.verdicts(made.ref) == ["ended", *["duplicate"] * 3]


def test_scn_003_many_of_the_same_at_once_count_once(house: House) -> None:
    made = house.made()
    answers = side_by_side([partial(house.post, made.ticket, made.final)] * 16)
    assert {answer.status_code for answer in answers} == {200}
    assert house.is_safe_once(made)
    assert Counter(house.verdicts(made.ref)) == {"ended": 1, "duplicate": 15}


def test_scn_004_reports_in_the_wrong_order_change_nothing(house: House) -> None:
    made = house.made()
    late = [
        {"id": made.task, "status": "running", "progress": progress} for progress in (90, 50, 10)
    ]
    answers = [house.post(made.ticket, body) for body in (made.final, *late)]
    assert {answer.status_code for answer in answers} == {200}
    assert house.is_safe_once(made)
    assert house.verdicts(made.ref) == ["ended", "late", "late", "late"]


def test_scn_005_a_sender_that_does_not_wait_for_the_answer_and_repeats_counts_once(
    house: House,
) -> None:
    made = house.made()
    with socket.create_connection(("127.0.0.1", house.here.port)) as impatient:
        impatient.sendall(house.raw(made, json.dumps(made.final).encode()))
    until(lambda: house.verdicts(made.ref), what="that the first one is taken in")
    assert house.post(made.ticket, made.final).status_code == 200
    assert house.is_safe_once(made)
    assert house.verdicts(made.ref) == ["ended", "duplicate"]


def test_scn_006_a_report_that_broke_off_is_not_believed_and_its_repetition_is(
    house: House,
) -> None:
    made = house.made()
    with socket.create_connection(("127.0.0.1", house.here.port)) as broken:
        broken.sendall(house.raw(made, json.dumps(made.final).encode())[:-1])
        broken.shutdown(socket.SHUT_WR)
        assert broken.makefile("rb").read().split()[1:2] == [b"400"]
    assert not set(house.verdicts(made.ref)) - {"unreadable"}
    assert house.post(made.ticket, made.final).status_code == 200
    assert house.is_safe_once(made)


def test_scn_007_without_a_ticket_a_body_is_not_believed_but_the_provider_is_asked(
    house: House,
) -> None:
    made = house.made()
    forged = {**made.final, "results": [{"url": f"{house.here.sandbox.url}/forged.png"}]}
    answer = requests.post(f"{house.here.url}/callback", json=forged, timeout=20)
    assert answer.status_code == 202
    (job,) = until(
        lambda: house.services.queries.jobs(search=made.task),
        what="that the provider knows the task",
    )
    made.ref = job.ref
    assert house.is_safe_once(made)


def other_characters(ticket: str) -> str:
    return ticket[:30] + "!" * 13 + ticket[43:]


def without_signature(ticket: str) -> str:
    return ticket.partition(".")[0]


def one_character_longer(ticket: str) -> str:
    return f"{ticket}A"


@pytest.mark.parametrize("wrong", [other_characters, without_signature, one_character_longer])
def test_scn_008_what_has_not_the_shape_of_a_ticket_is_not_ours(house: House, wrong: Any) -> None:
    made = house.made()
    assert house.post(wrong(made.ticket), made.final).status_code == 404
    assert not house.knows(made.ref)


def test_scn_009_a_ticket_signed_with_another_secret_is_not_ours(house: House) -> None:
    made = house.made()
    assert (
        house.post(Tickets(["a secret of somebody else's"]).sign(made.ref), made.final).status_code
        == 404
    )
    assert not house.knows(made.ref)


def test_scn_010_an_old_ticket_is_taken_like_any_other(house: House) -> None:
    made = house.made()
    made.ref = new_ref(time.time() - 400 * 86_400)
    made.ticket = house.services.tickets.sign(made.ref)
    assert house.post(made.ticket, made.final).status_code == 200
    assert house.is_safe_once(made)


def test_scn_011_a_signature_holds_for_its_own_job_only(house: House) -> None:
    made, other = house.made(), house.made()
    signature = made.ticket.partition(".")[2]
    assert house.post(f"{other.ref}.{signature}", made.final).status_code == 404
    assert not house.knows(other.ref)
    # A report is not signed: around the right ticket, the report of another task is kept and not believed.
    assert house.post(made.ticket, {"id": made.task, "status": "running"}).status_code == 200
    assert house.post(made.ticket, {**other.final, "id": "another-task"}).status_code == 200
    assert house.verdicts(made.ref)[1] == "other_id"
    assert house.is_safe_once(made)


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
def test_scn_012_a_body_that_cannot_be_read_is_told_kept_and_does_no_harm(
    house: House, body: bytes
) -> None:
    made = house.made()
    assert house.post(made.ticket, body).status_code == 400
    (kept,) = house.services.queries.deliveries(made.ref)
    assert (kept.verdict, kept.body) == ("unreadable", body)
    assert house.post(made.ticket, made.final).status_code == 200
    assert house.verdicts(made.ref) == ["unreadable", "ended"]


@pytest.mark.parametrize(
    "declared",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "nonsense",
    ],
)
def test_scn_012_what_a_body_is_called_does_not_matter(house: House, declared: str) -> None:
    made = house.made()
    assert house.post(made.ticket, made.final, **{"Content-Type": declared}).status_code == 200
    assert house.verdicts(made.ref) == ["ended"]


def test_scn_013_a_receiver_that_is_restarted_between_two_attempts_counts_once(
    house: House,
) -> None:
    made = house.made()
    assert house.post(made.ticket, made.final).status_code == 200
    house.kill("gunicorn")
    assert house.post(made.ticket, made.final).status_code == 200
    assert house.is_safe_once(made)
    assert house.verdicts(made.ref) == ["ended", "duplicate"]


def test_scn_013_a_receiver_that_dies_with_a_report_stored_and_not_answered_knows_it_afterwards(
    house: House,
) -> None:
    made = house.made()
    until(house.is_idle, what="that nobody else commits")
    (house.faults / Point.AFTER_COMMIT).touch()
    with pytest.raises(requests.ConnectionError):
        house.post(made.ticket, made.final)
    house.is_back()
    assert house.verdicts(made.ref) == ["ended"]
    assert house.post(made.ticket, made.final).status_code == 200
    house.services.engine.notify()  # the dead one could not; the sweep would find the work, seconds later
    assert house.is_safe_once(made)


def test_scn_014_a_sender_that_dies_after_sending_and_repeats_counts_once(house: House) -> None:
    made = house.made()
    with socket.create_connection(("127.0.0.1", house.here.port)) as dying:
        dying.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # closing resets, as a dead process does
        dying.sendall(house.raw(made, json.dumps(made.final).encode()))
    assert house.post(made.ticket, made.final).status_code == 200
    assert house.is_safe_once(made)
    assert house.verdicts(made.ref).count("ended") == 1


def test_scn_015_work_that_breaks_off_half_way_is_done_again_and_its_effect_is_there_once(
    house: House,
) -> None:
    (house.faults / Point.STORED).touch()
    made = house.made()
    assert house.post(made.ticket, made.final).status_code == 200
    assert house.is_safe_once(made)
    assert not (house.faults / Point.STORED).exists(), (
        "the worker was killed with the object in the archive and the ledger not told"
    )


def test_scn_016_no_secret_of_a_sender_shows_up_in_logs_or_figures(house: House) -> None:
    made = house.made()
    url = f"{house.here.sandbox.url}/file/{'0' * 32}.png?signature={CANARY}"
    bodies: list[object] = [
        f'{{"id": "{CANARY}'.encode(),
        {"id": made.task, "status": "running", "token": CANARY},
        {**made.final, "results": [{"url": url}], "url": url},
    ]
    answers = [
        house.post(made.ticket, body, Authorization=f"Bearer {CANARY}", Cookie=f"session={CANARY}")
        for body in bodies
    ]
    answers.append(
        requests.post(
            f"{house.url(made.ticket[:-1])}?key={CANARY}", json={"token": CANARY}, timeout=20
        )
    )
    assert [answer.status_code for answer in answers] == [400, 200, 200, 404]
    until(
        lambda: (
            made.ref in house.service.output()
            and "archiving attempt failed" in house.service.output()
        ),
        what="an attempt at the URL",
    )
    shown = [
        house.service.output(),
        requests.get(f"{house.here.url}/metrics", timeout=10).text,
        *(answer.text for answer in answers),
    ]
    assert not [text for text in shown if CANARY in text]
    assert not [text for text in shown if made.ticket.partition(".")[2] in text]


# What GRSAI is known, or feared, to do


@pytest.mark.parametrize("mode", ["early", "duplicate", "reorder", "contradiction", "forged"])
def test_a_report_that_comes_before_the_submit_s_answer_twice_out_of_order_or_contradicted_counts_once(
    house: House, mode: str
) -> None:
    job = house.here.submit(callback=mode)
    assert house.is_safe_once(Made(job.ref, "", "", {}))
    until(lambda: house.here.sandbox.stats()["callbacks_due"] == 0, what="that nothing more comes")
    assert house.is_safe_once(Made(job.ref, "", "", {}))


@pytest.mark.parametrize(
    "script",
    [{"callback": "lost"}, {"answer": "lost"}],
    ids=["the callback", "the answer to the submit"],
)
def test_of_callback_and_answer_either_may_be_lost(house: House, script: dict[str, Any]) -> None:
    job = house.here.submit(**script)
    assert house.is_safe_once(Made(job.ref, "", "", {}))


def test_a_job_another_machine_submitted_with_the_same_secret_is_adopted_by_its_callback(
    house: House,
) -> None:
    made = house.made()
    elsewhere = Tickets([(house.here.data / "secrets" / "callback").read_text().strip()])
    assert not house.knows(made.ref)
    assert house.post(elsewhere.sign(made.ref), made.final).status_code == 200
    assert house.is_safe_once(made)


def test_a_burst_of_reports_from_many_senders_in_any_order_loses_none(house: House) -> None:
    refs = [new_ref(time.time()) for _ in range(80)]
    reports = [
        (ref, status) for ref in refs for status in ("running", "running", "failed", "failed")
    ]
    random.Random(4).shuffle(reports)  # noqa: S311 - an order, the same every time
    with_sessions = [reports[number::12] for number in range(12)]
    statuses = side_by_side([partial(send_all, house, part) for part in with_sessions])
    assert Counter(status for part in statuses for status in part) == {200: len(reports)}
    assert {house.services.queries.job(ref).state for ref in refs} == {JobState.FAILED}  # type: ignore[union-attr]
    for ref in refs:
        assert Counter(house.verdicts(ref))["ended"] == 1
        assert len(house.verdicts(ref)) == 4


def send_all(house: House, reports: list[tuple[str, str]]) -> list[int]:
    """Post these reports over one connection, as one sender does; return the answers' statuses."""
    with requests.Session() as session:
        tickets = {ref: house.services.tickets.sign(ref) for ref, _status in reports}
        bodies = [
            (tickets[ref], {"id": f"task-{ref}", "status": status, "failure_reason": "error"})
            for ref, status in reports
        ]
        return [
            session.post(house.url(ticket), json=body, timeout=30).status_code
            for ticket, body in bodies
        ]


# One clock


def test_every_process_of_the_service_goes_by_one_clock_also_when_it_is_started_again(
    house: House,
) -> None:
    house.kill("receiver worker")
    clocks = {}
    for pid, line in house.service.members().items():
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        clocks[line] = re.findall(rb"RECEIVER_CLOCK=([0-9.]+)", environ)
    told = {tuple(clock) for line, clock in clocks.items() if "serve" not in line}
    assert len(told) == 1, clocks
    assert abs(float(told.pop()[0]) - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))) < 1
