"""HTTP client of GRSAI: one request, one response, no retries."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice

import requests

from receiver.errors import AnswerLostError, NotSentError, ProviderUnavailableError, UnreadableError
from receiver.model import Api
from receiver.providers.grsai import answers
from receiver.providers.grsai.answers import Head
from receiver.providers.grsai.loose_json import is_complete
from receiver.providers.grsai.request import CREDITS_PATH, Request, build_result
from receiver.providers.grsai.streams import events
from receiver.providers.transport import (
    DEFAULT_TIMEOUTS,
    NETWORK_ERRORS,
    RESULT_TIMEOUTS,
    BeforeSend,
    NotifyingAdapter,
    describe,
    read_body,
    read_lines,
)
from receiver.telemetry.redaction import Redactor


class GrsaiClient:
    """A client with one API key. Threads may share it."""

    def __init__(self, key: str, timeouts: tuple[float, float] = DEFAULT_TIMEOUTS) -> None:
        self._key = key
        # A provider may repeat the key in its response, which is stored and displayed.
        self._redact = Redactor([key]).raw
        self._timeouts = timeouts

    def submit(self, base_url: str, request: Request, before_send: BeforeSend) -> tuple[str, bytes]:
        """Post a job and return the provider's id, and the body that it was in.

        Raise RefusedError, NotSentError or AnswerLostError.
        """
        with self._send(base_url, request, before_send) as response:
            body, broken = read_body(response)
            body = self._redact(body)
            try:
                found = answers.read_submit(_head(response), body)
            except AnswerLostError:
                if broken is not None:
                    raise broken from None
                raise
        return found, body

    @contextmanager
    def stream(
        self, base_url: str, request: Request, before_send: BeforeSend
    ) -> Iterator[Iterator[bytes]]:
        """Post a job whose response is a stream, and yield the bodies of its events as they arrive.

        A task without a stream is one event. Raise RefusedError or NotSentError if there is an
        error before an event names the task, and AnswerLostError if the stream breaks or stops.
        """
        with self._send(base_url, request, before_send) as response:
            head = _head(response)
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

    def result(self, base_url: str, api: Api, provider_id: str) -> bytes:
        """Ask for a task and return the body of the response.

        Raise NoSuchTaskError or ProviderUnavailableError.
        """
        request = build_result(api, provider_id)
        try:
            with (
                requests.Session() as session,
                self._request(session, base_url, request, timeouts=RESULT_TIMEOUTS) as response,
            ):
                body, broken = read_body(response)
                body = self._redact(body)
                if broken is not None and not is_complete(body):
                    raise broken
        except NETWORK_ERRORS as error:
            raise ProviderUnavailableError(
                f"{base_url} cannot be asked now: {describe(error)}"
            ) from error
        answers.read_result(api, _head(response), body, provider_id)
        return body

    def credits(self, base_url: str) -> float:
        """Return how many credits the key has left; raise ProviderUnavailableError."""
        request = Request(CREDITS_PATH, {"apiKey": self._key})
        try:
            with (
                requests.Session() as session,
                self._request(session, base_url, request) as response,
            ):
                body, _ = read_body(response)
                return answers.read_credits(_head(response), self._redact(body))
        except (*NETWORK_ERRORS, UnreadableError) as error:
            raise ProviderUnavailableError(
                f"{base_url} cannot be asked for credits now: {describe(error)}"
            ) from error

    @contextmanager
    def _send(
        self, base_url: str, request: Request, before_send: BeforeSend
    ) -> Iterator[requests.Response]:
        """Send a submit over a new connection and yield the response.

        With a kept-alive connection that the server has just closed, one could not know whether it
        read the request.
        """
        adapter = NotifyingAdapter(before_send)
        with requests.Session() as session:
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            try:
                with self._request(session, base_url, request) as response:
                    yield response
            except NETWORK_ERRORS as error:
                if not adapter.before_send_called:
                    raise NotSentError(f"no connection to {base_url}: {describe(error)}") from error
                raise AnswerLostError(
                    f"the submit went to {base_url} and its answer was lost: {describe(error)}"
                ) from error

    def _request(
        self,
        session: requests.Session,
        base_url: str,
        request: Request,
        timeouts: tuple[float, float] | None = None,
    ) -> requests.Response:
        # Redirects are not followed: they would turn the POST into a GET, or leak our key.
        return session.request(
            "GET" if request.body is None else "POST",
            base_url + request.path,
            json=request.body,
            headers={"Authorization": f"Bearer {self._key}", "Accept-Encoding": "identity"},
            timeout=timeouts or self._timeouts,
            stream=True,
            allow_redirects=False,
        )


def _checked(found: Iterator[bytes]) -> Iterator[bytes]:
    """Yield events; raise RefusedError for an error before one has named the task."""
    for body in found:
        named = answers.check_unnamed_event(body)
        yield body
        if named:
            break
    yield from found


def _head(response: requests.Response) -> Head:
    return Head(response.status_code, response.headers.get("Location", ""))
