"""A running batch: threads submit its lines, each once, and the jobs are watched to their end."""

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from receiver.errors import ConfigurationError, KeyTakenError
from receiver.jobs.job_object import JobView
from receiver.jobs.same_request import OTHER_WEBHOOK
from receiver.model import JobState, Provider, Reason
from submitter.batch.job_table import JobTable, in_chunks
from submitter.batch.lines import BadLine, BatchLine, submit_error
from submitter.batch.output import Output
from submitter.batch.workers import SubmitRate, Workers
from submitter.submit import Submitter, resubmit_key

T = TypeVar("T")

# Jobs whose states are read in one query.
JOBS_PER_QUERY = 500
# Seconds between two polls of the ledger. If a poll takes long, the pause is POLL_SHARE times as
# long, so that polling takes at most a twentieth of the time.
POLL_EVERY = 0.5
POLL_SHARE = 20
# Seconds an interrupted batch waits for the answers to the submits in flight.
GRACE = 10.0


class Batch:
    """Submits lines and watches their jobs.

    ``say`` is called with each message for the user, ``show`` after each poll of the ledger;
    ``output`` saves the pictures of the jobs that have ended. A job
    that failed at the provider is posted again up to ``resubmit`` times, earlier runs included.
    """

    def __init__(
        self,
        submitter: Submitter,
        *,
        concurrency: int,
        rate: float | None,
        resubmit: int,
        stopping: threading.Event,
        say: Callable[[str], None],
        show: Callable[[JobTable, int], None],
        output: Output | None = None,
    ) -> None:
        self._submitter = submitter
        self._jobs = submitter.transport
        self._concurrency = concurrency
        self._rate = SubmitRate(rate)
        self._resubmit = resubmit
        self._stopping = stopping
        self._say = say
        self._show = show
        self._output = output
        self._handed = bytearray()  # by row, whether its pictures were handed to the output
        self._workers: Workers[Any] | None = None
        self._refunded: set[int] = set()  # rows of the table
        self._synchronous: set[int] = set()  # lines whose submit is answered by the pictures
        self._pause = POLL_EVERY
        self._existing: list[None] = []  # one entry a line: append is atomic, += 1 is not
        self.table = JobTable()
        self.bad: dict[int, BadLine] = {}  # by number of line

    @property
    def submitted_before(self) -> int:
        """The number of lines whose job existed already."""
        return len(self._existing)

    # Submitting.

    def submit(self, lines: Iterable[BatchLine | BadLine]) -> None:
        """Submit every line; raise the first error that concerns more than one line."""
        self._process(lines, self._submit_line)

    def _process(self, items: Iterable[T], process: Callable[[T], None]) -> None:
        self._workers = workers = Workers(self._concurrency, items, process, self._stopping)
        while not workers.done(within=self._pause):
            self._poll()

    def _submit_line(self, line: BatchLine | BadLine) -> None:
        """Find the line's job, or post it."""
        if isinstance(line, BadLine):
            self._add_bad(line)
            return
        # The loop runs again if another process took the key after _find: the job of that process
        # is ours, unless the provider asked it to come later and it deleted its row again.
        while not self._find(line) and self._rate.wait(self._stopping):
            if self._post(line):
                return

    def _find(self, line: BatchLine) -> bool:
        """Add the job that has the line's key to the table; return False if there is none."""
        job, resubmits = self._latest_job(line.key)
        if job is not None:
            self._add_existing(line, job, resubmits)
        return job is not None

    def _latest_job(self, key: str) -> tuple[JobView | None, int]:
        """Return the newest job for a key, and how many times it was posted again."""
        job, resubmits = self._jobs.key_holder(key), 0
        while job is not None and job.reason is Reason.PROVIDER_ERROR:
            later = self._jobs.key_holder(resubmit_key(key, resubmits + 1))
            if later is None:
                break
            job, resubmits = later, resubmits + 1
        return job, resubmits

    def _add_existing(self, line: BatchLine, job: JobView, resubmits: int) -> None:
        # A derived key covers the request, but not the webhook of the events.
        is_compared = line.has_own_key or line.request["webhook"]
        if is_compared and not self._submitter.is_same_request(job.ref, line.request):
            what = "something else" if line.has_own_key else OTHER_WEBHOOK
            error = (
                f"column key: {line.key!r} is job {job.ref}, which was asked for {what}; "
                "nothing posted"
            )
            self._add_bad(BadLine(line.number, error, line.key))
            return
        self._existing.append(None)
        self._note_refund(self.table.add(line.number, job.ref, job.state, resubmits), job.reason)

    def _post(self, line: BatchLine) -> bool:
        """Post the line's job or record its error; return False if another process took the key."""
        if line.request["provider"] is Provider.OPENAI:
            self._synchronous.add(line.number)
        try:
            job = self._submitter.post(**line.request, key=line.key)
        except KeyTakenError:
            return False
        except ConfigurationError as error:
            self._add_bad(BadLine(line.number, submit_error(error)))
        else:
            self._note_refund(self.table.add(line.number, job.ref, job.state, 0), job.reason)
        finally:
            self._synchronous.discard(line.number)
        return True

    def _add_bad(self, line: BadLine) -> None:
        self.bad[line.number] = line
        self._say(f"line {line.number}: {line.error}")

    # Waiting.

    def wait(self, timeout: float | None) -> None:
        """Wait until every job is final; post again what failed at the provider.

        Raise TimeoutError after ``timeout`` seconds.
        """
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        while True:
            self._poll()
            if refunded := self._take_refunded():
                self._process(refunded, self._resubmit_job)
            unfinished = sum(1 for _ in self.table.unfinished())
            if not unfinished or self._stopping.is_set():
                return
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{unfinished} of {len(self.table)} jobs are not final after {timeout:.0f} s"
                )
            time.sleep(min(self._pause, max(0.0, end - time.monotonic())))

    def _poll(self) -> None:
        """Read the states of the unfinished jobs from the ledger."""
        began = time.monotonic()
        for rows in in_chunks(self.table.unfinished(), JOBS_PER_QUERY):
            found = self._jobs.states([self.table.ref(row) for row in rows])
            for row in rows:
                state, reason = found.get(self.table.ref(row), (JobState.SUBMITTING, None))
                self.table.set_state(row, state)
                self._note_refund(row, reason)
        self._hand_over()
        self._pause = max(POLL_EVERY, POLL_SHARE * (time.monotonic() - began))
        self._show(self.table, len(self.bad))

    def _hand_over(self) -> None:
        """Save the pictures of the jobs that have ended since the last call."""
        if self._output is None:
            return
        self._handed.extend(bytes(len(self.table) - len(self._handed)))
        for row in self.table.final():
            if not self._handed[row]:
                self._handed[row] = 1
                self._output.begin(self.table.ref(row))

    def _note_refund(self, row: int, reason: Reason | None) -> None:
        if reason is Reason.PROVIDER_ERROR and self.table.resubmits(row) < self._resubmit:
            self._refunded.add(row)

    def _take_refunded(self) -> list[int]:
        rows, self._refunded = self._refunded, set()
        return sorted(rows)

    def _resubmit_job(self, row: int) -> None:
        """Post a job again that failed at its provider, with the params it had.

        The new job has a key of its own, so that it is also posted only once. OpenAI's jobs are
        left as they are: the answer to a submit is its result.
        """
        ref = self.table.ref(row)
        job, arguments = self._jobs.named([ref]).get(ref), self._jobs.arguments_of(ref)
        if job is None or arguments is None or job.provider == Provider.OPENAI:
            return
        resubmits, line = self.table.resubmits(row), self.table.number(row)
        key = job.key or job.ref
        first_key = key.removesuffix(resubmit_key("", resubmits)) if resubmits else key
        if not self._rate.wait(self._stopping):
            return
        self._say(f"line {line}: {job.ref} {job.reason} {job.message}: posted again")
        submit = partial(self._submitter.submit, **arguments)
        try:
            posted = submit(key=resubmit_key(first_key, resubmits + 1))
        except ConfigurationError as error:
            self._say(f"line {line}: not posted again: {error}")
        else:
            self.table.replace(row, posted.ref, posted.state)
            self._handed[row : row + 1] = b"\0" if row < len(self._handed) else b""
            self._note_refund(row, posted.reason)

    # Stopping.

    def stop(self) -> None:
        """Start no more submits and wait up to GRACE seconds for the answers to those in flight.

        If an answer is the pictures themselves, wait as long as it takes: they are paid.
        """
        self._stopping.set()
        workers = self._workers
        while workers is not None and not workers.done(within=GRACE) and self._synchronous:
            pass
