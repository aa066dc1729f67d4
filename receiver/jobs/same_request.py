"""What counts as the same request: the one rule for API, commands, batches and library.

Two requests are the same if the same provider makes the same pictures for the same place: provider,
model, prompt, params and folder. Defaults count as written out, the order of names does not matter,
and that of reference pictures does, because prompts refer to it. Not compared is how the result
arrives (mode, API) and what labels the job (key, batch, metadata).

A request that names another webhook than the job has is another request, because that webhook would
never get an event. A request without a webhook is the same: it asks for nothing that is missing.
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

# What a request asks for if only its webhook is another one.
OTHER_WEBHOOK = "events at another webhook"
# The fields that reference pictures are posted in; which one depends on API and model.
_PICTURE_FIELDS = ("urls", "images", "url")


def canonical_request(submission: Submission) -> str:
    """Return what is asked for as text, equal for equal requests."""
    params = dict(submission.params)
    pictures: list[Any] = []
    for name in _PICTURE_FIELDS:
        value = params.pop(name, None) or []
        pictures += value if isinstance(value, list | tuple) else [value]
    # One picture is what every model makes if nothing is said.
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
    """Return what a job was asked for, as far as requests are compared."""
    return Submission(
        job.prompt,
        job.model,
        json.loads(queries.params(job.ref)),
        provider=Provider.of(job.provider),
        folder=job.folder,
        webhook=queries.webhook(job.ref),
    )


def has_webhook_of(asked: Submission, shown: str | None) -> bool:
    """Return whether a request fits a job's webhook, given as the job object shows it."""
    return asked.webhook is None or webhook_shown(asked.webhook) == shown


def require_same_request(queries: JobQueries, holder: Job, submission: Submission) -> None:
    """Raise KeyConflictError if the holder of a key was asked for something else."""
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
    """Return the error for a key whose job was made by other arguments than ``request``.

    ``is_same`` compares a job with arguments. The error says it if only the webhook differs.
    """
    if not is_same(ref, request) and is_same(ref, {**request, "webhook": None}):
        return KeyConflictError(key, ref, OTHER_WEBHOOK)
    return KeyConflictError(key, ref)
