"""Jobs in the ledger of this machine: one of the two transports of ``Submitter``."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from threading import Lock
from typing import Any

from receiver.doctor import last_result
from receiver.errors import ConfigurationError, ProviderError
from receiver.jobs.job_object import JobView, webhook_shown
from receiver.jobs.same_request import (
    canonical_request,
    has_webhook_of,
    request_of,
    without_pictures,
)
from receiver.jobs.schemas import JobsQuery
from receiver.ledger.queries.jobs import JobRecord
from receiver.model import JobState, Mode, Provider, Reason
from receiver.services import Services
from receiver.settings import Settings
from submitter import preflight
from submitter.arguments import submission_of
from submitter.job import Files, LedgerFiles

# Seconds between two polls of the ledger while waiting.
POLL_EVERY = 0.2
# Newest jobs among which the job of an interrupted submit is searched.
_NEWEST = 50
_NO_KEY = "GRSAI_API_KEY: not set; GRSAI reports the credits left only for a key"


class LedgerJobs:
    """Posts and reads jobs with the parts of the service; see ``Transport``."""

    def __init__(self, settings: Settings, *, check: bool) -> None:
        self._services = Services(settings)
        self._is_checked = not check
        self._checking = Lock()
        if check:
            preflight.require_ledger(self._services)
        self._services.open()

    def close(self) -> None:
        """Close the connections."""
        self._services.close()

    @property
    def is_checked(self) -> bool:
        """Return whether the check before the first POST is over."""
        return self._is_checked

    def require_service(self) -> None:
        """Raise ConfigurationError if no worker would archive a job's result; checked once."""
        with self._checking:
            if not self._is_checked:
                preflight.require_service(self._services)
                self._is_checked = True

    def post(self, request: Mapping[str, Any]) -> str:
        """Post a job and return its ref; see Transport."""
        submission = submission_of(request)
        by_callback = submission.mode is Mode.WEBHOOK
        if by_callback and (reason := callback_problem(self._services.settings)):
            raise ConfigurationError([reason])
        self.require_service()
        job = self._services.submit_service.post(submission)
        # The worker polls this job sooner than its next scheduled check.
        self._services.engine.notify()
        return job.ref

    def is_same_request(self, ref: str, request: Mapping[str, Any]) -> bool:
        """Return whether a job was made by these arguments; see ``receiver.jobs.same_request``."""
        was = request_of(self._services.queries, self._services.jobs.get(ref))
        try:
            asked = submission_of(request)
        except ConfigurationError:
            # An image file was deleted since: it is not needed again, so compare without images.
            asked, was = submission_of({**request, "images": ()}), without_pictures(was)
        same = canonical_request(asked) == canonical_request(was)
        return same and has_webhook_of(asked, webhook_shown(was.webhook))

    def now(self) -> float:
        """Return the ledger's time, in seconds since 1970."""
        return self._services.now()

    def newest(self, since: float) -> list[JobView]:
        """Return the newest jobs that were submitted since then."""
        found = [
            job for job in self._services.queries.jobs(limit=_NEWEST) if job.submitted_at >= since
        ]
        return self._services.job_objects.of(found)

    def named(self, refs: Sequence[str]) -> Mapping[str, JobView]:
        """Return the jobs by ref; unknown refs are left out."""
        return self._services.job_objects.named(refs)

    def states(self, refs: Sequence[str]) -> Mapping[str, tuple[JobState, Reason | None]]:
        """Return the states of a few hundred jobs; unknown refs are left out."""
        return self._services.queries.states(refs)

    def key_holder(self, key: str) -> JobView | None:
        """Return the job that has a key; None if it is free."""
        holder = self._services.jobs.key_holder(key)
        return self._services.job_objects.of([holder])[0] if holder else None

    def arguments_of(self, ref: str) -> dict[str, Any] | None:
        """Return the arguments that post a job again, without its key; None without the job."""
        queries = self._services.queries
        record = queries.record(ref)
        if record is None:
            return None
        return arguments_of(record) | {"webhook": queries.webhook(ref)}

    def find(self, text: str, limit: int) -> list[JobView]:
        """Return the newest jobs with this text; see Transport."""
        page = self._services.job_list.page(JobsQuery(q=text).wanted(), "", limit)
        return self._services.job_objects.of(page.jobs)

    @property
    def files(self) -> Files:
        """The files of the archive."""
        return LedgerFiles(self._services)

    def pause(self) -> None:
        """Wait until the ledger is polled again."""
        time.sleep(POLL_EVERY)

    def has_worker(self) -> bool:
        """Return whether a worker serves this ledger."""
        return self._services.has_worker()

    def credits(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the credits left at each provider, and job counts by model; see Transport."""
        models = [asdict(usage) for usage in self._services.totals.usage()]
        known = {Provider.GRSAI, *self._services.settings.accounts()}
        return [self._balance(provider) for provider in Provider if provider in known], models

    def _balance(self, provider: Provider) -> dict[str, Any]:
        client = self._services.clients.get(provider)
        if client is None:
            return {"provider": provider.value, "credits": None, "error": _NO_KEY}
        try:
            return {"provider": provider.value, "credits": client.credits(), "error": ""}
        except ProviderError as error:
            return {"provider": provider.value, "credits": None, "error": str(error)}


def arguments_of(record: JobRecord) -> dict[str, Any]:
    """Return the arguments that post a recorded job again."""
    job = record.job
    return {
        "prompt": job.prompt,
        "provider": Provider.of(job.provider),
        "model": job.model,
        "params": json.loads(record.params),
        "mode": job.mode,
        "api": job.api,
        "batch": job.batch,
        "metadata": json.loads(record.metadata),
        "folder": job.folder,
    }


def callback_problem(settings: Settings) -> str:
    """Return why callbacks would not arrive, by the last `receiver doctor`; "" if they would."""
    failure = last_result.failure(settings.data_dir, settings.public_url)
    if not failure:
        return ""
    return (
        f"PUBLIC_URL: the last `receiver doctor` could not reach us through it: {failure}; "
        "correct it and run `receiver doctor` again, or use --mode poll"
    )
