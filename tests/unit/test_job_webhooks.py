"""The webhooks of jobs: what is refused, what is shown, shares and pauses of hosts."""

from collections.abc import Callable

import pytest
from ledgers import Clock
from pydantic import ValidationError

from receiver.errors import EventPostponedError
from receiver.events import job_webhooks
from receiver.events.job_webhooks import HOST_THREADS, POSTPONED, Hosts, refusal
from receiver.jobs.job_object import webhook_shown
from receiver.jobs.request import JobRequest, mistakes
from receiver.jobs.same_request import has_webhook_of
from receiver.model import Submission
from receiver.net.connection import SafeConnector
from receiver.net.policy import AddressPolicy

A, B = "https://a.test/", "https://b.test/"


def asked(webhook: str) -> JobRequest:
    return JobRequest.model_validate({"prompt": "a fox", "webhook": webhook})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("", "not an http or https URL"),
        ("shop.test/hook", "not an http or https URL"),
        ("ftp://shop.test/hook", "not an http or https URL"),
        ("log:", "not an http or https URL"),
        ("sqs://host/123456789012/queue", "not an http or https URL"),
        ("https://user:t0psecret@shop.test/", "credentials"),
        ("https://t0psecret@shop.test/", "credentials"),
        ("https://shop.test/t0psecret#job.archived", "leave it out"),
        ("https://shop.test/\nt0psecret", "control characters"),
        ("https://2130706433/t0psecret", "odd spelling"),
        ("https://shop.test:99999/t0psecret", "not a port"),
        ("https://shop.test/" + "t0psecret" * 2000, "is the most"),
    ],
)
def test_what_is_no_address_of_a_webhook_is_refused_without_its_secret(
    given: str, named: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        asked(given)
    (said,) = mistakes(caught.value)
    assert said.startswith("webhook: ")
    assert named in said
    assert "t0psecret" not in said


def test_a_webhook_is_stored_as_it_is_sent_and_shown_without_its_path() -> None:
    given = "HTTPS://Shop.Test:443/hook/t0psecret?k=ü"
    request = asked(given)
    assert request.webhook == "https://shop.test/hook/t0psecret?k=%C3%BC"
    assert request.submission().webhook == request.webhook
    shown = webhook_shown(request.webhook)
    assert shown is not None
    assert shown.startswith("https://shop.test (")
    for text in (shown, repr(request), repr(request.submission())):
        assert "t0psecret" not in text
    assert shown != webhook_shown("https://shop.test/hook/another"), "they can be told apart"
    assert webhook_shown(None) is None


@pytest.mark.parametrize(
    ("asks", "has", "same"),
    [
        (None, None, True),
        (None, A, True),
        (A, A, True),
        (A, B, False),
        (A, None, False),
        (f"{A}1", f"{A}2", False),
    ],
)
def test_only_a_request_that_names_another_webhook_is_another_request(
    asks: str | None,
    has: str | None,
    *,
    same: bool,
) -> None:
    assert has_webhook_of(Submission("a fox", "m", {}, webhook=asks), webhook_shown(has)) is same


# Addresses.


def connector(*allow: str, found: dict[str, list[str]] | None = None) -> SafeConnector:
    known = {"a.test": ["93.184.216.34"], "inside.test": ["10.0.0.1"], **(found or {})}

    def resolve(host: str, _port: int) -> list[str]:
        if host not in known:
            raise OSError("no such name")
        return known[host]

    return SafeConnector(AddressPolicy.parse(allow, ()), resolve=resolve)


@pytest.mark.parametrize(
    ("url", "allow", "said"),
    [
        ("http://127.0.0.1/x", (), "add 127.0.0.1 to FETCH_ALLOW"),
        ("http://[::1]/x", (), "add [::1] to FETCH_ALLOW"),
        ("http://169.254.169.254/x", (), "169.254.169.254"),
        ("https://a.test:8443/x", (), "add a.test:8443 to FETCH_ALLOW"),
        ("https://inside.test/x", (), "inside.test leads to 10.0.0.1"),
        ("https://inside.test/x", ("10.0.0.0/8",), ""),
        ("http://127.0.0.1:9/x", ("127.0.0.1:9",), ""),
        ("https://a.test/x", (), ""),
        ("https://not-resolved.test/x", (), ""),
    ],
)
def test_an_address_that_the_policy_refuses_is_known_before_the_job_is_posted(
    url: str, allow: tuple[str, ...], said: str
) -> None:
    found = refusal(url, connector(*allow))
    assert (said in found, bool(found)) == (True, bool(said))
    assert not found or found.startswith("webhook: ")


# Hosts.


@pytest.fixture
def hosts() -> Callable[..., Hosts]:
    def make(clock: Clock, expedited_at: float = 0.0) -> Hosts:
        return Hosts(clock, lambda: expedited_at, wait=0.0)

    return make


def postponed(hosts: Hosts, start: str) -> EventPostponedError | None:
    try:
        with hosts.turn(start):
            return None
    except EventPostponedError as error:
        return error


def test_a_host_has_its_share_of_the_threads_and_the_others_have_theirs(
    hosts: Callable[..., Hosts],
) -> None:
    clock = Clock()
    several = hosts(clock)
    turns = [several.turn(A) for _ in range(HOST_THREADS)]
    for turn in turns:
        turn.__enter__()
    error = postponed(several, A)
    assert error is not None
    assert (error.until, error.start, error.away) == (clock() + POSTPONED, A, False)
    assert postponed(several, B) is None
    turns[0].__exit__(None, None, None)
    assert postponed(several, A) is None
    for turn in turns[1:]:
        turn.__exit__(None, None, None)


def test_a_host_that_cannot_be_reached_pauses_longer_each_time_and_alone(
    hosts: Callable[..., Hosts],
) -> None:
    clock = Clock()
    several = hosts(clock)
    pauses = []
    for _ in range(8):
        for _ in range(HOST_THREADS):
            several.record(A, away=True)  # attempts at the same time are one failure
        error = postponed(several, A)
        assert error is not None
        assert error.away
        assert postponed(several, B) is None
        pauses.append(error.until - clock())
        clock.advance(pauses[-1])
        assert postponed(several, A) is None, "at the end of the pause it is tried"
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    several.record(A, away=False)
    several.record(A, away=True)
    error = postponed(several, A)
    assert error is not None
    assert error.until == clock() + 1, "it had been reached meanwhile"


def test_a_pause_ends_when_an_operator_sends_what_waits(hosts: Callable[..., Hosts]) -> None:
    clock = Clock()
    several = hosts(clock, clock() + 0.5)
    several.record(A, away=True)
    assert postponed(several, A) is None
    clock.advance(0.6)
    several.record(A, away=True)
    assert postponed(several, A) is not None, "the pause began after the request"


def test_however_many_hosts_fail_few_are_remembered(
    hosts: Callable[..., Hosts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_webhooks, "MOST_HOSTS", 10)
    clock = Clock()
    several = hosts(clock)
    for number in range(100):
        clock.advance(0.001)
        several.record(f"https://{number}.test/", away=True)
    known = [
        number for number in range(100) if postponed(several, f"https://{number}.test/") is not None
    ]
    assert known == list(range(90, 100)), "those whose pause ends last"
