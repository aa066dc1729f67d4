"""Job objects, which all readers are shown, and the parts that send events."""

import time
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from receiver.archive.links import Links
from receiver.errors import ReceiverError
from receiver.events.destinations import OF_JOBS
from receiver.events.dispatcher import DestinationAnswer, Dispatcher
from receiver.events.event import EventSerializer
from receiver.events.job_webhooks import THREADS, UNSIGNED, Hosts, JobWebhookTransport, refusal
from receiver.events.transports import WebhookTransport, transport_for
from receiver.jobs.job_object import JobObjects, shortened
from receiver.ledger import webhooks
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.net.client import HttpClient
from receiver.net.connection import SafeConnector
from receiver.services.opening import Opening
from receiver.telemetry.redaction import Redactor


class Sending(Opening):
    """Job objects, events and their dispatchers."""

    @cached_property
    def redactor(self) -> Redactor:
        """Removes our secrets from texts."""
        return Redactor(self.settings.secrets())

    @cached_property
    def job_objects(self) -> JobObjects:
        """The job objects that all readers are shown."""
        return JobObjects(self.queries, self.redactor, self.links.lasting)

    @cached_property
    def links(self) -> Links:
        """Links to archived files that need no token."""
        return Links(
            lambda: self.store,  # boto3 is not imported for a job that is only shown
            self.settings.archive_public_url,
            lambda: self.admin_token,
            self.now,
        )

    @cached_property
    def serializer(self) -> EventSerializer:
        """How events are written in deliveries."""
        return EventSerializer(
            self.settings.archive_url, self.settings.public_url, self._objects_in_events
        )

    def _objects_in_events(self, refs: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = self.job_objects.named(refs)
        return {ref: shortened(job).model_dump(mode="json") for ref, job in found.items()}

    def dispatchers(self) -> list[Dispatcher]:
        """Return the sender of each destination."""
        secrets = [secret.get_secret_value() for secret in self.settings.event_secret]
        found = [
            Dispatcher(
                self.outbox,
                to,
                transport_for(to, self.event_client, secrets, time.time),
                self.serializer,
            )
            for to in self.settings.destinations
        ]
        return [*found, self._to_job_webhooks] if secrets else found

    @cached_property
    def _to_job_webhooks(self) -> Dispatcher:
        secrets = [secret.get_secret_value() for secret in self.settings.event_secret]
        hosts = Hosts(self.now, partial(self.outbox.expedited_at, JOB_WEBHOOKS))
        transport = JobWebhookTransport(
            self.queries.webhook, hosts, self.event_client, secrets, time.time
        )
        postpone = partial(webhooks.postpone, self.database)
        return Dispatcher(
            self.outbox, OF_JOBS, transport, self.serializer, postpone, threads=THREADS
        )

    def send_test_event(self, name: str) -> DestinationAnswer:
        """Send a test event to the destination of this name, or to a job's webhook by its URL.

        Raise ReceiverError if there is no such destination, or the URL cannot be a webhook.
        """
        is_url = name.lower().startswith(("http://", "https://"))
        if is_url and name not in self.settings.served:
            return self._send_test_to(name)
        if name == JOB_WEBHOOKS:
            raise ReceiverError(f"{name}: each job names its own; give the URL of one instead")
        for dispatcher in self.dispatchers():
            if dispatcher.destination.name == name:
                return dispatcher.send_test()
        known = ", ".join(to.name for to in self.settings.destinations)
        raise ReceiverError(f"EVENT_URLS has no destination {name!r}; it has: {known or 'none'}")

    def _send_test_to(self, url: str) -> DestinationAnswer:
        if mistake := self.webhook_mistake(url):
            raise ReceiverError(mistake)
        secrets = [secret.get_secret_value() for secret in self.settings.event_secret]
        transport = WebhookTransport(url, self.event_client, secrets, time.time)
        return self._to_job_webhooks.send_test(transport)

    def webhook_mistake(self, url: str) -> str:
        """Return why a job's events cannot be sent to this URL; "" if nothing is known."""
        if not self.settings.event_secret:
            return UNSIGNED
        return refusal(url, self._connector)

    @cached_property
    def event_client(self) -> HttpClient:
        """Sends webhooks."""
        return HttpClient(self._connector)

    @cached_property
    def _connector(self) -> SafeConnector:
        return SafeConnector(self.settings.event_policy())
