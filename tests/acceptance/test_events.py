"""Events from the running service to others: webhooks, the terminal, a command for each."""

import json
import signal
from pathlib import Path

from click.testing import CliRunner
from event_server import SECRET, EventServer
from installation import Installation
from processes import running
from waiting import until

from receiver.cli import main as receiver
from receiver.model import Submission


def test_a_webhook_gets_every_event_also_of_the_time_it_was_away_and_none_of_the_past(
    installation: Installation,
) -> None:
    with installation.services() as services:
        services.jobs.expire(
            services.jobs.submit(_submission(), "https://past.test").ref, "long ago"
        )
    with EventServer() as side:
        installation.environ |= {
            "EVENT_URLS": f"{side.url}#job.archived+asset.archived",
            "EVENT_SECRET": SECRET,
        }
        installation.environ["FETCH_ALLOW"] += f",{side.address}"
        side.status = 503
        with installation.started():
            job = installation.submit()
            until(lambda: side.received, what="the first attempt")
            installation.wait(job.ref)
        side.status = 200
        with installation.started():
            until(lambda: "job.archived" in side.types(), what="the event of the end")
        assert side.types()[-2:] == ["asset.archived", "job.archived"]
        assert {one.event["data"]["ref"] for one in side.received} == {job.ref}
        assert all(one.is_signed_by(SECRET) for one in side.received)
        assert side.received[-1].event["data"]["link"] == f"{installation.url}/api/jobs/{job.ref}"
    done = installation.invoke("receiver", "events")
    assert done.status == 0
    assert "asset.archived, job.archived" in done.out
    assert "set aside;" not in done.out


def test_listen_prints_what_there_is_follows_what_comes_and_ends_on_a_signal(
    installation: Installation,
) -> None:
    with installation.started():
        first = installation.submit()
        installation.wait(first.ref)
        done = installation.invoke(
            "receiver", "listen", "--after", "0", "--no-follow", "--json", "--type", "job.archived"
        )
        (line,) = done.out.splitlines()
        event = json.loads(line)
        assert (done.status, event["type"], event["data"]["ref"]) == (0, "job.archived", first.ref)
        with running(
            ("receiver", "listen", "--after", str(event["number"])),
            installation.environ,
            installation.folder,
        ) as listening:
            second = installation.submit()
            installation.wait(second.ref)
            listening.says(f"job.archived\t{second.ref}")
            assert first.ref not in listening.output()
            assert listening.stop(signal.SIGTERM) == 130


def test_a_command_that_fails_is_run_again_for_the_same_event_with_the_next_start(
    installation: Installation,
) -> None:
    with installation.services() as services:
        refs = [services.jobs.submit(_submission(), "https://past.test").ref for _ in range(2)]
        for ref in refs:
            services.jobs.expire(ref, "no word")
    place, out = installation.folder / "place", installation.folder / "out"
    command = f"""sh -c 'echo "$EVENT_REF $EVENT_MESSAGE" >> {out}; test -e {out}.ready'"""
    listen = (
        "receiver",
        "listen",
        "--after",
        "0",
        "--no-follow",
        "--cursor",
        str(place),
        "--exec",
        command,
    )
    done = installation.invoke(*listen)
    assert (done.status, done.err) == (
        1,
        "event 1: the command ended with status 1; it is done again with the next start\n",
    )
    Path(f"{out}.ready").touch()
    again = installation.invoke(*(word for word in listen if word not in ("--after", "0")))
    assert (again.status, again.err) == (0, "")
    assert out.read_text().splitlines() == [f"{ref} no word" for ref in (refs[0], *refs)]
    assert place.read_text() == "2\n"


def test_what_was_set_aside_is_shown_and_sent_again_on_request(installation: Installation) -> None:
    named = {"EVENT_URLS": "log:"}
    installation.environ.update(named)
    with installation.services() as services:
        ref = services.jobs.submit(_submission(), "https://past.test").ref
        services.jobs.expire(ref, "no word")
        (dispatcher,) = services.dispatchers()
        (claimed,) = dispatcher.claim(1)
        services.outbox.set_aside(claimed, "no one\x1b[31m listened")
    done = installation.invoke("receiver", "events")
    assert f"\nset aside\t1\t{ref}\t" in done.out
    assert "\x1b[31m" not in done.out
    assert CliRunner().invoke(receiver, ["resend"]).exit_code == 2
    wrong = installation.invoke("receiver", "resend", "77")
    assert (wrong.status, wrong.out) == (1, "")
    assert "event 77 is not set aside" in wrong.err
    right = installation.invoke("receiver", "resend", "--all")
    assert (right.status, right.out) == (
        0,
        f"event {claimed.row.event} will be sent again to 1 destinations\n",
    )


def _submission() -> Submission:
    return Submission("a fox", "gpt-image-1.5", {})
