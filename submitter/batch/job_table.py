"""The job table of a batch: the job of each line and its state, in about 30 bytes a line."""

import threading
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ulid import ULID

from receiver.model import FINAL_STATES, JobState

_STATES = tuple(JobState)
_FINAL = frozenset(_STATES.index(state) for state in FINAL_STATES)
_WITHOUT_PICTURES = frozenset(_STATES.index(state) for state in (JobState.FAILED, JobState.EXPIRED))
_REF_BYTES = 16


class JobTable:
    """Jobs by row number, in the order in which they were submitted. Thread-safe."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._refs = bytearray()
        self._states = bytearray()
        self._resubmits = bytearray()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many lines have a job."""
        return len(self._resubmits)

    def add(self, number: int, ref: str, state: JobState, resubmits: int) -> int:
        """Add the job of a line, posted again ``resubmits`` times so far; return its row."""
        with self._lock:
            self._numbers.append(number)
            self._refs += ULID.from_str(ref).bytes
            self._states.append(_STATES.index(state))
            self._resubmits.append(resubmits)
            return len(self._resubmits) - 1

    def replace(self, row: int, ref: str, state: JobState) -> None:
        """Replace the row's job by the job that was posted in its place."""
        with self._lock:
            self._refs[row * _REF_BYTES : (row + 1) * _REF_BYTES] = ULID.from_str(ref).bytes
            self._states[row] = _STATES.index(state)
            self._resubmits[row] += 1

    def set_state(self, row: int, state: JobState) -> None:
        """Set the state of the row's job."""
        self._states[row] = _STATES.index(state)

    def number(self, row: int) -> int:
        """Return the line's number."""
        return self._numbers[row]

    def ref(self, row: int) -> str:
        """Return the job's ref."""
        return str(ULID.from_bytes(bytes(self._refs[row * _REF_BYTES : (row + 1) * _REF_BYTES])))

    def resubmits(self, row: int) -> int:
        """Return how many times the line's job was posted again."""
        return self._resubmits[row]

    def unfinished(self) -> Iterator[int]:
        """Yield the rows of jobs that are not final."""
        return (row for row in range(len(self)) if self._states[row] not in _FINAL)

    def final(self) -> Iterator[int]:
        """Yield the rows of jobs that have ended."""
        return (row for row in range(len(self)) if self._states[row] in _FINAL)

    def without_pictures(self) -> Iterator[int]:
        """Yield the rows of jobs that failed or expired."""
        return (row for row in range(len(self)) if self._states[row] in _WITHOUT_PICTURES)

    def counts(self) -> Counter[JobState]:
        """Return the number of jobs in each state."""
        return Counter({state: self._states.count(index) for index, state in enumerate(_STATES)})

    def by_number(self) -> Sequence[int]:
        """Return all rows in the order of their lines."""
        return sorted(range(len(self)), key=self._numbers.__getitem__)


def in_chunks(rows: Iterable[int], size: int) -> Iterator[list[int]]:
    """Yield rows in lists of at most ``size``, one list for each query."""
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk
