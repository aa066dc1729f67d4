"""What must hold in every state of the model of a job, and in every step to the next one."""

from collections.abc import Iterator

from job_model import FINAL, State, manifest_of


def check(before: State, state: State) -> str:
    """Return which promise a step breaks; "" if none."""
    return next((promise for promise, kept in _promises(before, state) if not kept), "")


def _promises(before: State, state: State) -> Iterator[tuple[str, bool]]:
    archived = [asset for asset in state.assets if asset.state == "archived"]
    yield "1: acknowledged is stored", state.delivered or not state.acknowledged
    yield "2: the object is what the row says", all(one.stored == one.sha256 for one in archived)
    yield "2: one event of an asset", all(asset.events <= 1 for asset in state.assets)
    yield "3: a final state stays", before.job not in FINAL or state.job == before.job
    yield "3: one event of the end", state.events <= 1
    yield "6: paid once", state.posts <= 1
    yield "6: paid and known", state.job != "none" or not state.posts
    yield "9: a rejected file is kept", all(one.kept for one in state.assets if one.rejected)
    explained = state.manifest == manifest_of(state) or not archived
    yield "7: the archive explains itself", state.job not in FINAL or explained
    yield "events: marked is sent", state.sent or not state.marked


def is_done(state: State) -> bool:
    """Return whether the job has ended, and its event was received."""
    return state.submit == "start" or (state.job in FINAL and state.sent)
