"""Posting a job by hand."""

from flask import Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import ConfigurationError, LedgerError, ReceiverError
from receiver.jobs.request import DEFAULT_MODEL, GrsaiRequest
from receiver.model import Mode
from receiver.web.api.jobs import hand_in
from receiver.web.dashboard.base import blueprint, form, mistakes_of, page
from receiver.web.state import services

_FIELDS = ("prompt", "model", "size", "variants", "mode", "key")


@blueprint.get("/submit")
def submit_form() -> Response:
    """Ask for a job; another one can be named to begin with."""
    like = services().queries.job(request.args.get("like", ""))
    given = {"prompt": like.prompt, "model": like.model} if like else {}
    return _show(given)


@blueprint.post("/submit")
def submit_job() -> AnyResponse:
    """Post the job, and show it; a mistake shows the form again, as it was filled in."""
    given = {name: form().get(name, "") for name in _FIELDS}
    asked, mistakes = mistakes_of(
        GrsaiRequest, {name: value for name, value in given.items() if value.strip()}
    )
    if asked is None:
        return _show(given, mistakes, 400)
    try:
        job, _ = hand_in(asked)
    except ConfigurationError as error:
        return _show(given, error.mistakes, 409)
    except LedgerError:
        raise
    except ReceiverError as error:
        return _show(given, [str(error)], 503)
    return redirect(f"/jobs/{job.ref}?said=submitted", 303)


def _show(given: dict[str, str], mistakes: list[str] | None = None, status: int = 200) -> Response:
    default = Mode.WEBHOOK if services().settings.public_url else Mode.POLL
    values = {
        "model": DEFAULT_MODEL,
        "mode": default.value,
        **{name: value for name, value in given.items() if value},
    }
    modes = (Mode.WEBHOOK, Mode.POLL, Mode.STREAM)
    known = sorted({DEFAULT_MODEL, *services().job_list.models()})
    return page(
        "submit.html",
        {"given": values, "mistakes": mistakes or [], "modes": modes, "models": known},
        status,
    )
