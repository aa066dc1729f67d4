"""The requests that GRSAI is sent, without I/O."""

from dataclasses import dataclass
from urllib.parse import quote

from receiver.model import Api, Mode, Submission
from receiver.providers.grsai.families import fields_of

CREDITS_PATH = "/client/openapi/getAPIKeyCredits"
_DRAW_RESULT_PATH = "/v1/draw/result"
_API_RESULT_PATH = "/v1/api/result"
# Instead of a callback URL: the provider answers with the id only, and we poll the task.
NO_WEBHOOK = "-1"
# Fields of the delivery, which callers may not set.
NOT_SENT = frozenset({"webHook", "replyType"})


@dataclass(frozen=True, slots=True)
class GrsaiCall:
    """A call of GRSAI's API: the path below the base URL, and the JSON body (None: a GET)."""

    path: str
    body: dict[str, object] | None = None


def build_submit(submission: Submission, web_hook: str) -> GrsaiCall:
    """Return the POST of a submit. ``web_hook`` is a callback URL or ``NO_WEBHOOK``.

    Params are passed on unchanged, except those that choose how the result is delivered. Raise
    ValueError if the API does not have the model.
    """
    path = fields_of(submission.model, submission.api).path
    passed = {name: value for name, value in submission.params.items() if name not in NOT_SENT}
    body: dict[str, object] = {**passed, "model": submission.model, "prompt": submission.prompt}
    streams = submission.mode is Mode.STREAM
    if submission.api is Api.NEWER:
        return GrsaiCall(path, {**body, "replyType": "stream" if streams else "async"})
    return GrsaiCall(path, body if streams else {**body, "webHook": web_hook})


def build_result(api: Api, provider_id: str) -> GrsaiCall:
    """Return the request that asks for a task."""
    if api is Api.NEWER:
        return GrsaiCall(f"{_API_RESULT_PATH}?id={quote(provider_id, safe='')}")
    return GrsaiCall(_DRAW_RESULT_PATH, {"id": provider_id})
