"""Client of OpenAI's Images API through the vendor's package: one call, one response, no retries.

The package is an optional dependency and takes half a second to import, so the first call imports
it.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from receiver import installation
from receiver.errors import AnswerLostError, ConfigurationError, NotSentError, ProviderError
from receiver.providers.openai import protocol as openai_images
from receiver.telemetry.redaction import Redactor

# Seconds to connect, and to wait for the response, which comes when the pictures are made. The
# package has the same limit.
_CONNECT_TIMEOUT = 10.0
_MAX_TIMEOUT = 600.0


def require_package() -> None:
    """Raise ConfigurationError with the remedy if the vendor's package is not installed."""
    if remedy := installation.missing("openai"):
        raise ConfigurationError([f"--provider openai: {remedy}"])


class OpenAIClient:
    """A client with one API key. Threads may share it.

    ``timeout`` is in seconds without data of the response, ``max_picture_size`` in bytes.
    """

    def __init__(self, key: str, base_url: str, *, timeout: float, max_picture_size: int) -> None:
        self.base_url = base_url
        self._key = key
        # A provider may repeat the key in its response, which is stored and displayed.
        self._redact = Redactor([key]).raw
        self._timeout = min(timeout, _MAX_TIMEOUT)
        self._max_picture_size = max_picture_size

    def generate(self, arguments: dict[str, Any], before_send: Callable[[], None]) -> bytes:
        """Call ``images.generate`` once and return the raw response, which is a report.

        ``before_send`` is called right before. Raise RefusedError, NotSentError or AnswerLostError;
        raise ConfigurationError if the package is not installed.
        """
        require_package()
        import openai  # noqa: PLC0415 - see the module

        # Each call has a new connection: if the server has just closed a kept-alive one, it is not
        # known whether it read the request. The hook reads the response itself, because the package
        # would read one of any length. Redirects are not followed: they would post the job again.
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
                raise self._connection_error(error.__cause__ or error) from error
        # Not seen so far: the package posted the job but did not call the hook.
        raise AnswerLostError("the package returned without an answer")

    def _connection_error(self, cause: BaseException) -> ProviderError:
        """Return the error for a broken connection: NotSentError only if none was made."""
        import httpx2  # noqa: PLC0415 - see the module

        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            return NotSentError(f"no connection to {self.base_url}: {cause}")
        return AnswerLostError(
            f"the submit went to {self.base_url} and its answer was lost: {cause}"
        )


class _ResponseTakenError(Exception):
    """Raised by the hook to end the package's call: the response has been read."""


class _ResponseReader:
    """Reads the response to one call, at most ``limit`` bytes."""

    def __init__(self, limit: int, redact: Callable[[bytes], bytes]) -> None:
        self.body = b""
        self._limit = limit
        self._redact = redact

    def take(self, response: Any) -> NoReturn:
        """Read a whole response and raise its meaning as an error; _TakenError means a report."""
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self._limit:
                raise AnswerLostError(
                    f"the answer is longer than {self._limit} bytes "
                    "(FETCH_MAX_BYTES for each picture)"
                )
        self.body = self._redact(bytes(body))
        openai_images.check_answer(response.status_code, self.body)
        raise _ResponseTakenError
