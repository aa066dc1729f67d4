"""HTTP client of GRSAI: that of every provider, and streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice

from receiver.providers.client import ProviderClient, head_of
from receiver.providers.dialect import Account, Request
from receiver.providers.grsai import answers
from receiver.providers.grsai.dialect import Grsai
from receiver.providers.grsai.streams import events
from receiver.providers.transport import DEFAULT_TIMEOUTS, BeforeSend, read_body, read_lines


class GrsaiClient(ProviderClient):
    """A client with one API key. Threads may share it."""

    def __init__(self, account: Account, timeouts: tuple[float, float] = DEFAULT_TIMEOUTS) -> None:
        super().__init__(Grsai(), account, timeouts)

    @contextmanager
    def stream(self, request: Request, before_send: BeforeSend) -> Iterator[Iterator[bytes]]:
        """Post a job whose response is a stream, and yield the bodies of its events as they arrive.

        A task without a stream is one event. Raise RefusedError or NotSentError if there is an
        error before an event names the task, and AnswerLostError if the stream breaks or stops.
        """
        with self._send(request, before_send) as response:
            head = head_of(response)
            if not head.is_success:
                body, _ = read_body(response)
                # An id in an error's body is not dropped: its task is polled.
                answers.read_submit(head, self._redact(body))
                yield iter([body])
                return
            found = events(map(self._redact, read_lines(response)))
            checked = _checked(found)
            first = list(islice(checked, 1))
            yield chain(first, checked)


def _checked(found: Iterator[bytes]) -> Iterator[bytes]:
    """Yield events; raise RefusedError for an error before one has named the task."""
    for body in found:
        named = answers.check_unnamed_event(body)
        yield body
        if named:
            break
    yield from found
