"""The batches of the newest jobs, and one batch: its progress, failures and downloads."""

import hashlib
from typing import Any

from flask import Response, request
from werkzeug.exceptions import NotFound

from receiver.ledger.queries.batches import MOST_COUNTED, BatchQueries, RecentBatch
from receiver.model import FINAL_STATES, JobState, ref_time
from receiver.web.dashboard.base import blueprint, is_fragment, page
from receiver.web.dashboard.charts import Bar, bars
from receiver.web.dashboard.job_filter import read_job_filter
from receiver.web.state import per_app, services

# Failed jobs that the page of a batch shows.
FAILURES = 20
_ORDER = (*FINAL_STATES, JobState.ARCHIVING, JobState.WAITING, JobState.SUBMITTING)


@per_app
def _batches() -> BatchQueries:
    return BatchQueries(services().database)


@blueprint.get("/batches")
def batches() -> Response:
    """List the batches of the newest jobs; with ``batch`` show that one.

    As a fragment respond 204 if the batch has not changed since ``seen``. A batch's name may have
    any character, so it is not in the path.
    """
    job_filter = read_job_filter(request.args)
    name = job_filter.given.get("batch", "")
    if not name:
        return page("batches.html", {"recent": [_shown(one) for one in _batches().recent()]})
    progress = _batches().progress(name)
    if progress is None:
        raise NotFound
    seen = hashlib.sha256(repr(progress).encode()).hexdigest()[:16]
    if is_fragment() and request.args.get("seen") == seen:
        return Response(status=204)
    failed = services().job_list.page(job_filter.of_state(JobState.FAILED), "", FAILURES).jobs
    values = {
        "job_filter": job_filter,
        "batch": progress,
        "at_least": progress.total >= MOST_COUNTED,
        **_parts(name, progress.states),
        "jobs": failed,
        "assets": services().queries.assets([job.ref for job in failed]),
        "seen": seen,
    }
    return page("_batch.html" if is_fragment() else "batch.html", values)


def _shown(batch: RecentBatch) -> dict[str, Any]:
    """Return what the list shows of a batch."""
    moment = ref_time(batch.newest).timestamp()
    return {"batch": batch, "moment": moment, **_parts(batch.name, batch.states)}


def _parts(name: str, states: dict[JobState, int]) -> dict[str, Any]:
    """Return the bar of a batch, and the states that its jobs have, in the order of the bar."""
    parts = [(state.value, states.get(state, 0)) for state in _ORDER]
    return {
        "bar": bars([Bar(name, parts)])[0],
        "states": [state for state in _ORDER if states.get(state)],
    }
