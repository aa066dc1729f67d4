"""Jobs with a webhook, from outside: refused or posted, shown without secrets, and watched."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import invoke
from dashboard_client import log_in, post
from event_dispatching import dispatch_due
from event_server import SECRET, EventServer
from processes import Finished
from web_client import WebClient, web_client
from werkzeug.serving import make_server

from receiver.errors import ConfigurationError, KeyConflictError, ReceiverError
from receiver.jobs.job_object import webhook_shown
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.model import EventType, Mode
from receiver.services import Services
from submitter import Submitter
from submitter.sandbox import Sandbox

PATH = "/hook/t0psecret"


@dataclass
class Setup:
    """A service whose jobs may name ``url``, which is served by ``server``."""

    web: WebClient
    environ: dict[str, str]
    folder: Path
    server: EventServer
    url: str

    def post(self, **asked: Any) -> Any:
        body = {"prompt": "a fox", "mode": "poll", "webhook": self.url, **asked}
        return self.web.client.post("/api/jobs", json=body, headers=self.web.admin)

    def run(self, *command: str, **environ: str) -> Finished:
        return invoke(command, {**self.environ, **environ}, folder=self.folder)

    def fail(self, rounds: int = 1) -> str:
        """Make one event that the webhook refuses; return the job's ref."""
        ref = str(self.post().json["ref"])
        self.web.services.jobs.expire(ref, "no report")
        self.server.status = 500
        (dispatcher,) = self.web.services.dispatchers()
        dispatch_due(dispatcher, rounds=rounds)
        return ref


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(looks=1) as sandbox:
        yield sandbox


@pytest.fixture
def setup(
    services: Services, event_server: EventServer, tmp_path: Path, webhook_environ: dict[str, str]
) -> Iterator[Setup]:
    environ = webhook_environ
    url = f"http://{event_server.address}{PATH}"
    with web_client(services.settings.data_dir, environ) as web:
        yield Setup(web, environ, tmp_path, event_server, url)


def test_without_event_secret_nothing_is_posted_anywhere(setup: Setup, sandbox: Sandbox) -> None:
    bare = {**setup.environ, "EVENT_SECRET": "", "ADMIN_TOKEN": "t" * 20}
    with web_client(Path(setup.environ["DATA_DIR"]), bare) as web:
        without = Setup(web, bare, setup.folder, setup.server, setup.url)
        answer = without.post()
        assert answer.status_code == 409
        assert "EVENT_SECRET: not set" in answer.json["detail"]
        v1 = web.client.post(
            "/v1/images/generations",
            json={"prompt": "a fox", "webhook": setup.url},
            headers=web.admin,
        )
        assert (v1.status_code, "EVENT_SECRET: not set" in v1.text) == (500, True)
        assert without.post(webhook=None).status_code == 201
    with (
        Submitter(web.services.settings, check=False) as submitter,
        pytest.raises(ConfigurationError, match="EVENT_SECRET: not set"),
    ):
        submitter.submit("a fox", mode=Mode.POLL, webhook=setup.url)
    submit = ("submitter", "submit", "a fox", "--mode", "poll", "--no-check", "--webhook")
    done = without.run(*submit, setup.url)
    assert (done.status, "EVENT_SECRET: not set" in done.err) == (2, True)
    assert "openssl rand" in done.err
    lines = setup.folder / "lines.jsonl"
    lines.write_text(json.dumps({"prompt": "a fox", "webhook": setup.url}) + "\n")
    done = without.run("submitter", "batch", str(lines), "--mode", "poll", "--no-check")
    assert (done.status, "EVENT_SECRET: not set" in done.err) == (2, True)
    assert sandbox.stats()["accepted"] == 1, "only the job without a webhook"


@pytest.mark.parametrize(
    ("webhook", "status", "said"),
    [
        ("http://127.0.0.1:9/hook/t0psecret", 409, "to FETCH_ALLOW"),
        ("http://169.254.169.254/t0psecret", 409, "to FETCH_ALLOW"),
        ("https://u:t0psecret@shop.test/", 400, "credentials"),
        ("shop.test", 400, "webhook: "),
        (7, 400, "webhook: "),
    ],
)
def test_an_address_that_gets_no_events_is_refused_before_anything_is_paid(
    setup: Setup, sandbox: Sandbox, webhook: object, status: int, said: str
) -> None:
    answer = setup.post(webhook=webhook)
    assert (answer.status_code, said in answer.json["detail"]) == (status, True)
    assert "t0psecret" not in answer.text
    asked = {"prompt": "a fox", "mode": "poll", "webhook": webhook}
    path, admin = "/v1/images/generations", setup.web.admin
    v1 = setup.web.client.post(path, json=asked, headers=admin)
    error = v1.json["error"]
    assert (v1.status_code, error["type"], error["param"]) == (
        400,
        "invalid_request_error",
        "webhook",
    )
    assert said in error["message"]
    assert "t0psecret" not in v1.text
    assert sandbox.stats()["accepted"] == 0


def test_a_form_names_what_is_the_callers_own_and_is_copied_without_the_webhook(
    setup: Setup,
) -> None:
    log_in(setup.web)
    fields = {"prompt": "a fox", "mode": "poll", "folder": "shop/summer", "webhook": setup.url}
    made = post(setup.web, "/submit", **fields, metadata='{"order": "<é>"}').location
    ref = made.partition("?")[0].rpartition("/")[2]
    queries = setup.web.services.queries
    job = queries.job(ref)
    assert job is not None
    assert (job.folder, queries.webhook(ref)) == ("shop/summer", setup.url)
    form = setup.web.client.get(f"/submit?like={ref}").text
    assert ('value="shop/summer"' in form, "t0psecret" in form) == (True, False)
    page = setup.web.client.get(f"/jobs/{ref}").text
    shown = "<code>{&#34;order&#34;: &#34;&lt;é&gt;&#34;}</code>"
    assert (shown in page, "t0psecret" in page) == (True, False)


def test_a_job_shows_where_its_events_go_but_not_the_secret_in_it(setup: Setup) -> None:
    answer = setup.post()
    assert answer.status_code == 201
    ref, shown = answer.json["ref"], webhook_shown(setup.url)
    assert answer.json["webhook"] == shown
    log_in(setup.web)
    texts = [
        setup.run("receiver", "show", ref).out,
        setup.run("receiver", "show", ref, "--json").out,
        setup.web.client.get(f"/jobs/{ref}").text,
        setup.web.client.get("/api/jobs", headers=setup.web.admin).text,
    ]
    for text in texts:
        assert str(shown) in text
        assert PATH not in text
    assert setup.web.services.queries.webhook(ref) == setup.url


def test_a_key_with_another_webhook_is_a_conflict_and_without_one_the_same_job(
    setup: Setup, sandbox: Sandbox
) -> None:
    first = setup.post(key="order-7").json["ref"]
    other = setup.post(key="order-7", webhook=f"{setup.url}2")
    assert (other.status_code, "another webhook" in other.json["detail"]) == (409, True)
    for webhook in (None, setup.url):
        again = setup.post(key="order-7", webhook=webhook)
        assert (again.status_code, again.json["ref"]) == (200, first)
    setup.post(key="order-8", webhook=None)
    assert setup.post(key="order-8").status_code == 409, "its events would go nowhere"
    with Submitter(setup.web.services.settings, check=False) as submitter:
        assert submitter.submit("a fox", mode=Mode.POLL, key="order-7").ref == first
        with pytest.raises(KeyConflictError, match=f"{first}, .* events at another webhook"):
            submitter.submit("a fox", mode=Mode.POLL, key="order-7", webhook=f"{setup.url}2")
        with pytest.raises(KeyConflictError, match="for something else"):
            submitter.submit("a wolf", mode=Mode.POLL, key="order-7", webhook=f"{setup.url}2")
    submit = ("submitter", "submit", "a fox", "--mode", "poll", "--no-check", "--key", "order-7")
    done = setup.run(*submit, "--webhook", f"{setup.url}2")
    assert (done.status, "events at another webhook" in done.err) == (1, True)
    assert sandbox.stats()["accepted"] == 2


def test_a_line_of_a_batch_may_have_a_webhook_and_keeps_it(setup: Setup, sandbox: Sandbox) -> None:
    lines, report = setup.folder / "lines.csv", setup.folder / "report.jsonl"
    lines.write_text(f"prompt,webhook\na fox,{setup.url}\na wolf,\n")
    batch = ["submitter", "batch", str(lines), "--mode", "poll", "--no-check", "--no-wait"]
    done = setup.run(*batch, "--report", str(report), "--webhook", f"{setup.url}2")
    assert done.status == 0, done.err
    jobs = [json.loads(line) for line in report.read_text().splitlines()]
    queries = setup.web.services.queries
    found = [queries.webhook(job["ref"]) for job in jobs]
    assert found == [setup.url, f"{setup.url}2"]
    again = setup.run(*batch, "--webhook", f"{setup.url}3")
    assert (again.status, "events at another webhook; nothing posted" in again.err) == (1, True)
    assert setup.run(*batch, "--webhook", f"{setup.url}2").status == 0
    assert sandbox.stats()["accepted"] == 2
    with Submitter(setup.web.services.settings, check=False) as submitter:
        arguments = submitter.transport.arguments_of(jobs[0]["ref"])
    assert arguments is not None
    assert arguments["webhook"] == setup.url, "a job that is posted again has it too"


def test_failing_deliveries_to_webhooks_of_jobs_are_seen_everywhere(setup: Setup) -> None:
    ref = setup.fail()
    events = setup.run("receiver", "events").out
    assert f"destination\t{JOB_WEBHOOKS}\tasset.archived, " in events
    assert "answered 500" in events
    doctor = setup.run("receiver", "doctor").out
    assert f"{JOB_WEBHOOKS}: a delivery fails" in doctor.replace("\n", " ")
    web = setup.web
    listed = web.client.get("/api/destinations", headers=web.admin).json["destinations"]
    assert [(one["destination"], one["configured"]) for one in listed] == [(JOB_WEBHOOKS, True)]
    checks = web.client.get("/status", headers=web.admin).json["checks"]
    assert checks["events"]["destinations"][0]["failing"] == 1
    metrics = web.client.get("/metrics", headers=web.admin).text
    assert f'receiver_events_waiting{{destination="{JOB_WEBHOOKS}"}} 1.0' in metrics
    log_in(web)
    assert 'class="alarm" href="/events"' in web.client.get("/jobs").text
    page = web.client.get("/events").text
    for said in ("Webhooks of jobs", "answered 500", ref):
        assert said in page
    assert "Send a test event" not in page, "there is no single address"
    assert "Webhooks of jobs" in web.client.get("/service").text
    for text in (events, doctor, metrics, page, json.dumps(listed), json.dumps(checks)):
        assert PATH not in text
    setup.server.status = 204
    done = setup.run("receiver", "resend", "--waiting")
    assert done.out == f"1 more deliveries to {JOB_WEBHOOKS} are due now\n"
    (dispatcher,) = web.services.dispatchers()
    dispatch_due(dispatcher)
    assert setup.server.types(ref) == ["job.expired"] * 2


def test_without_the_secret_it_is_said_that_webhooks_of_jobs_get_nothing(setup: Setup) -> None:
    setup.fail()
    without = {"EVENT_SECRET": ""}
    events = setup.run("receiver", "events", **without).out
    assert "EVENT_SECRET is not set: set it again, or --forget it" in events
    doctor = setup.run("receiver", "doctor", **without)
    assert "jobs name webhooks, but EVENT_SECRET is not set" in doctor.out.replace("\n", " ")
    refused = setup.run("receiver", "events", "--forget", JOB_WEBHOOKS)
    assert (refused.status, "unset EVENT_SECRET" in refused.err) == (1, True)
    bare = {**setup.environ, **without}
    with web_client(Path(bare["DATA_DIR"]), bare) as web:
        (one,) = web.client.get("/api/destinations", headers=web.admin).json["destinations"]
        assert one["configured"] is False
        assert web.client.get("/status", headers=web.admin).json["checks"]["events"]["ok"]
        metrics = web.client.get("/metrics", headers=web.admin).text
        assert f'receiver_events_waiting{{destination="{JOB_WEBHOOKS}"}}' not in metrics
        log_in(web)
        assert "EVENT_SECRET is not set" in web.client.get("/events").text
    assert setup.run("receiver", "events", "--forget", JOB_WEBHOOKS, **without).status == 0
    assert "no events are sent" in setup.run("receiver", "events", **without).out
    assert setup.post().status_code == 201
    assert setup.web.services.events.destinations()[0].waiting == 0, "it begins again"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (JOB_WEBHOOKS, "each job names its own"),
        ("http://127.0.0.1:9/hook", "to FETCH_ALLOW"),
        ("nowhere", "EVENT_URLS has no destination 'nowhere'"),
    ],
)
def test_a_test_event_needs_an_address_that_may_be_contacted(
    setup: Setup, name: str, said: str
) -> None:
    done = setup.run("receiver", "events", "--test", name)
    assert (done.status, said in done.err) == (1, True), done.err
    with pytest.raises(ReceiverError):
        setup.web.services.send_test_event(name)
    log_in(setup.web)
    assert post(setup.web, "/events/test", destination=name).status_code == 409


def test_a_test_event_goes_to_the_url_of_a_jobs_webhook(setup: Setup) -> None:
    setup.post()
    accepted = setup.run("receiver", "events", "--test", setup.url)
    assert (accepted.status, accepted.out.startswith("accepted after")) == (0, True)
    (received,) = setup.server.received
    assert (received.path, received.event["type"]) == (PATH, "receiver.test")
    assert received.is_signed_by(SECRET)
    setup.server.status = 401
    assert setup.run("receiver", "events", "--test", setup.url).status == 1


def test_the_client_of_a_service_elsewhere_names_a_webhook_and_sees_it_in_short(
    setup: Setup,
) -> None:
    server = make_server("127.0.0.1", 0, setup.web.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    token = setup.web.services.admin_token
    try:
        url = f"http://127.0.0.1:{server.port}"
        with Submitter(url=url, token=token, check=False) as submitter:
            job = submitter.submit("a fox", mode=Mode.POLL, key="k", webhook=setup.url)
            assert job.webhook == webhook_shown(setup.url)
            assert setup.web.services.queries.webhook(job.ref) == setup.url
            same = {"prompt": "a fox", "webhook": setup.url}
            assert submitter.is_same_request(job.ref, same)
            assert not submitter.is_same_request(job.ref, {**same, "webhook": f"{setup.url}2"})
            with pytest.raises(KeyConflictError, match="events at another webhook"):
                submitter.submit("a fox", mode=Mode.POLL, key="k", webhook=f"{setup.url}2")
            with pytest.raises(ConfigurationError, match="FETCH_ALLOW"):
                submitter.submit("a fox", mode=Mode.POLL, webhook="http://10.0.0.1/hook")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_test_event_to_a_url_in_any_spelling_shows_nothing_of_its_path(setup: Setup) -> None:
    log_in(setup.web)
    for url, accepted in (
        (setup.url, True),
        (setup.url.replace("http", "HTTP"), True),
        (f"HTTP://127.0.0.1:9{PATH}", False),
    ):
        done = setup.run("receiver", "events", "--test", url)
        assert (done.status == 0) is accepted
        page = post(setup.web, "/events/test", destination=url)
        assert (page.status_code == 200) is accepted
        for text in (done.out, done.err, page.text):
            assert PATH not in text
            assert accepted or "to FETCH_ALLOW" in text or text == done.out
    assert (
        str(webhook_shown(setup.url)) in post(setup.web, "/events/test", destination=setup.url).text
    )


def test_events_that_were_set_aside_can_be_dismissed(setup: Setup) -> None:
    outbox, web = setup.web.services.outbox, setup.web
    for _ in range(4):
        web.services.jobs.expire(str(setup.post().json["ref"]), "no report")
    for claimed in outbox.claim(JOB_WEBHOOKS, tuple(EventType), 10):
        outbox.set_aside(claimed, "gone")
    numbers = [row.event for row in web.services.events.set_aside()]
    log_in(web)
    assert f"/events/{numbers[0]}/dismiss" in web.client.get("/set-aside").text
    answer = post(web, f"/events/{numbers[0]}/dismiss")
    assert answer.headers["Location"] == "/set-aside?notice=event_dismissed"
    assert "The event was dismissed." in web.client.get("/set-aside?notice=event_dismissed").text
    assert post(web, f"/events/{numbers[0]}/dismiss").status_code == 409
    one = setup.run("receiver", "events", "--dismiss", str(numbers[1]), "--dismiss", "999999")
    assert (one.status, one.out) == (1, f"event {numbers[1]} is dismissed at 1 destinations\n")
    assert "event 999999 is not set aside" in one.err
    for wrong in ("0", "some", "--test=x"):
        assert setup.run("receiver", "events", "--dismiss", "all", "--dismiss", wrong).status == 2
    done = setup.run("receiver", "events", "--dismiss", "all")
    assert (done.status, len(done.out.splitlines())) == (0, len(numbers) - 2)
    assert web.services.events.set_aside() == []
    assert setup.run("receiver", "events").status == 0
