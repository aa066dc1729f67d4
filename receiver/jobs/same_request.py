"""What counts as the same request: the one rule for API, commands, batches and library.

Two requests are the same if the same provider makes the same pictures for the same place: provider,
model, prompt, params and folder. A field that is left out counts as its default. The order of names
does not matter. The order of reference pictures does, because prompts refer to it. How the result
arrives (mode, API) and the job's labels (key, batch, metadata) are not compared.

A request that names another webhook than the job has is another request, because that webhook would
never get an event. A request without a webhook is the same request: every event that it expects is
sent.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from receiver.errors import KeyConflictError
from receiver.jobs.job_object import webhook_shown
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.rows import Job
from receiver.model import Provider, Submission

# The difference in words if only the webhook is another one.
OTHER_WEBHOOK = "events at another webhook"
# The fields that reference pictures are posted in; which one depends on API and model.
_PICTURE_FIELDS = ("urls", "images", "url")


def canonical_request(submission: Submission) -> str:
    """Return a request as text; equal requests have equal texts."""
    params = dict(submission.params)
    pictures: list[Any] = []
    for name in _PICTURE_FIELDS:
        value = params.pop(name, None) or []
        pictures += value if isinstance(value, list | tuple) else [value]
    # Every model makes one picture by default.
    rest = {name: value for name, value in params.items() if (name, value) != ("variants", 1)}
    asked = [submission.provider, submission.model, submission.prompt, submission.folder]
    return json.dumps([*asked, pictures, _numbers(rest)], sort_keys=True)


def _numbers(value: Any) -> Any:
    """Return a JSON value with 2 in place of 2.0, which is the same number."""
    if isinstance(value, dict):
        return {name: _numbers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def without_pictures(submission: Submission) -> Submission:
    """Return a request without its reference pictures."""
    rest = {name: value for name, value in submission.params.items() if name not in _PICTURE_FIELDS}
    return replace(submission, params=rest)


def request_of(queries: JobQueries, job: Job) -> Submission:
    """Return the request of a job, with the fields that are compared."""
    return Submission(
        job.prompt,
        job.model,
        json.loads(queries.params(job.ref)),
        provider=Provider.of(job.provider),
        folder=job.folder,
        webhook=queries.webhook(job.ref),
    )


def has_webhook_of(asked: Submission, shown: str | None) -> bool:
    """Return whether a request fits a job's webhook; ``shown`` is as the job object shows it."""
    return asked.webhook is None or webhook_shown(asked.webhook) == shown


def require_same_request(queries: JobQueries, holder: Job, submission: Submission) -> None:
    """Raise KeyConflictError if the job that has the key had another request."""
    was, key = request_of(queries, holder), submission.key or ""
    if canonical_request(was) != canonical_request(submission):
        raise KeyConflictError(key, holder.ref)
    if not has_webhook_of(submission, webhook_shown(was.webhook)):
        raise KeyConflictError(key, holder.ref, OTHER_WEBHOOK)


def key_conflict(
    key: str,
    ref: str,
    request: Mapping[str, Any],
    is_same: Callable[[str, Mapping[str, Any]], bool],
) -> KeyConflictError:
    """Return the error for a key whose job was made from other arguments than ``request``.

    ``is_same`` compares a job with arguments. If only the webhook differs, the error says so.
    """
    if not is_same(ref, request) and is_same(ref, {**request, "webhook": None}):
        return KeyConflictError(key, ref, OTHER_WEBHOOK)
    return KeyConflictError(key, ref)
