"""Talks to GRSAI over HTTP: one request, one answer, no retrying here.

What matters is to know afterwards whether a submit can have reached the provider: see ``submit``.
"""

import requests
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from receiver.errors import AnswerLostError, NotSentError, ProviderUnavailableError
from receiver.providers import grsai

# Seconds to connect, and between two reads of an answer.
_TIMEOUTS = (10.0, 60.0)
# Bytes of an answer we are willing to read; a task object is a few hundred.
_LONGEST_ANSWER = 4 * 1024 * 1024


class GrsaiClient:
    """GRSAI at one base URL with one key."""

    def __init__(self, key: str, timeouts: tuple[float, float] = _TIMEOUTS) -> None:
        self._headers = {"Authorization": f"Bearer {key}"}
        self._timeouts = timeouts

    def submit(self, base_url: str, request: grsai.Request) -> str:
        """Post a job and return the provider's id.

        Raise RefusedError, NotSentError or AnswerLostError. The connection is a fresh one: on a kept-alive one that the other side just
        closed, nobody could tell whether the POST was read.
        """
        try:
            status, body = self._post(base_url + request.path, request.body)
        except (requests.RequestException, OSError) as error:
            if _never_connected(error):
                raise NotSentError(f"no connection to {base_url}: {_plain(error)}") from error
            raise AnswerLostError(f"the submit went to {base_url} and its answer was lost: {_plain(error)}") from error
        return grsai.read_submit(status, body)

    def result(self, base_url: str, provider_id: str) -> bytes:
        """Ask for a task and return the answer's body; raise NoSuchTaskError or ProviderUnavailableError."""
        try:
            status, body = self._post(base_url + grsai.RESULT_PATH, {"id": provider_id})
        except (requests.RequestException, OSError) as error:
            raise ProviderUnavailableError(f"{base_url} cannot be asked now: {_plain(error)}") from error
        grsai.read_result(status, body)
        return body

    def _post(self, url: str, body: dict[str, object]) -> tuple[int, bytes]:
        # A redirect would turn the POST into a GET, or send our key elsewhere: it is an answer like any other.
        with requests.post(url, json=body, headers=self._headers, timeout=self._timeouts, stream=True, allow_redirects=False) as response:
            return response.status_code, response.raw.read(_LONGEST_ANSWER, decode_content=True)


def _never_connected(error: Exception) -> bool:
    """Say whether the error came before the first byte could be sent."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError | requests.exceptions.InvalidURL):
        return True
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError | ConnectTimeoutError)


def _plain(error: Exception) -> str:
    """Say what happened without the object addresses that urllib3 prints."""
    cause = error.args[0] if error.args else error
    reason = getattr(cause, "reason", cause)
    return str(reason).rpartition("object at ")[2].partition(">: ")[2] or str(reason)
