"""EVENT_URLS: valid entries, their names, and the errors for wrong ones."""

import pytest

from receiver.errors import ConfigurationError
from receiver.events.destinations import DestinationKind, read_destination, read_destinations
from receiver.model import EventType
from receiver.settings import Settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOOK = "https://hooks.example/services/T0/B0/planted-path"


@pytest.mark.parametrize(
    ("entry", "kind", "name", "address"),
    [
        ("log:", DestinationKind.LOG, "log:", ""),
        (HOOK, DestinationKind.WEBHOOK, "https://hooks.example (", HOOK),
        (
            "https://hooks.example:8443/",
            DestinationKind.WEBHOOK,
            "https://hooks.example:8443 (",
            "https://hooks.example:8443/",
        ),
        (
            "http://10.0.0.7/hook",
            DestinationKind.WEBHOOK,
            "http://10.0.0.7 (",
            "http://10.0.0.7/hook",
        ),
        (
            "sqs://sqs.eu-west-1.amazonaws.com/123456789012/events.fifo",
            DestinationKind.SQS,
            "sqs://sqs.eu-west-1.amazonaws.com/123456789012/events.fifo",
            "https://sqs.eu-west-1.amazonaws.com/123456789012/events.fifo",
        ),
        (
            "sns:arn:aws:sns:eu-west-1:123456789012:events",
            DestinationKind.SNS,
            "sns:arn:aws:sns:eu-west-1:123456789012:events",
            "arn:aws:sns:eu-west-1:123456789012:events",
        ),
    ],
)
def test_each_kind_of_place_is_understood(
    entry: str, kind: DestinationKind, name: str, address: str
) -> None:
    found = read_destination(entry)
    assert (found.kind, found.address, found.types) == (kind, address, tuple(EventType))
    assert found.name.startswith(name)


def test_a_webhook_is_named_without_its_path_which_may_be_a_secret() -> None:
    assert "planted" not in read_destination(HOOK).name
    assert read_destination(HOOK).name != read_destination(HOOK + "2").name


def test_a_fragment_narrows_a_place_to_some_types_and_does_not_make_it_another() -> None:
    narrowed = read_destination(f"{HOOK}#job.failed+job.archived")
    assert narrowed.types == (EventType.JOB_ARCHIVED, EventType.JOB_FAILED)
    assert (narrowed.name, narrowed.address) == (read_destination(HOOK).name, HOOK)


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ("hooks.example/planted", "one of its entries is none we know"),
        ("ftp://hooks.example/planted", "write https://host/path"),
        ("https://user:planted@hooks.example/", "a URL with credentials in it"),
        ("https://0x7f.1/planted", "no valid host"),
        ("https://hooks.example:0/", "no valid host"),
        ("sqs://sqs.eu-west-1.amazonaws.com/planted", "sqs://host/account/queue"),
        ("sns:arn:aws:sqs:eu-west-1:123456789012:planted", "sns:arn:…"),
        ("log:planted", "one of its entries is none we know"),
        ("log:#job.done", "behind the # stand types joined by +, of asset.archived"),
        (f"{HOOK}#job.failed,", "behind the # stand types joined by +"),
    ],
)
def test_a_wrong_entry_is_an_error_that_says_what_to_write_and_does_not_repeat_it(
    entry: str, remedy: str
) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_destination(entry)
    assert remedy in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_place_named_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="name it once, with all its types"):
        read_destinations((f"{HOOK}#job.failed", f"{HOOK}#job.archived"))


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "planted",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_****",
        f"{SECRET},planted",
        "whsec_" + "A" * 120,
    ],
)
def test_a_webhook_needs_a_proper_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({"EVENT_URLS": HOOK, "EVENT_SECRET": secret})
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("EVENT_SECRET: must be ")
    assert "openssl rand -base64 32" in mistake
    assert "planted" not in mistake


def test_queues_topics_and_the_log_need_no_secret() -> None:
    settings = Settings.load(
        {"EVENT_URLS": "log:#job.failed, sns:arn:aws:sns:eu-west-1:123456789012:events"}
    )
    assert [place.kind for place in settings.destinations] == [
        DestinationKind.LOG,
        DestinationKind.SNS,
    ]


def test_neither_a_webhooks_path_nor_its_secrets_stand_in_any_text_about_the_settings() -> None:
    settings = Settings.load({"EVENT_URLS": HOOK, "EVENT_SECRET": f"{SECRET},{SECRET}"})
    assert [secret.get_secret_value() for secret in settings.event_secret] == [SECRET, SECRET]
    for text in (repr(settings), str(settings)):
        assert "planted" not in text
        assert SECRET not in text
    assert SECRET in settings.secrets()
