"""Jobs of a service elsewhere, by its HTTP API: the other transport of ``Submitter``.

A request whose answer was lost is repeated. A submit always has a key, so the repetition finds the
job of the first request, and nothing is paid twice.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from secrets import token_hex
from typing import Any, BinaryIO, cast

import requests

from receiver.errors import (
    ConfigurationError,
    KeyTakenError,
    LedgerError,
    MissingObjectError,
    ReceiverError,
)
from receiver.jobs.job_object import JobView, asset_path
from receiver.jobs.same_request import (
    canonical_request,
    has_webhook_of,
    key_conflict,
    without_pictures,
)
from receiver.jobs.schemas import REF
from receiver.model import JobState, Provider, Reason, Submission, timestamp
from receiver.providers.accounts import web_address
from submitter import preflight
from submitter.arguments import job_request
from submitter.http_events import EventStream
from submitter.job import Asset, Files

# Seconds to connect, and of silence: a submit waits for the provider.
_CONNECT, _SILENCE = 10.0, 120.0
# Seconds before each repetition of a request without an answer.
BACK_OFF = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
# Longest Retry-After that is obeyed, and seconds between two reads of jobs while waiting.
_LONGEST_PAUSE, _READ_EVERY = 30.0, 5.0
# Jobs that are read with one request; jobs among which that of an interrupted submit is searched.
_AT_ONCE, _NEWEST = 200, 50
_AWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
_SLOW_DOWN = _AWAY | {HTTPStatus.TOO_MANY_REQUESTS}


class HttpJobs:
    """Posts and reads jobs by HTTP; see ``Transport``. ``pause`` sleeps, in seconds."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        check: bool,
        back_off: Sequence[float] = BACK_OFF,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not token:
            raise ConfigurationError(
                ["ADMIN_TOKEN: not set; it opens the API of the service at RECEIVER_URL"]
            )
        try:
            self._url = web_address(url)
        except ValueError as error:
            raise ConfigurationError([f"RECEIVER_URL: {error}"]) from error
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session = requests.Session()
        self._session.headers.update(self._headers)
        self._is_checked = not check
        self._back_off = back_off
        self._sleep = pause
        self._events: EventStream | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._events:
            self._events.close()
        self._session.close()

    @property
    def is_checked(self) -> bool:
        """Return whether the check before the first POST is over."""
        return self._is_checked

    def require_service(self) -> None:
        """Raise ConfigurationError if no worker would archive a job's result; checked once."""
        if not self._is_checked:
            preflight.require(lambda: "" if self.has_worker() else self._without_worker())
        self._is_checked = True

    def _without_worker(self) -> str:
        return (
            f"RECEIVER_URL: no worker serves the ledger of {self._url}: no worker would archive a "
            "paid job, so nothing was posted (to post anyway: --no-check)"
        )

    def post(self, request: Mapping[str, Any]) -> str:
        """Post a job and return its ref; see Transport."""
        asked, key = job_request(request), request.get("key")
        self.require_service()
        body = asked.model_dump(mode="json", exclude_defaults=True)
        body["key"] = key or f"submit-{token_hex(16)}"
        answer, repeated = self._ask("POST", "/api/jobs", json=body)
        if answer.status_code == HTTPStatus.CONFLICT:
            raise self._conflict(answer, key, request)
        ref = str(self._json(answer)["ref"])
        if key and answer.status_code == HTTPStatus.OK and not repeated:
            raise KeyTakenError(key, ref)
        return ref

    def _conflict(
        self, answer: requests.Response, key: str | None, request: Mapping[str, Any]
    ) -> ReceiverError:
        """Return the error of a 409: the key is another job's, or a setting is missing there."""
        holder = self.key_holder(key) if key else None
        if key and holder:
            return key_conflict(key, holder.ref, request, self.is_same_request)
        return ConfigurationError([f"{_detail(answer)} (at {self._url})"])

    def is_same_request(self, ref: str, request: Mapping[str, Any]) -> bool:
        """Return whether a job was made by these arguments, as far as the API shows them.

        Reference pictures are not compared: the service itself refuses a key of another request.
        """
        job = self.named([ref])[ref]
        params = dict[str, object](job.request.params if job.request else {})
        provider = Provider.of(job.provider)
        was = Submission(job.prompt, job.model, params, provider=provider, folder=job.folder)
        asked = without_pictures(job_request({**request, "images": ()}).submission())
        same = canonical_request(asked) == canonical_request(without_pictures(was))
        return same and has_webhook_of(asked, job.webhook)

    def now(self) -> float:
        """Return the time, in seconds since 1970; the service's clock may differ by a second."""
        return time.time()

    def newest(self, since: float) -> list[JobView]:
        """Return the newest jobs that were submitted since then."""
        moment = timestamp(since - 1) or ""
        return self._listed(since=moment, limit=str(_NEWEST))

    def named(self, refs: Sequence[str]) -> dict[str, JobView]:
        """Return the jobs by ref; unknown refs are left out."""
        found: dict[str, JobView] = {}
        possible = [ref for ref in refs if re.fullmatch(REF, ref)]
        for first in range(0, len(possible), _AT_ONCE):
            some = self._listed(refs=",".join(possible[first : first + _AT_ONCE]))
            found |= {job.ref: job for job in some}
        return found

    def states(self, refs: Sequence[str]) -> dict[str, tuple[JobState, Reason | None]]:
        """Return the states of a few hundred jobs; unknown refs are left out."""
        return {ref: (job.state, job.reason) for ref, job in self.named(refs).items()}

    def key_holder(self, key: str) -> JobView | None:
        """Return the job that has a key; None if it is free."""
        return next(iter(self._listed(key=key)), None)

    def arguments_of(self, ref: str) -> dict[str, Any] | None:
        """Raise ConfigurationError: the API shows no reference pictures and no long texts."""
        raise ConfigurationError([f"job {ref}: --resubmit needs the ledger, not RECEIVER_URL"])

    def find(self, text: str, limit: int) -> list[JobView]:
        """Return the newest jobs with this text; see Transport."""
        return self._listed(q=text, limit=str(limit))

    @property
    def files(self) -> Files:
        """The files of the archive, by the API."""
        return self

    def open(self, asset: Asset) -> BinaryIO:
        """Return the bytes of an archived asset as a stream; see Files."""
        answer, _ = self._ask("GET", asset_path(asset.ref, asset.index), stream=True)
        self._json_or_bytes(answer)
        answer.raw.decode_content = True
        return cast("BinaryIO", answer.raw)

    def link(self, asset: Asset) -> str:
        """Return a link to an archived asset; see Files."""
        answer, _ = self._ask("GET", f"{asset_path(asset.ref, asset.index)}/link")
        return str(self._json(answer)["url"])

    def pause(self) -> None:
        """Wait for an event of the service, or some seconds."""
        if self._events is None:
            self._events = EventStream(f"{self._url}/api/stream", self._headers)
        self._events.wait(_READ_EVERY)

    def has_worker(self) -> bool:
        """Return whether a worker serves the ledger of the service."""
        answer, _ = self._ask("GET", "/status", patient=False)
        try:
            return bool(answer.json()["checks"]["workers"]["ok"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                [f"RECEIVER_URL: {self._url} does not answer as this service does"]
            ) from error

    def credits(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the credits left at each provider, and job counts by model; see Transport."""
        answer, _ = self._ask("GET", "/api/credits")
        found = self._json(answer)
        return list(found["providers"]), list(found["models"])

    # Requests.

    def _listed(self, **query: str) -> list[JobView]:
        answer, _ = self._ask("GET", "/api/jobs", params=query)
        return [JobView.model_validate(job) for job in self._json(answer)["jobs"]]

    def _ask(
        self, method: str, path: str, *, patient: bool = True, **options: Any
    ) -> tuple[requests.Response, bool]:
        """Return the answer, and whether the request had to be repeated.

        Raise LedgerError if the service cannot be reached; without ``patient``, a 503 is returned
        like any other answer.
        """
        wait_until_away = [*self._back_off, None]
        for number, pause in enumerate(wait_until_away):
            problem: str
            try:
                answer = self._session.request(
                    method,
                    self._url + path,
                    timeout=(_CONNECT, _SILENCE),
                    allow_redirects=False,
                    **options,
                )
            except requests.RequestException as error:
                problem, asked = f"{type(error).__name__}", 0.0
            else:
                if answer.status_code not in _SLOW_DOWN or not patient:
                    return answer, number > 0
                problem, asked = _detail(answer), _retry_after(answer)
                answer.close()
            if pause is None:
                break
            self._sleep(max(pause, asked))
        raise LedgerError(f"RECEIVER_URL: the service at {self._url} does not answer: {problem}")

    def _json(self, answer: requests.Response) -> dict[str, Any]:
        """Return the JSON of a successful answer; raise the error that any other answer means."""
        self._json_or_bytes(answer)
        try:
            return dict(answer.json())
        except ValueError as error:
            raise LedgerError(f"RECEIVER_URL: {self._url} answers no JSON") from error

    def _json_or_bytes(self, answer: requests.Response) -> None:
        status = answer.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            raise ConfigurationError([f"ADMIN_TOKEN: not the token of the service at {self._url}"])
        if status == HTTPStatus.NOT_FOUND:
            raise MissingObjectError(_detail(answer))
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConfigurationError([_detail(answer)])
        if not answer.ok or answer.is_redirect:
            raise LedgerError(f"RECEIVER_URL: {self._url} answers {status}: {_detail(answer)}")


def _detail(answer: requests.Response) -> str:
    """Return the detail of a problem, or its status."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason}"


def _retry_after(answer: requests.Response) -> float:
    given = answer.headers.get("Retry-After", "")
    return min(float(given), _LONGEST_PAUSE) if given.isdigit() else 0.0
