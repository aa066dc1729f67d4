"""Events to queues and topics of AWS, and to the log."""

import json
from collections.abc import Callable, Iterator

import pytest
from event_dispatching import PostServer, dispatch_due, last_error, make_dispatcher
from ledgers import LedgerHarness, opened
from outside_network import answer

from receiver.events.transports import LogTransport


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    with opened(sqlite_url) as ledger:
        yield ledger


Cloud = Callable[..., PostServer]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Return a function that starts a local server in place of an AWS service, for boto3 to use."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)

    def start(
        service: str,
        status: str = "200 OK",
        body: bytes = b'{"MessageId":"1","MD5OfMessageBody":"x"}',
    ) -> PostServer:
        made = PostServer(
            (answer("Content-Type: application/x-amz-json-1.0", status=status, body=body),)
        )
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", f"http://127.0.0.1:{made.port}")
        return made

    return start


def test_a_queue_gets_the_same_words_and_a_fifo_queue_a_jobs_events_in_their_order(
    ledger: LedgerHarness, aws: Cloud
) -> None:
    cloud = aws("SQS")
    try:
        events_dispatcher = make_dispatcher(
            ledger, "sqs://sqs.eu-west-1.amazonaws.com/123456789012/events.fifo"
        )
        ref = ledger.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        cloud.close()
    asked, head = json.loads(cloud.bodies[0]), cloud.requests[0].decode()
    assert "X-Amz-Target: AmazonSQS.SendMessage" in head
    assert "/eu-west-1/sqs/aws4_request" in head
    assert asked["QueueUrl"] == "https://sqs.eu-west-1.amazonaws.com/123456789012/events.fifo"
    assert (asked["MessageGroupId"], asked["MessageDeduplicationId"]) == (
        ref,
        f"{ref}-job-job-failed-0",
    )
    assert asked["MessageAttributes"]["type"]["StringValue"] == "job.failed"
    assert json.loads(asked["MessageBody"])["data"]["ref"] == ref
    assert last_error(ledger) == ""


def test_a_topic_is_published_to_in_its_own_region(ledger: LedgerHarness, aws: Cloud) -> None:
    xml = b'<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>'
    cloud = aws("SNS", "200 OK", xml)
    try:
        events_dispatcher = make_dispatcher(
            ledger, "sns:arn:aws:sns:ap-southeast-1:123456789012:events"
        )
        ref = ledger.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        cloud.close()
    assert b"TopicArn=arn%3Aaws%3Asns%3Aap-southeast-1%3A123456789012%3Aevents" in cloud.bodies[0]
    assert ref.encode() in cloud.bodies[0]
    assert "/ap-southeast-1/sns/aws4_request" in cloud.requests[0].decode()
    assert last_error(ledger) == ""


def test_what_a_cloud_refuses_is_sent_again(ledger: LedgerHarness, aws: Cloud) -> None:
    cloud = aws(
        "SQS", "400 Bad", b'{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"planted"}'
    )
    try:
        events_dispatcher = make_dispatcher(
            ledger, "sqs://sqs.eu-west-1.amazonaws.com/123456789012/events"
        )
        ledger.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        cloud.close()
    assert last_error(ledger) == "sqs answered QueueDoesNotExist"
    assert (events_dispatcher.next_due() or 0) > ledger.clock()


def test_a_cloud_that_cannot_be_reached_is_tried_again(ledger: LedgerHarness, aws: Cloud) -> None:
    aws("SQS").close()
    events_dispatcher = make_dispatcher(
        ledger, "sqs://sqs.eu-west-1.amazonaws.com/123456789012/events"
    )
    ledger.failed()
    dispatch_due(events_dispatcher, rounds=1)
    assert last_error(ledger).startswith("sqs cannot be reached")


def test_the_log_is_a_destination_too(ledger: LedgerHarness) -> None:
    events_dispatcher = make_dispatcher(ledger, "log:#job.failed")
    assert isinstance(events_dispatcher._transport, LogTransport)
    ledger.failed()
    dispatch_due(events_dispatcher, rounds=1)
    assert last_error(ledger) == ""


def test_renewed_credentials_are_used_without_a_restart(
    ledger: LedgerHarness, aws: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = aws("SQS")
    expired = b'{"__type":"com.amazonaws.sqs#ExpiredToken","message":"planted"}'
    (accepted,) = cloud._scripts
    cloud._scripts = (accepted, answer(status="400 Bad", body=expired), accepted)
    try:
        events_dispatcher = make_dispatcher(
            ledger, "sqs://sqs.eu-west-1.amazonaws.com/123456789012/events"
        )
        ledger.failed()
        dispatch_due(events_dispatcher, rounds=1)
        # As a command in `credential_process`, or a metadata service, would renew them.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
        ledger.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        cloud.close()
    signers = [request.split(b"Credential=")[1].split(b"/")[0] for request in cloud.requests]
    assert signers == [b"key", b"key", b"second"]
    assert last_error(ledger) == ""
