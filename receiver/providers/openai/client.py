"""Talks to OpenAI through its own package: one call, one answer, no retrying here or there.

The package is an extra and takes half a second to import, so it is imported by the first call.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from receiver.errors import AnswerLostError, ConfigurationError, NotSentError
from receiver.providers.openai import protocol as openai_images
from receiver.telemetry.redaction import Redactor

# Seconds to connect, and at most to wait for the answer, which comes when the pictures are made; the package's own limit.
_CONNECT_TIMEOUT = 10.0
_MAX_TIMEOUT = 600.0


class OpenAIClient:
    """OpenAI with one key; safe to share between threads.

    ``timeout`` is seconds without a byte of the answer, ``max_picture_size`` bytes.
    """

    def __init__(self, key: str, base_url: str, *, timeout: float, max_picture_size: int) -> None:
        self.base_url = base_url
        self._key = key
        # A provider may quote the key it was shown; what it says is kept, and shown to people.
        self._redact = Redactor([key]).raw
        self._timeout = min(timeout, _MAX_TIMEOUT)
        self._max_picture_size = max_picture_size

    def generate(self, arguments: dict[str, Any], before_send: Callable[[], None]) -> bytes:
        """Call ``images.generate`` once and return the raw answer, a report; ``before_send`` is called right before.

        Raise RefusedError, NotSentError or AnswerLostError, ConfigurationError without the package.
        """
        try:
            import httpx2  # noqa: PLC0415 - see the module
            import openai  # noqa: PLC0415 - see the module
        except ImportError as error:
            raise ConfigurationError(
                ["--provider openai: needs pip install 'webhook-image-receiver[openai]'"]
            ) from error
        # The connection is this call's own: of a kept-alive one that was just closed nobody could say what was read. The answer is taken
        # as soon as its head is there, since the package would read one of any length; and a redirect is no order to post again.
        reader = _ResponseReader(
            openai_images.max_response_size(arguments, self._max_picture_size), self._redact
        )
        http_client = openai.DefaultHttpxClient(
            event_hooks={"response": [reader.take]}, follow_redirects=False
        )
        timeout = openai.Timeout(self._timeout, connect=_CONNECT_TIMEOUT)
        with openai.OpenAI(
            api_key=self._key,
            base_url=self.base_url,
            max_retries=0,
            timeout=timeout,
            http_client=http_client,
        ) as client:
            before_send()
            try:
                client.images.with_raw_response.generate(**arguments)
            except _ResponseTakenError:
                return reader.body
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                if isinstance(
                    cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError
                ):
                    raise NotSentError(f"no connection to {self.base_url}: {cause}") from error
                raise AnswerLostError(
                    f"the submit went to {self.base_url} and its answer was lost: {cause}"
                ) from error
        # Never seen: a package that no longer calls the hook has posted all the same.
        raise AnswerLostError("the package returned without an answer")


class _ResponseTakenError(Exception):
    """Ends the package's part of a call: its answer is ours."""


class _ResponseReader:
    """The answer to one call, read as it comes and no further than ``limit`` bytes."""

    def __init__(self, limit: int, redact: Callable[[bytes], bytes]) -> None:
        self.body = b""
        self._limit = limit
        self._redact = redact

    def take(self, response: Any) -> NoReturn:
        """Read a response whole and raise what it means, _TakenError for a report."""
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self._limit:
                raise AnswerLostError(
                    f"the answer is longer than {self._limit} bytes (FETCH_MAX_BYTES for each picture)"
                )
        self.body = self._redact(bytes(body))
        openai_images.check_answer(response.status_code, self.body)
        raise _ResponseTakenError
