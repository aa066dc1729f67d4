"""The transport to the webhooks of jobs, which share the threads of one work queue.

No host gets more than its share of them, and one that cannot be reached gets nothing during a pause
of its own: a dead or slow webhook delays only the events to its host. A host that answers is not
paused, whatever it answers: many users may share a host, and their other URLs may work.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from receiver.clock import back_off, doubling
from receiver.errors import AddressRefusedError, EventNotDeliveredError, EventPostponedError
from receiver.events.event import Event
from receiver.events.transports import WebhookTransport
from receiver.net.client import HttpClient
from receiver.net.connection import Deadline, SafeConnector
from receiver.net.policy import read_url

# Threads for all webhooks of jobs, and how many of them one host may have at once.
THREADS, HOST_THREADS = 16, 4
# Seconds that a delivery waits for a thread of its host, and is then postponed.
WAIT, POSTPONED = 1.0, 5.0
# Seconds without any delivery to a host that cannot be reached, after each failure.
PAUSES = doubling(1.0, 60.0)
# Seconds to resolve the host of a webhook before its job is posted.
RESOLVE_WITHIN = 3.0
# Pauses of hosts that are remembered. If there are more, those that end first are forgotten.
MOST_HOSTS = 1000


UNSIGNED = (
    "EVENT_SECRET: not set, so the events of a job's webhook could not be signed; set it for the "
    "whole service, or leave the webhook out. Generate one with: "
    'echo "whsec_$(openssl rand -base64 32)"'
)


def refusal(url: str, connector: SafeConnector) -> str:
    """Return why nothing may be sent to this URL, "" if it may.

    A name that cannot be resolved now is not refused: each delivery resolves it again.
    """
    deadline = Deadline(time.monotonic, RESOLVE_WITHIN, RESOLVE_WITHIN)
    try:
        connector.addresses(connector.policy.check_url(url), deadline)
    except AddressRefusedError as error:
        return f"webhook: {error}"
    except OSError:
        return ""
    return ""


class Hosts:
    """The threads and pauses of each host. ``now`` returns the ledger's time, in seconds.

    ``expedited_at`` returns when an operator last asked to send everything at once.
    """

    def __init__(
        self,
        now: Callable[[], float],
        expedited_at: Callable[[], float],
        wait: float = WAIT,
    ) -> None:
        self._now = now
        self._expedited_at = expedited_at
        self._wait = wait
        self._changed = threading.Condition()
        self._busy: Counter[str] = Counter()
        # For each host that could not be reached: failures, begin and end of the pause.
        self._failing: dict[str, tuple[int, float, float]] = {}

    @contextmanager
    def turn(self, start: str) -> Iterator[None]:
        """Take one of the host's threads; raise EventPostponedError if there is none or it pauses.

        ``start`` is the beginning of its URLs.
        """
        self._require_no_pause(start)
        with self._changed:
            if not self._changed.wait_for(lambda: self._busy[start] < HOST_THREADS, self._wait):
                raise EventPostponedError(self._now() + POSTPONED, start, away=False)
            self._busy[start] += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy[start] -= 1
                self._busy += Counter()  # forget hosts without threads
                self._changed.notify_all()

    def _require_no_pause(self, start: str) -> None:
        _, began, until = self._failing.get(start, (0, 0.0, 0.0))
        if self._now() < until and self._expedited_at() <= began:
            raise EventPostponedError(until, start, away=True)

    def record(self, start: str, *, away: bool) -> None:
        """Record whether a host could not be reached."""
        with self._changed:
            failures, _, until = self._failing.pop(start, (0, 0.0, 0.0))
            if not away:
                return
            now = self._now()
            # Attempts that were made at the same time are one failure.
            failures += now >= until
            self._failing[start] = (failures, now, now + back_off(failures, PAUSES, jitter=0))
            if len(self._failing) > MOST_HOSTS:
                del self._failing[min(self._failing, key=lambda host: self._failing[host][2])]


class JobWebhookTransport:
    """Posts each event to the webhook of its job; ``address`` returns it by ref.

    ``now`` is the time that is signed.
    """

    def __init__(
        self,
        address: Callable[[str], str | None],
        hosts: Hosts,
        client: HttpClient,
        secrets: Sequence[str],
        now: Callable[[], float],
    ) -> None:
        self._address = address
        self._hosts = hosts
        self._client = client
        self._secrets = secrets
        self._now = now

    def send(self, event: Event, body: str) -> str:
        """Post the event; see Transport. Raise EventPostponedError if its host has to wait."""
        address = self._address(event.ref)
        if address is None:
            raise EventNotDeliveredError("the job has no webhook")
        target = read_url(address)
        start = f"{target.scheme}://{target.authority}/"
        with self._hosts.turn(start):
            try:
                transport = WebhookTransport(address, self._client, self._secrets, self._now)
                answer = transport.send(event, body)
            except EventNotDeliveredError as error:
                self._hosts.record(start, away=error.away and error.status is None)
                # Only its host pauses, not the destination.
                raise EventNotDeliveredError(str(error), wait=error.wait) from error
            self._hosts.record(start, away=False)
            return answer
