"""Parallel rounds: each is a forked process that sends its outcome through a pipe."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from tests.prove.round import Assignment, Outcome, play
from tests.prove.setups import Servers

_FORK = get_context("fork")
_PR_SET_PDEATHSIG = 1
_STOP_WITHIN = 20.0


@dataclass(slots=True)
class ParallelRuns:
    """The rounds that run now, at most ``most``."""

    servers: Servers
    most: int
    _playing: dict[Connection, tuple[BaseProcess, Assignment, float]] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether one more round may start."""
        return len(self._playing) < self.most

    @property
    def under_way(self) -> bool:
        """Whether any round runs."""
        return bool(self._playing)

    def start(self, assignment: Assignment) -> None:
        """Start a round."""
        ours, its = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_round, args=(assignment, self.servers, its, os.getpid()))
        process.start()
        its.close()
        self._playing[ours] = process, assignment, time.monotonic()

    def finished(self, within: float) -> Iterator[Outcome]:
        """Wait until a round ends; yield the outcomes of all that ended."""
        for pipe in wait(list(self._playing), timeout=within):
            assert isinstance(pipe, Connection)
            process, assignment, started = self._playing.pop(pipe)
            outcome = _outcome(pipe, assignment)
            outcome.seconds = time.monotonic() - started
            process.join(_STOP_WITHIN)
            yield outcome

    def stop(self) -> None:
        """End every round; each ends its own processes."""
        for process, _, _ in self._playing.values():
            process.terminate()
        for pipe, (process, _, _) in self._playing.items():
            process.join(_STOP_WITHIN)
            process.kill()
            pipe.close()
        self._playing.clear()


def _outcome(pipe: Connection, assignment: Assignment) -> Outcome:
    try:
        found = pipe.recv()
    except EOFError:
        return Outcome(assignment, failure="the round's process died")
    finally:
        pipe.close()
    assert isinstance(found, Outcome)
    return found


def _round(assignment: Assignment, servers: Servers, pipe: Connection, parent: int) -> None:
    """Play a round in this process. SIGTERM leaves through every ``finally``."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above took effect
        return
    os.setpgrp()  # Ctrl-C in a terminal reaches only the parent, which then ends us
    signal.signal(signal.SIGTERM, _leave)
    pipe.send(play(assignment, servers))


def _leave(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)
