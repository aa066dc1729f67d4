"""Asking an address that a provider named in an answer: only public ones, as for downloads."""

import time

from receiver.errors import FetchError, ProviderUnavailableError
from receiver.net.client import HttpClient
from receiver.net.client import Request as HttpRequest
from receiver.net.connection import Deadline, translate_network_errors
from receiver.providers.dialect import Answer, Head, Request

# Seconds for the whole answer and for one wait, and its most bytes.
_TIMEOUT, _STALL = 30.0, 15.0
_MAX_ANSWER = 16 * 1024 * 1024


def ask_named_address(client: HttpClient, request: Request) -> Answer:
    """Send a GET and return the answer; redirects are not followed, they would take our key along.

    Raise ProviderUnavailableError.
    """
    deadline = Deadline(time.monotonic, _TIMEOUT, _STALL)
    try:
        target = client.policy.check_url(request.url)
        with (
            translate_network_errors(target.host),
            client.exchange(
                HttpRequest("GET", target, {**request.headers, "Accept-Encoding": "identity"}),
                deadline,
                max_body=_MAX_ANSWER,
            ) as response,
        ):
            head = Head(response.status, response.headers.get("Location", ""))
            return Answer(head, response.read())
    except FetchError as error:
        raise ProviderUnavailableError(f"the provider cannot be asked now: {error}") from error
