"""The life of one job as a model: submit, callbacks, polls, workers, crashes, one destination.

Every step is what the service does between two moments at which a crash can separate it: one
transaction of the ledger, one use of the archive, one message. A lease can end at any time, so a
worker that is slow goes on working with a claim that is lost. ``broken`` leaves one rule out; the
tests show that each rule is needed.

It is explored in parts, because each state of the one would be multiplied by all of the other: the
first begins before the submit and has one worker, the others begin with a report that is stored and
have two. After that report others change nothing, which the first part checks.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

WORKERS = ("a", "b")
# What a model may leave out, and the promise (design.md, 1) that breaks then.
BROKEN = {
    "acknowledged before the commit": "1",
    "no token check": "2",
    "put overwrites": "2",
    "finished before the put": "2",
    "event outside the transaction": "3",
    "claims of dead workers stay": "3",
    "no poll and no deadline": "3",
    "the last report counts": "3",
    "the last asset does not make the job due": "3",
    "posted again after a lost answer": "6",
    "job row after the post": "6",
    "manifest after the conclusion": "7",
    "the last asset's worker replaces the manifest": "7",
    "file rejected before it is kept": "9",
    "event marked before it is sent": "events",
    "pruned before its event is sent": "3",
}
FINAL = {"archived", "failed", "expired"}


class Asset(NamedTuple):
    """A row of an asset, and its object. ``due``: its lease ended. ``kept``: in the quarantine."""

    state: str = "none"  # none, pending, archived, failed
    claim: str = ""
    due: bool = True
    sha256: str = ""  # of the row; bytes are named after the worker that downloaded them
    stored: str = ""  # of the object in the archive
    rejected: bool = False
    kept: bool = False
    events: int = 0


class Work(NamedTuple):
    """What a worker has in hand: an asset, by its index, or the job's conclusion (-1)."""

    idx: int
    step: str = "claimed"
    bytes: str = ""
    end: object = None  # the manifest that it has read or stored


class State(NamedTuple):
    """Everything that is durable, and what each process has in memory."""

    assets: tuple[Asset, ...]
    submit: str = "start"  # start, written, posted, done, dead
    posts: int = 0
    web: tuple[str, str] = ("idle", "")  # its step, and what the report says
    acknowledged: bool = False
    delivered: bool = False  # a report is in the ledger
    job: str = "none"
    outcome: str = ""
    claim: str = ""
    due: bool = False
    events: int = 0  # about the job's end
    manifest: object = None
    working: tuple[Work | None, ...] = (None, None)
    sender: str = "idle"
    sent: bool = False
    marked: bool = False
    pruned: bool = False


class Part(NamedTuple):
    """A part of the life of a job: where it begins, and how many workers take part."""

    start: State
    workers: int


_PENDING = Asset("pending")
_DONE = Asset("archived", due=False, sha256="b", stored="b", events=1)


def _reported(*assets: Asset) -> State:
    return State(
        assets,
        submit="done",
        posts=1,
        web=("off", ""),
        delivered=True,
        job="archiving",
        outcome="succeeded",
    )


PARTS = {
    "submitted": Part(State((Asset(),)), 1),
    "reported": Part(_reported(_PENDING), 2),
    "the last of two": Part(_reported(_PENDING, _DONE), 2),
}
# Half a minute: for `make prove`.
LARGE_PARTS = {"two results": Part(_reported(_PENDING, _PENDING), 2)}


class Model:
    """The steps of the service; ``broken`` names one rule of BROKEN that it does not keep."""

    def __init__(self, workers: int, broken: str = "") -> None:
        assert not broken or broken in BROKEN
        self._workers = WORKERS[:workers]
        self._broken = broken

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield what can happen next."""
        yield from self._submit(state)
        yield from self._callback(state)
        yield from self._time(state)
        for number, name in enumerate(self._workers):
            work = state.working[number]
            if work is None:
                yield from self._claim(state, number)
                continue
            yield f"{name} crashes", _works(state, number, None)
            concludes = self._conclude if work.idx < 0 else self._archive
            for what, following in concludes(state, number, work):
                yield f"{name} {what}", following
        yield from self._send(state)

    # Submit.

    def _submit(self, state: State) -> Iterator[tuple[str, State]]:
        after = self._broken == "job row after the post"
        first, then = ("posted", "written") if after else ("written", "posted")
        if state.submit in {"written", "posted"}:
            yield "submit crashes", state._replace(submit="dead")
        if state.submit == "start":
            yield f"submit: {first}", self._submitted(state, first)
        elif state.submit == first:
            yield f"submit: {then}", self._submitted(state, then)
        elif state.submit == then:
            yield "submit: answered", self._answered(state)
            again = self._broken == "posted again after a lost answer"
            lost = state._replace(submit=first if again else "dead")
            yield "submit: answer lost", lost

    @staticmethod
    def _submitted(state: State, step: str) -> State:
        if step == "posted":
            return state._replace(submit=step, posts=state.posts + 1)
        job = "submitting" if state.job == "none" else state.job
        return state._replace(submit=step, job=job)

    @staticmethod
    def _answered(state: State) -> State:
        job = "waiting" if state.job == "submitting" else state.job
        return state._replace(submit="done", job=job)

    # Reports.

    def _callback(self, state: State) -> Iterator[tuple[str, State]]:
        step, says = state.web
        first = self._broken == "acknowledged before the commit"
        if step not in {"idle", "off"}:
            yield "web crashes", state._replace(web=("idle", ""))
        if step == "idle" and state.posts:
            for says in ("succeeded", "failed"):
                yield f"callback: {says}", state._replace(web=("received", says))
        elif step == ("acknowledged" if first else "received"):
            yield "web commits", self._accept(state._replace(web=("stored", says)), says)
        elif step == ("received" if first else "stored"):
            following = ("acknowledged", says) if first else ("idle", "")
            yield "web answers 200", state._replace(web=following, acknowledged=True)
        elif step == "stored":
            yield "web is done", state._replace(web=("idle", ""))

    def _accept(self, state: State, says: str) -> State:
        """Store a report; the first one that ends the job counts."""
        state = state._replace(delivered=True)
        latest = self._broken == "the last report counts" and state.outcome != says
        if state.pruned or (not latest and (state.outcome or state.job in FINAL)):
            return state
        state = state._replace(outcome=says)
        if says == "failed":
            return _ended(state, "failed")
        return state._replace(
            job="archiving", assets=tuple(one._replace(state="pending") for one in state.assets)
        )

    def _time(self, state: State) -> Iterator[tuple[str, State]]:
        if state.posts and state.job == "waiting" and self._broken != "no poll and no deadline":
            yield "poll: succeeded", self._accept(state, "succeeded")
        if (
            state.job in {"submitting", "waiting"}
            and self._broken != "no poll and no deadline"
            and state.submit in {"done", "dead"}
        ):
            yield "deadline", _ended(state, "expired")
        if self._broken == "claims of dead workers stay":
            return
        for idx, asset in enumerate(state.assets):
            if asset.claim and not asset.due:
                yield f"lease of asset {idx} ends", _asset(state, idx, due=True)
        if state.claim and not state.due:
            yield "lease of the job ends", state._replace(due=True)

    # Workers.

    @staticmethod
    def _claim(state: State, number: int) -> Iterator[tuple[str, State]]:
        name = WORKERS[number]
        for idx, asset in enumerate(state.assets):
            if asset.state == "pending" and asset.due:
                claimed = _asset(state, idx, claim=name, due=False)
                yield f"{name} claims asset {idx}", _works(claimed, number, Work(idx))
        if state.job == "archiving" and state.due:
            claimed = state._replace(claim=name, due=False)
            yield f"{name} claims the job", _works(claimed, number, Work(-1))

    def _archive(self, state: State, number: int, work: Work) -> Iterator[tuple[str, State]]:
        asset, at = state.assets[work.idx], f"asset {work.idx}"
        early = self._broken == "finished before the put"
        match work.step:
            case "claimed" if asset.stored and asset.stored != WORKERS[number]:
                yield f"adopts {at}", _next(state, number, "fetched", bytes=asset.stored)
            case "claimed":
                yield f"downloads {at}", _next(state, number, "fetched", bytes=WORKERS[number])
                if not asset.stored:
                    yield f"finds no {at}", _next(state, number, "gone")
                    yield f"finds {at} bad", _next(state, number, "bad")
            case "fetched" if early:
                yield f"finishes {at}", _next(self._finish(state, number, work), number, "put")
            case "fetched" | "put":
                keeps = asset.stored and self._broken != "put overwrites"
                held = asset.stored if keeps else work.bytes
                stored = _asset(state, work.idx, stored=held)
                following = _next(stored, number, "stored", bytes=held)
                yield f"stores {at}", _works(following, number, None) if early else following
            case "stored":
                yield "reads the job", _next(state, number, "read", end=self._last(state, work))
            case "read":
                yield "stores the manifest", self._explain(state, number, work)
            case "explained":
                yield f"finishes {at}", _works(self._finish(state, number, work), number, None)
            case _:
                yield from self._lose(state, number, work)

    def _lose(self, state: State, number: int, work: Work) -> Iterator[tuple[str, State]]:
        """End an asset without a file, or with one that has to be kept first."""
        late = self._broken == "file rejected before it is kept"
        given_up, kept = self._give_up(state, work, number), _asset(state, work.idx, kept=True)
        match work.step:
            case "bad" if late:
                yield "gives the asset up", _next(given_up, number, "keep")
            case "bad":
                yield "keeps the bad file", _next(kept, number, "gone", bytes="bad")
            case "keep":
                yield "keeps the bad file", _works(kept, number, None)
            case "gone":
                yield "gives the asset up", _works(given_up, number, None)

    @staticmethod
    def _last(state: State, work: Work) -> object:
        """Return the manifest if this is the last asset and still ours, None otherwise."""
        own = state.assets[work.idx]
        others = [one for idx, one in enumerate(state.assets) if idx != work.idx]
        if own.claim not in WORKERS or any(one.state == "pending" for one in others):
            return None
        after = _asset(state, work.idx, state="archived", sha256=work.bytes)
        return manifest_of(after) if own.state == "pending" else None

    def _explain(self, state: State, number: int, work: Work) -> State:
        """Create the manifest. Where there is one, the job's end is left to the reconciler."""
        if self._broken == "the last asset's worker replaces the manifest" and work.end:
            return _next(state._replace(manifest=work.end), number, "explained")
        if self._broken == "manifest after the conclusion":
            return _next(state, number, "explained", end=None)
        if state.manifest or not work.end or state.assets[work.idx].claim != WORKERS[number]:
            return _next(state, number, "explained", end=None)
        return _next(state._replace(manifest=work.end), number, "explained")

    def _finish(self, state: State, number: int, work: Work) -> State:
        asset = state.assets[work.idx]
        if asset.claim != WORKERS[number] and self._broken != "no token check":
            return state
        state = _asset(
            state,
            work.idx,
            state="archived",
            sha256=work.bytes,
            claim="",
            events=asset.events + 1,
        )
        if work.end and not _pending(state):
            return _ended(state, "archived" if _all_archived(state) else "failed")
        return self._due_if_last(state)

    def _give_up(self, state: State, work: Work, number: int) -> State:
        if state.assets[work.idx].claim != WORKERS[number]:
            return state
        rejected = work.bytes == "bad" or work.step == "bad"
        given_up = _asset(state, work.idx, state="failed", claim="", rejected=rejected)
        return self._due_if_last(given_up)

    def _due_if_last(self, state: State) -> State:
        if _pending(state) or self._broken == "the last asset does not make the job due":
            return state
        return state._replace(due=True, claim="")

    def _conclude(self, state: State, number: int, work: Work) -> Iterator[tuple[str, State]]:
        late = self._broken == "manifest after the conclusion"
        match work.step:
            case "claimed":
                ours = state.claim == WORKERS[number]
                read = _next(state, number, "read", end=manifest_of(state))
                yield "reads the job", read if ours else _works(state, number, None)
            case "read" if late:
                following = _next(self._end(state, number), number, "ended", end=work.end)
                yield "ends the job", following
            case "read" | "ended":
                explained = state._replace(manifest=work.end)
                following = _works(explained, number, None)
                if work.step == "read":
                    following = _next(explained, number, "explained")
                yield "stores the manifest", following
            case "explained" if self._broken == "event outside the transaction":
                ended = self._end(state, number)
                yield "ends the job", _next(ended._replace(events=0), number, "event")
            case "explained":
                yield "ends the job", _works(self._end(state, number), number, None)
            case "event":
                yield "writes the event", _works(state._replace(events=1), number, None)

    @staticmethod
    def _end(state: State, number: int) -> State:
        if state.claim != WORKERS[number] or state.job in FINAL:
            return state
        return _ended(state, "archived" if _all_archived(state) else "failed")

    # Events.

    def _send(self, state: State) -> Iterator[tuple[str, State]]:
        early = self._broken == "event marked before it is sent"
        if state.events and not state.marked and state.sender == "idle" and not state.pruned:
            changed: dict[str, Any] = {"marked": True} if early else {"sent": True}
            yield "event is sent", state._replace(sender="sending", **changed)
        if state.sender == "sending":
            changed = {"sent": True} if early else {"marked": True}
            yield "event is marked", state._replace(sender="idle", **changed)
            yield "sender crashes", state._replace(sender="idle")
        sent = state.marked or self._broken == "pruned before its event is sent"
        if state.job in FINAL and sent and not state.pruned:
            yield "prune", state._replace(pruned=True)


def _works(state: State, number: int, work: Work | None) -> State:
    working = tuple(work if one == number else old for one, old in enumerate(state.working))
    return state._replace(working=working)


def _next(state: State, number: int, step: str, **changed: Any) -> State:
    work = state.working[number]
    assert work is not None
    return _works(state, number, work._replace(step=step, **changed))


def _asset(state: State, idx: int, /, **changed: Any) -> State:
    row = state.assets[idx]._replace(**changed)
    return state._replace(assets=(*state.assets[:idx], row, *state.assets[idx + 1 :]))


def _ended(state: State, job: str) -> State:
    return state._replace(job=job, claim="", due=False, events=state.events + 1)


def _pending(state: State) -> bool:
    return any(asset.state == "pending" for asset in state.assets)


def _all_archived(state: State) -> bool:
    return all(asset.state == "archived" for asset in state.assets)


def manifest_of(state: State) -> object:
    """Return what a manifest says about the assets as they are now."""
    return tuple((asset.state, asset.sha256) for asset in state.assets)
