"""The transport to AWS: SQS queues and SNS topics."""

from typing import Any, cast

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from receiver.errors import EventNotDeliveredError
from receiver.events.destinations import Destination, DestinationKind
from receiver.events.event import Event
from receiver.net.aws_client import AwsClient
from receiver.net.policy import read_url

_THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "RequestThrottled",
        "OverLimit",
        "ServiceUnavailable",
        "InternalError",
    }
)


class AwsTransport:
    """Sends to a queue or a topic. Credentials and endpoints come from boto3's own sources."""

    def __init__(self, destination: Destination) -> None:
        self._service = destination.kind.value
        self._address = destination.address
        self._in_order = destination.address.endswith(".fifo")
        self._client: AwsClient[Any] = AwsClient(self._make)

    def send(self, event: Event, body: str) -> str:
        """Send the event; see Transport."""
        attributes = {
            name: {"DataType": "String", "StringValue": value}
            for name, value in (("type", event.type.value), ("id", event.id))
        }
        order = (
            {"MessageGroupId": event.ref, "MessageDeduplicationId": event.id}
            if self._in_order
            else {}
        )
        try:
            if self._service == DestinationKind.SQS:
                answer = self._client.call(
                    lambda client: client.send_message(
                        QueueUrl=self._address,
                        MessageBody=body,
                        MessageAttributes=attributes,
                        **order,
                    )
                )
            else:
                answer = self._client.call(
                    lambda client: client.publish(
                        TopicArn=self._address, Message=body, MessageAttributes=attributes, **order
                    )
                )
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            raise EventNotDeliveredError(
                f"{self._service} answered {code}", away=code in _THROTTLED
            ) from error
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is not a URL
            raise EventNotDeliveredError(
                f"{self._service} cannot be reached: {error}", away=True
            ) from error
        return f"accepted as message {answer.get('MessageId', '')}"

    def _make(self, session: Session) -> Any:
        limits = Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        return cast("Any", session).client(self._service, region_name=self._region(), config=limits)

    def _region(self) -> str | None:
        """Return the region in the address, or None: then boto3's own variable is used."""
        if self._service == DestinationKind.SNS:
            return self._address.split(":")[3]
        labels = (read_url(self._address).host).split(".")
        return labels[1] if labels[0] == "sqs" and labels[2:3] == ["amazonaws"] else None
