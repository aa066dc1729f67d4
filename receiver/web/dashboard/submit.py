"""The form that submits a job."""

import json

from flask import Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import ConfigurationError, KeyConflictError, LedgerError, ReceiverError
from receiver.jobs.request import DEFAULT_MODEL, GrsaiRequest
from receiver.model import Api, Mode, Provider
from receiver.providers.registry import DIALECTS, EXAMPLES
from receiver.web.api.jobs import submit_job
from receiver.web.dashboard.base import (
    blueprint,
    form,
    localized,
    localized_error,
    localized_mistake,
    page,
    validate_fields,
)
from receiver.web.state import services

# The fields that are hidden until the reader opens them.
_MORE = ("key", "batch", "metadata", "folder", "webhook")
_FIELDS = (
    "prompt",
    "provider",
    "model",
    "size",
    "variants",
    "images",
    "params",
    "mode",
    "api",
    *_MORE,
)
# The fields that are JSON objects: the text about a mistake, and its example.
_OBJECTS = {
    "params": ("params_are_json", '{"quality": "high"}'),
    "metadata": ("metadata_are_json", '{"order": 7}'),
}
# Characters of the params of another job that the form repeats: with pictures they are megabytes.
_MAX_PARAMS = 4000


@blueprint.get("/submit")
def show_form() -> Response:
    """Show the form; with ``like=REF`` filled in from that job."""
    like = services().queries.job(request.args.get("like", ""))
    if like is None:
        return _form_page({})
    params = services().queries.params(like.ref)
    # Not its webhook: the URL may hold a secret.
    given = {
        "prompt": like.prompt,
        "model": like.model,
        "provider": like.provider,
        "batch": like.batch or "",
        "api": like.api if like.api == Api.NEWER else "",
        "folder": like.folder,
    }
    if params != "{}" and len(params) <= _MAX_PARAMS:
        given["params"] = json.dumps(json.loads(params), ensure_ascii=False, indent=1)
    return _form_page(given)


@blueprint.post("/submit")
def submit() -> AnyResponse:
    """Submit the job and show it; after a mistake show the form again, as it was filled in."""
    given = {name: form().get(name, "") for name in _FIELDS}
    fields: dict[str, object] = {name: value for name, value in given.items() if value.strip()}
    if "images" in fields:
        fields["images"] = given["images"].split()
    unreadable = []
    for name, (text, example) in _OBJECTS.items():
        try:
            fields[name] = json.loads(given[name] or "{}")
        except (ValueError, RecursionError):
            del fields[name]
            unreadable.append(localized(text, example=example))
    asked, mistakes = validate_fields(GrsaiRequest, fields)
    if asked is None or unreadable:
        return _form_page(given, [*unreadable, *mistakes], 400)
    try:
        job, _ = submit_job(asked)
    except ConfigurationError as error:
        return _form_page(given, [localized_mistake(one) for one in error.mistakes], 409)
    except KeyConflictError as error:
        return _form_page(given, [localized_error(error)], 409)
    except LedgerError:
        raise
    except ReceiverError as error:
        return _form_page(given, [localized_error(error)], 503)
    return redirect(f"/jobs/{job.ref}?notice=submitted", 303)


def _form_page(
    given: dict[str, str], mistakes: list[str] | None = None, status: int = 200
) -> Response:
    default = Mode.WEBHOOK if services().settings.public_url else Mode.POLL
    providers = _providers()
    values = {
        "provider": providers[0].value,
        "model": _example(providers[0]),
        "mode": default.value,
        **{name: value for name, value in given.items() if value},
    }
    modes = (Mode.WEBHOOK, Mode.POLL, Mode.STREAM)
    known = {one: _example(one) for one in providers}
    used = services().job_list.models_with_provider()
    models = sorted(
        {(model, provider.value) for provider, model in known.items()}
        | {(model, provider) for model, provider in used if provider in known}
    )
    choices = {
        "providers": providers,
        "modes": modes,
        "apis": [(Api.DRAW, localized("api_draw")), (Api.NEWER, localized("api_newer"))],
        "models": models,
        "more": any(given.get(name) for name in _MORE),
    }
    return page("submit.html", {"given": values, "mistakes": mistakes or [], **choices}, status)


def _providers() -> list[Provider]:
    """Return the providers whose keys are set and that the web posts to; GRSAI if there is none."""
    return list(filter(services().clients.can_ask, DIALECTS)) or [Provider.GRSAI]


def _example(provider: Provider) -> str:
    return DEFAULT_MODEL if provider is Provider.GRSAI else EXAMPLES[provider]
