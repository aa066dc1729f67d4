"""Requests to an address that a provider named in an answer; only public ones, as for downloads."""

import time

from receiver.errors import FetchError, ProviderUnavailableError
from receiver.net.client import HttpClient, HttpRequest
from receiver.net.connection import Deadline, translate_network_errors
from receiver.providers.dialect import Head, ProviderAnswer, Request
from receiver.providers.transport import MAX_RESPONSE

# Seconds for the whole answer, which may have pictures inside, and for one wait.
_TIMEOUT, _STALL = 60.0, 15.0


def ask_named_address(client: HttpClient, request: Request) -> ProviderAnswer:
    """Send a GET and return the answer; redirects are not followed, because they would get our key.

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
                max_body=MAX_RESPONSE,
            ) as response,
        ):
            head = Head(response.status, response.headers.get("Location", ""))
            return ProviderAnswer(head, response.read())
    except FetchError as error:
        raise ProviderUnavailableError(f"the provider cannot be asked now: {error}") from error
