"""What a person does about a job: try again, try now, take a delivery in again, or do so to all that match."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from flask import Response, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import LedgerError, ReceiverError
from receiver.model import JobState
from receiver.web.dashboard.base import (
    blueprint,
    form,
    is_fragment,
    message,
    own_address,
    page,
    said,
    with_arguments,
)
from receiver.web.dashboard.jobs import arguments_of, read_question, wanted_by
from receiver.web.state import services

T = TypeVar("T")

# Jobs or deliveries a step goes through; each is a transaction of its own, and callbacks write in between.
STEP = 50
# Jobs that are counted before it is done.
COUNTED = 10_000
_LOST = (JobState.FAILED, JobState.EXPIRED)


@blueprint.post("/jobs/<ref>/retry")
def retry_one(ref: str) -> AnyResponse:
    """Open a failed or expired job again."""
    return _act(ref, "retried", services().operator.retry)


@blueprint.post("/jobs/<ref>/hurry")
def hurry_one(ref: str) -> AnyResponse:
    """Try now what waits for its next attempt."""
    return _act(ref, "hurried", services().operator.expedite)


@blueprint.post("/jobs/<ref>/deliveries/<int:number>/replay")
def replay_one(ref: str, number: int) -> AnyResponse:
    """Take a delivery in again."""
    if number not in {row.id for row in services().queries.delivery_log(ref)}:
        raise NotFound
    return _act(ref, "replayed", lambda _ref: services().operator.replay(number))


@blueprint.post("/events/<int:number>/resend")
def resend(number: int) -> AnyResponse:
    """Tell an event again wherever it was set aside."""
    try:
        services().outbox.resend(min(number, 2**63 - 1))
    except LedgerError:
        raise
    except ReceiverError as error:
        return message(409, "error_409", str(error), back="/set-aside")
    services().engine.notify()
    return redirect("/set-aside?said=resent", 303)


def _act(ref: str, done: str, act: Callable[[str], object]) -> AnyResponse:
    """Do something to a job, wake the worker, and go back to where the form was."""
    if services().queries.job(ref) is None:
        raise NotFound
    back = own_address(form().get("next", "")) if form().get("next") else f"/jobs/{ref}"
    try:
        act(ref)
    except LedgerError:
        raise
    except ReceiverError as error:
        return message(409, "error_409", str(error), back=back)
    services().engine.notify()
    return redirect(with_arguments(back.partition("?")[0], said=done), 303)


# Many at once: a page that says how many, then step after step. Each step's form holds where the next one begins.


@blueprint.get("/retry-all")
def retry_all() -> Response:
    """Say how many jobs would be tried again."""
    query, mistakes = read_question(request.args)
    if mistakes:
        return message(400, "error_409", "; ".join(mistakes), back="/jobs")
    states = [state for state in _LOST if query.state in (None, state)]
    count = sum(
        services().job_list.count(replace(wanted_by(query), state=state), COUNTED)
        for state in states
    )
    hidden = {**arguments_of(query), "todo": ",".join(states)}
    return _confirm("retry", count, hidden, back=with_arguments("/jobs", **arguments_of(query)))


@blueprint.post("/retry-all")
def retry_step() -> Response:
    """Try the next few again, newest first; failed ones before expired ones."""
    query, mistakes = read_question(form())
    states = [state for state in _LOST if state in form().get("todo", "").split(",")]
    if mistakes or not states:
        return message(400, "error_409", "; ".join(mistakes) or said("nothing_to_do"), back="/jobs")
    found = services().job_list.page(replace(wanted_by(query), state=states[0]), query.after, STEP)
    outcome = _each([job.ref for job in found.jobs], services().operator.retry)
    left = states if found.next else states[1:]
    hidden = {**arguments_of(query), "todo": ",".join(left), "after": found.next or ""}
    return _report(
        "retry",
        outcome,
        hidden if left else None,
        back=with_arguments("/jobs", **arguments_of(query)),
    )


@blueprint.get("/replay-all")
def replay_all() -> Response:
    """Say how many deliveries would be taken in again."""
    return _confirm(
        "replay", len(services().set_aside.deliveries(limit=COUNTED)), {}, back="/set-aside"
    )


@blueprint.post("/replay-all")
def replay_step() -> Response:
    """Take the next few in again, newest first."""
    given = form().get("before", "")
    found = services().set_aside.deliveries(_number(given) or None, STEP)
    outcome = _each(
        [row.id for row in found],
        services().operator.replay,
    )
    return _report(
        "replay",
        outcome,
        {"before": str(found[-1].id)} if len(found) == STEP else None,
        back="/set-aside",
    )


def _each(things: Iterable[T], act: Callable[[T], object]) -> tuple[int, int]:
    """Do something to each; return how many could be helped, and how many could not."""
    done = failed = 0
    for thing in things:
        try:
            act(thing)
            done += 1
        except LedgerError:
            raise
        except ReceiverError:
            failed += 1
    services().engine.notify()
    return done, failed


def _confirm(kind: str, count: int, hidden: dict[str, str], *, back: str) -> Response:
    values = {
        "count": count,
        "least": count >= COUNTED,
        "step": STEP,
        "hidden": hidden,
        "back": back,
    }
    return page("confirm.html", {"kind": kind, **values})


def _report(
    kind: str, outcome: tuple[int, int], hidden: dict[str, str] | None, *, back: str
) -> Response:
    """Say how far it has come; ``hidden`` are the fields of the next step, None after the last."""
    done, failed = (
        _number(form().get(name, "")) + number
        for name, number in zip(("done", "failed"), outcome, strict=True)
    )
    going_on = None if hidden is None else {**hidden, "done": str(done), "failed": str(failed)}
    values = {"done": done, "failed": failed, "hidden": going_on, "back": back}
    return page("_many.html" if is_fragment() else "many.html", {"kind": kind, **values})


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0
