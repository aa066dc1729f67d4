"""A batch under way: its lines are handed in side by side, each once, and their jobs watched until they are final."""

import json
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from receiver.errors import ConfigurationError, KeyTakenError
from receiver.ledger.rows import Job
from receiver.model import JobState, Provider, Reason
from receiver.services import Services
from submitter.batch.job_table import Roll, in_chunks
from submitter.batch.lines import BadLine, Line, unpostable
from submitter.batch.workers import Hands, Pace
from submitter.submit import Submitter, key_of_try

T = TypeVar("T")

# Jobs whose states are asked for in one query.
ASKED_AT_ONCE = 500
# Seconds between two looks at the ledger; longer where looking takes long, so that it never takes more than a twentieth of the time.
LOOK_EVERY = 0.5
LOOK_SHARE = 20
# Seconds an interrupted batch waits for the answers to submits under way.
GRACE = 10.0


class Batch:
    """Lines become jobs here; ``tell`` is called with what a person should know, ``show`` after each look at the ledger.

    A job the provider failed is posted anew up to ``resubmit`` times, counting those of earlier runs.
    """

    def __init__(
        self,
        submitter: Submitter,
        services: Services,
        *,
        concurrency: int,
        rate: float | None,
        resubmit: int,
        stopping: threading.Event,
        tell: Callable[[str], None],
        show: Callable[[Roll, int], None],
    ) -> None:
        self._submitter = submitter
        self._jobs = services.jobs
        self._reports = services.queries
        self._concurrency = concurrency
        self._pace = Pace(rate)
        self._resubmit = resubmit
        self._stopping = stopping
        self._tell = tell
        self._show = show
        self._hands: Hands[Any] | None = None
        self._refunded: set[int] = set()  # places on the roll
        self._direct: set[int] = set()  # lines being answered by the pictures themselves
        self._pause = LOOK_EVERY
        self.roll = Roll()
        self.bad: dict[int, BadLine] = {}  # by number of line
        self.found: list[None] = []  # one for each line whose job was there already

    # Handing in.

    def submit(self, lines: Iterable[Line | BadLine]) -> None:
        """Hand in every line; raise the first error that is not a line's own."""
        self._carry_out(lines, self._take)

    def _carry_out(self, things: Iterable[T], act: Callable[[T], None]) -> None:
        self._hands = hands = Hands(self._concurrency, things, act, self._stopping)
        while not hands.done(within=self._pause):
            self._look()

    def _take(self, line: Line | BadLine) -> None:
        """Find a line's job, or post it."""
        if isinstance(line, BadLine):
            self._note_bad(line)
            return
        # Once more where another took the key since we looked: its job is ours, unless it was told to come later and took its row back.
        while not self._find(line) and self._pace.wait(self._stopping):
            if self._post(line):
                return

    def _find(self, line: Line) -> bool:
        """Enter the job that has a line's key; False if there is none."""
        job, tries = self._newest(line.key)
        if job is not None:
            self._note_found(line, job, tries)
        return job is not None

    def _newest(self, key: str) -> tuple[Job | None, int]:
        """Find the job that has a key, or the last of those that were posted anew in its place, and how many they were."""
        job, tries = self._jobs.key_holder(key), 0
        while job is not None and job.reason is Reason.PROVIDER_ERROR:
            later = self._jobs.key_holder(key_of_try(key, tries + 1))
            if later is None:
                break
            job, tries = later, tries + 1
        return job, tries

    def _note_found(self, line: Line, job: Job, tries: int) -> None:
        if line.named and not self._submitter.asks_for(job.ref, line.request):
            error = f"column key: {line.key!r} is job {job.ref}, which was asked for something else; nothing posted"
            self._note_bad(BadLine(line.number, error, line.key))
            return
        self.found.append(None)
        self._enter(self.roll.add(line.number, job.ref, job.state, tries), job.reason)

    def _post(self, line: Line) -> bool:
        """Post a line's job, or note why it cannot be; False if another took the key meanwhile."""
        if line.request["provider"] is Provider.OPENAI:
            self._direct.add(line.number)
        try:
            job = self._submitter.post(**line.request, key=line.key)
        except KeyTakenError:
            return False
        except ConfigurationError as error:
            self._note_bad(BadLine(line.number, unpostable(error)))
        else:
            self._enter(self.roll.add(line.number, job.ref, job.state, 0), job.reason)
        finally:
            self._direct.discard(line.number)
        return True

    def _note_bad(self, line: BadLine) -> None:
        self.bad[line.number] = line
        self._tell(f"line {line.number}: {line.error}")

    # Watching.

    def wait(self, timeout: float | None) -> None:
        """Wait until every job is final, posting anew what the provider failed; raise TimeoutError after so many seconds."""
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        while True:
            self._look()
            if again := self._again():
                self._carry_out(again, self._post_anew)
            going_on = sum(1 for _ in self.roll.unfinished())
            if not going_on or self._stopping.is_set():
                return
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{going_on} of {len(self.roll)} jobs are not final after {timeout:.0f} s"
                )
            time.sleep(min(self._pause, max(0.0, end - time.monotonic())))

    def _look(self) -> None:
        """Ask the ledger how the unfinished jobs stand."""
        began = time.monotonic()
        for places in in_chunks(self.roll.unfinished(), ASKED_AT_ONCE):
            found = self._reports.states([self.roll.ref(place) for place in places])
            for place in places:
                state, reason = found.get(self.roll.ref(place), (JobState.SUBMITTING, None))
                self.roll.change(place, state)
                self._enter(place, reason)
        self._pause = max(LOOK_EVERY, LOOK_SHARE * (time.monotonic() - began))
        self._show(self.roll, len(self.bad))

    def _enter(self, place: int, reason: Reason | None) -> None:
        if reason is Reason.PROVIDER_ERROR and self.roll.tries(place) < self._resubmit:
            self._refunded.add(place)

    def _again(self) -> list[int]:
        again, self._refunded = self._refunded, set()
        return sorted(again)

    def _post_anew(self, place: int) -> None:
        """Post again what the provider failed and refunds, under a key of its own, so that this too is paid once."""
        (job,) = self._reports.jobs_named([self.roll.ref(place)])
        if job.provider != Provider.GRSAI:
            return
        tries, key, line = self.roll.tries(place), job.key or job.ref, self.roll.number(place)
        first = key.removesuffix(key_of_try("", tries)) if tries else key
        if not self._pace.wait(self._stopping):
            return
        self._tell(f"line {line}: {job.ref} {job.reason} {job.message}: posted anew")
        params = json.loads(self._reports.params(job.ref))
        again = partial(
            self._submitter.submit,
            job.prompt,
            model=job.model,
            params=params,
            mode=job.mode,
            api=job.api,
        )
        try:
            posted = again(key=key_of_try(first, tries + 1))
        except ConfigurationError as error:
            self._tell(f"line {line}: not posted anew: {error}")
        else:
            self.roll.replace(place, posted.ref, posted.state)
            self._enter(place, posted.reason)

    # Leaving.

    def leave(self) -> None:
        """Hand in nothing more, and wait a while for the answers to what is being posted; as long as it takes if they are pictures."""
        self._stopping.set()
        while self._hands is not None and not self._hands.done(within=GRACE) and self._direct:
            pass
