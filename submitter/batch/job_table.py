"""The roll of a batch: which line became which job and how that stands, in some 30 bytes a line."""

import threading
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ulid import ULID

from receiver.model import FINAL_STATES, JobState

_STATES = tuple(JobState)
_FINAL = frozenset(_STATES.index(state) for state in FINAL_STATES)
_REF_BYTES = 16


class Roll:
    """Entries by their place, in the order the jobs were submitted; safe to use from several threads."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._refs = bytearray()
        self._states = bytearray()
        self._tries = bytearray()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the lines that have a job."""
        return len(self._tries)

    def add(self, number: int, ref: str, state: JobState, tries: int) -> int:
        """Enter a line's job, which was posted anew ``tries`` times already; return its place."""
        with self._lock:
            self._numbers.append(number)
            self._refs += ULID.from_str(ref).bytes
            self._states.append(_STATES.index(state))
            self._tries.append(tries)
            return len(self._tries) - 1

    def replace(self, place: int, ref: str, state: JobState) -> None:
        """Enter the job that takes another one's place."""
        with self._lock:
            self._refs[place * _REF_BYTES : (place + 1) * _REF_BYTES] = ULID.from_str(ref).bytes
            self._states[place] = _STATES.index(state)
            self._tries[place] += 1

    def change(self, place: int, state: JobState) -> None:
        """Note how a job stands now."""
        self._states[place] = _STATES.index(state)

    def number(self, place: int) -> int:
        """Return the line's number."""
        return self._numbers[place]

    def ref(self, place: int) -> str:
        """Return the job's ref."""
        return str(
            ULID.from_bytes(bytes(self._refs[place * _REF_BYTES : (place + 1) * _REF_BYTES]))
        )

    def tries(self, place: int) -> int:
        """Say how often the line's job was posted anew."""
        return self._tries[place]

    def unfinished(self) -> Iterator[int]:
        """Give the places of jobs that are not final."""
        return (place for place in range(len(self)) if self._states[place] not in _FINAL)

    def lost(self) -> Iterator[int]:
        """Give the places of jobs that ended without a picture."""
        without = {_STATES.index(JobState.FAILED), _STATES.index(JobState.EXPIRED)}
        return (place for place in range(len(self)) if self._states[place] in without)

    def counts(self) -> Counter[JobState]:
        """Count the jobs in each state."""
        return Counter({state: self._states.count(index) for index, state in enumerate(_STATES)})

    def by_number(self) -> Sequence[int]:
        """Return all places in the order of their lines."""
        return sorted(range(len(self)), key=self._numbers.__getitem__)


def in_chunks(places: Iterable[int], size: int) -> Iterator[list[int]]:
    """Give places in lists of up to ``size``, as many as a query is to ask for."""
    places = iter(places)
    while chunk := list(islice(places, size)):
        yield chunk
