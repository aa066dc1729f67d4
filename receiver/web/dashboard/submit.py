"""The form that submits a job."""

from flask import Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import ConfigurationError, KeyConflictError, LedgerError, ReceiverError
from receiver.jobs.request import DEFAULT_MODEL, GrsaiRequest
from receiver.model import Mode
from receiver.web.api.jobs import submit_job
from receiver.web.dashboard.base import blueprint, form, page, validate_fields
from receiver.web.state import services

_FIELDS = ("prompt", "model", "size", "variants", "mode", "key")


@blueprint.get("/submit")
def show_form() -> Response:
    """Show the form; with ``like=REF`` filled in from that job."""
    like = services().queries.job(request.args.get("like", ""))
    given = {"prompt": like.prompt, "model": like.model} if like else {}
    return _form_page(given)


@blueprint.post("/submit")
def submit() -> AnyResponse:
    """Submit the job and show it; after a mistake show the form again, as it was filled in."""
    given = {name: form().get(name, "") for name in _FIELDS}
    asked, mistakes = validate_fields(
        GrsaiRequest, {name: value for name, value in given.items() if value.strip()}
    )
    if asked is None:
        return _form_page(given, mistakes, 400)
    try:
        job, _ = submit_job(asked)
    except ConfigurationError as error:
        return _form_page(given, error.mistakes, 409)
    except KeyConflictError as error:
        return _form_page(given, [str(error)], 409)
    except LedgerError:
        raise
    except ReceiverError as error:
        return _form_page(given, [str(error)], 503)
    return redirect(f"/jobs/{job.ref}?notice=submitted", 303)


def _form_page(
    given: dict[str, str], mistakes: list[str] | None = None, status: int = 200
) -> Response:
    default = Mode.WEBHOOK if services().settings.public_url else Mode.POLL
    values = {
        "model": DEFAULT_MODEL,
        "mode": default.value,
        **{name: value for name, value in given.items() if value},
    }
    modes = (Mode.WEBHOOK, Mode.POLL, Mode.STREAM)
    models = sorted({DEFAULT_MODEL, *services().job_list.models()})
    return page(
        "submit.html",
        {"given": values, "mistakes": mistakes or [], "modes": modes, "models": models},
        status,
    )
