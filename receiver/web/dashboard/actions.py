"""Actions of an operator: retry, try now, accept, replay, resend; for one or many."""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from flask import Response, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import LedgerError, ReceiverError
from receiver.ledger.queries.job_list import Count
from receiver.model import JobState
from receiver.web.dashboard.base import (
    blueprint,
    error_page,
    form,
    is_fragment,
    localized,
    localized_error,
    own_path,
    page,
    with_query,
)
from receiver.web.dashboard.job_filter import read_job_filter
from receiver.web.state import services

T = TypeVar("T")

# Jobs or deliveries per step. Each is its own transaction, so callbacks can write in between.
STEP = 50
# Jobs are counted up to this number.
MAX_COUNT = 10_000
_RETRYABLE = (JobState.FAILED, JobState.EXPIRED)


@blueprint.post("/jobs/<ref>/retry")
def retry_one(ref: str) -> AnyResponse:
    """Reopen a failed or expired job."""
    return _act(ref, "retried", services().operator.retry)


@blueprint.post("/jobs/<ref>/expedite")
def expedite_one(ref: str) -> AnyResponse:
    """Make the waiting work of a job due now."""
    return _act(ref, "expedited", services().operator.expedite)


@blueprint.post("/jobs/<ref>/assets/<int:index>/accept")
def accept_one(ref: str, index: int) -> AnyResponse:
    """Accept the rejected file that the page showed, which the form names by its SHA-256."""
    shown = form().get("sha256", "")
    return _act(ref, "accepted", lambda _ref: services().operator.accept(ref, index, shown))


@blueprint.post("/jobs/<ref>/deliveries/<int:number>/replay")
def replay_one(ref: str, number: int) -> AnyResponse:
    """Process a stored delivery again."""
    if number not in {row.id for row in services().queries.delivery_log(ref)}:
        raise NotFound
    return _act(ref, "replayed", lambda _ref: services().operator.replay(number))


@blueprint.post("/jobs/<ref>/deliveries/<int:number>/dismiss")
def dismiss_one(ref: str, number: int) -> AnyResponse:
    """Remove an unreadable delivery from the list of what was set aside."""
    if number not in {row.id for row in services().queries.delivery_log(ref)}:
        raise NotFound
    return _act(ref, "dismissed", lambda _ref: services().operator.dismiss(number))


@blueprint.post("/events/<int:number>/resend")
def resend(number: int) -> AnyResponse:
    """Deliver an event again to the destinations where its delivery was set aside."""
    return _act_on_event(number, services().outbox.resend, "resent")


@blueprint.post("/events/<int:number>/dismiss")
def dismiss_event(number: int) -> AnyResponse:
    """Remove an event from the list of what was set aside."""
    return _act_on_event(number, services().outbox.dismiss, "event_dismissed")


def _act_on_event(number: int, act: Callable[[int], int], notice: str) -> AnyResponse:
    try:
        act(min(number, 2**63 - 1))
    except LedgerError:
        raise
    except ReceiverError as error:
        return error_page(409, "error_409", localized_error(error), back="/set-aside")
    services().engine.notify()
    return redirect(f"/set-aside?notice={notice}", 303)


def _act(ref: str, notice: str, act: Callable[[str], object]) -> AnyResponse:
    """Act on a job, notify the worker, and return to the page of the form with a notice."""
    if services().queries.job(ref) is None:
        raise NotFound
    back = own_path(form().get("next", "")) if form().get("next") else f"/jobs/{ref}"
    try:
        act(ref)
    except LedgerError:
        raise
    except ReceiverError as error:
        return error_page(409, "error_409", localized_error(error), back=back)
    services().engine.notify()
    return redirect(with_query(back.partition("?")[0], notice=notice), 303)


# Many at once: a page that says how many, then step after step. Each step's form has the position
# where the next one begins.


@blueprint.get("/retry-all")
def retry_all() -> Response:
    """Show how many jobs a retry of all matching jobs would reopen."""
    job_filter = read_job_filter(request.args)
    if job_filter.mistakes:
        return error_page(400, "error_409", "; ".join(job_filter.mistakes), back="/jobs")
    states = [state for state in _RETRYABLE if job_filter.wanted.state in (None, state)]
    counts = [services().job_list.count(job_filter.of_state(state), MAX_COUNT) for state in states]
    count = Count(
        sum(one.number for one in counts), is_partial=any(one.is_partial for one in counts)
    )
    hidden = {**job_filter.given, "todo": ",".join(states)}
    return _confirm("retry", count, hidden, back=job_filter.url("/jobs"))


@blueprint.post("/retry-all")
def retry_step() -> Response:
    """Retry the next few jobs, newest first; failed jobs before expired ones."""
    job_filter = read_job_filter(form())
    states = [state for state in _RETRYABLE if state in form().get("todo", "").split(",")]
    if job_filter.mistakes or not states:
        detail = "; ".join(job_filter.mistakes) or localized("nothing_to_do")
        return error_page(400, "error_409", detail, back="/jobs")
    found = services().job_list.page(job_filter.of_state(states[0]), job_filter.after, STEP)
    outcome = _each([job.ref for job in found.jobs], services().operator.retry)
    left = states if found.next else states[1:]
    hidden = {**job_filter.given, "todo": ",".join(left), "after": found.next or ""}
    return _report("retry", outcome, hidden if left else None, back=job_filter.url("/jobs"))


@blueprint.get("/replay-all")
def replay_all() -> Response:
    """Show how many unreadable deliveries a replay would process again."""
    number = len(services().set_aside.deliveries(limit=MAX_COUNT))
    count = Count(number, is_partial=number >= MAX_COUNT)
    return _confirm("replay", count, {}, back="/set-aside")


@blueprint.post("/replay-all")
def replay_step() -> Response:
    """Process the next few unreadable deliveries again, newest first."""
    before = _number(form().get("before", "")) or None
    found = services().set_aside.deliveries(before, STEP)
    outcome = _each(
        [row.id for row in found],
        services().operator.replay,
    )
    hidden = {"before": str(found[-1].id)} if len(found) == STEP else None
    return _report("replay", outcome, hidden, back="/set-aside")


def _each(items: Iterable[T], act: Callable[[T], object]) -> tuple[int, int]:
    """Act on each item; return the numbers of successes and failures. Raise LedgerError."""
    done = failed = 0
    for item in items:
        try:
            act(item)
            done += 1
        except LedgerError:
            raise
        except ReceiverError:
            failed += 1
    services().engine.notify()
    return done, failed


def _confirm(kind: str, count: Count, hidden: dict[str, str], *, back: str) -> Response:
    values = {
        "count": count.number,
        "at_least": count.is_partial,
        "step": STEP,
        "hidden": hidden,
        "back": back,
    }
    return page("bulk_confirm.html", {"kind": kind, **values})


def _report(
    kind: str, outcome: tuple[int, int], hidden: dict[str, str] | None, *, back: str
) -> Response:
    """Show the progress; ``hidden`` are the fields of the next step's form, None after the last."""
    done, failed = (
        _number(form().get(name, "")) + number
        for name, number in zip(("done", "failed"), outcome, strict=True)
    )
    next_step = None if hidden is None else {**hidden, "done": str(done), "failed": str(failed)}
    values = {"done": done, "failed": failed, "hidden": next_step, "back": back}
    return page("_bulk.html" if is_fragment() else "bulk.html", {"kind": kind, **values})


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0
