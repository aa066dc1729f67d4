"""Greenlets of a main loop: suspended while a thread works, resumed in order, never lost."""

import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue

import pytest

from receiver.errors import LedgerError
from receiver.ledger import group_commit, waiting
from receiver.ledger.group_commit import GroupCommit, QueuedWrite
from receiver.server import greenlets
from receiver.server.greenlets import Greenlets

NAME: ContextVar[str] = ContextVar("NAME", default="none")


class Loop:
    """A main loop: it runs what is deferred, and keeps what the greenlets return."""

    def __init__(self) -> None:
        self._deferred: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.greenlets = Greenlets(self._deferred.put)
        self.returned: list[object] = []

    def start(self, function: Callable[[], object]) -> None:
        self.greenlets.start(function, self.returned.append)

    def turn(self) -> None:
        """Do one round: have a commit made, then run the next function that is deferred."""
        self.greenlets.commit()
        if self.greenlets.are_waiting:
            self._deferred.get(timeout=20)()

    def run(self) -> list[object]:
        """Run until no greenlet is suspended; return what they returned."""
        while self.greenlets.are_waiting:
            self.turn()
        return self.returned


@pytest.fixture
def loop() -> Loop:
    return Loop()


def group_commit_of(groups: list[list[str]], failure: LedgerError | None = None) -> GroupCommit:
    """Return a group commit that keeps the names of each group, and the thread that led."""

    def commit(next_group: Callable[[], list[QueuedWrite[str]]]) -> None:
        group = next_group()
        groups.append([threading.current_thread().name, *(str(one.item) for one in group)])
        for write in group:
            write.succeed(f"{write.item} stored")
            write.finish(failure)

    return GroupCommit(commit)


def write(name: str) -> QueuedWrite[str]:
    return QueuedWrite(lambda _connection: "", None, name)


def store(commits: GroupCommit, name: str) -> str:
    return commits.run(write(name))


def test_what_is_written_in_one_round_shares_a_commit_made_in_another_thread(loop: Loop) -> None:
    groups: list[list[str]] = []
    commits = group_commit_of(groups)
    for name in ("first", "second", "third"):
        loop.start(partial(store, commits, name))
    assert (groups, loop.returned) == ([], []), "nothing is committed before the round is over"
    assert loop.run() == ["first stored", "second stored", "third stored"]
    assert groups == [["commit", "first", "second", "third"]]


def test_a_commit_that_failed_is_raised_in_every_greenlet(loop: Loop) -> None:
    commits = group_commit_of([], LedgerError("the disk is full"))

    def attempt(name: str) -> str:
        try:
            return commits.run(write(name))
        except LedgerError as error:
            return f"{name}: {error}"

    for name in ("first", "second"):
        loop.start(partial(attempt, name))
    assert loop.run() == ["first: the disk is full", "second: the disk is full"]


def test_a_write_that_no_leader_takes_in_time_is_withdrawn(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "WRITE_TIMEOUT", 0.0)
    hangs, groups = threading.Event(), list[list[str]]()
    ends: list[str] = []

    def hang(next_group: Callable[[], list[QueuedWrite[str]]]) -> None:
        assert hangs.wait(20)
        groups.append([str(one.item) for one in next_group()])

    def attempt() -> None:
        with pytest.raises(LedgerError, match="took no write"):
            commits.run(write("late"))
        ends.append("late")

    commits = GroupCommit(hang)
    loop.start(attempt)
    loop.greenlets.commit()
    assert not ends
    loop.greenlets.end_late()
    assert (ends, loop.greenlets.are_waiting) == (["late"], False)
    hangs.set()


def test_two_notifications_before_a_greenlet_runs_again_resume_it_once(loop: Loop) -> None:
    waits: list[bool] = []
    signals: list[waiting.Signal] = []

    def twice() -> str:
        signals.append(waiting.signal())
        waits.append(signals[0].wait(1000))
        waits.append(signals[0].wait(1000))
        return "resumed"

    loop.start(twice)
    signals[0].notify()
    signals[0].notify()
    loop.turn()
    assert waits == [True]
    assert loop.greenlets.are_waiting, "the second notification was one with the first"
    signals[0].notify()
    assert loop.run() == ["resumed"]


def test_a_notification_before_the_wait_is_not_lost(loop: Loop) -> None:
    def early() -> bool:
        signal = waiting.signal()
        signal.notify()
        return signal.wait(1000)

    loop.start(early)
    assert loop.returned == [True]


def test_what_blocks_is_called_in_a_thread_and_its_error_is_raised_in_the_greenlet(
    loop: Loop,
) -> None:
    def attempt() -> str:
        name = waiting.blocking(lambda: threading.current_thread().name)
        with pytest.raises(ZeroDivisionError):
            waiting.blocking(lambda: 1 // 0)
        return name

    loop.start(attempt)
    assert loop.returned == []
    assert str(loop.run()[0]).startswith("ledger")
    assert waiting.blocking(lambda: threading.current_thread().name) == "MainThread"


def test_what_no_thread_begins_with_in_time_is_given_up_and_never_done(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greenlets, "WRITE_TIMEOUT", 0.0)
    hangs, done = threading.Event(), list[str]()

    def work(number: int) -> None:
        assert hangs.wait(20)
        done.append(f"{number}")

    def attempt(number: int) -> str:
        try:
            waiting.blocking(partial(work, number))
        except LedgerError:
            return f"{number} given up"
        return f"{number} done"

    number = greenlets.LEDGER_THREADS + 1
    for one in range(number):
        loop.start(partial(attempt, one))
    loop.greenlets.end_late()
    assert loop.returned == [f"{number - 1} given up"]
    hangs.set()
    loop.run()
    assert len(loop.returned) == number
    assert len(done) == number - 1


def test_each_greenlet_has_context_variables_of_its_own(loop: Loop) -> None:
    def named(name: str) -> str:
        NAME.set(name)
        waiting.blocking(lambda: None)
        return NAME.get()

    for name in ("first", "second"):
        loop.start(partial(named, name))
    assert sorted(map(str, loop.run())) == ["first", "second"]
    assert NAME.get() == "none"
    assert waiting.SUSPENDER.get() is None


def test_a_commit_that_raises_does_not_end_the_thread_that_commits(loop: Loop) -> None:
    def fail(next_group: Callable[[], list[QueuedWrite[str]]]) -> None:
        _finish(next_group(), LedgerError("interrupted"))
        raise MemoryError

    def attempt() -> str:
        with pytest.raises(LedgerError, match="interrupted"):
            store(GroupCommit(fail), "first")
        return store(group_commit_of([]), "second")

    loop.start(attempt)
    assert loop.run() == ["second stored"]


def test_a_commit_waits_while_no_thread_can_be_started_and_is_given_up_in_time(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[str]] = []
    commit = group_commit_of(groups)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        patched.setattr(group_commit, "WRITE_TIMEOUT", 0.05)
        loop.start(lambda: raised(lambda: commit.run(write("late"))))
        while loop.greenlets.are_waiting:
            loop.greenlets.commit()
            loop.greenlets.end_late()
    assert [str(error) for error in loop.returned] == ["the ledger took no write for 0 s"]
    loop.start(lambda: commit.run(write("again")))
    assert loop.run()[1:] == ["again stored"]
    assert groups == [["commit", "again"]]


def raised(function: Callable[[], object]) -> object:
    try:
        return function()
    except LedgerError as error:
        return error


def test_while_a_commit_hangs_no_round_waits_for_another(loop: Loop) -> None:
    waits: list[float] = []
    hangs = threading.Event()

    class Committed(waiting.ThreadSignal):
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return super().wait(seconds)

    loop.greenlets._committed = Committed()

    def hang(next_group: Callable[[], list[QueuedWrite[str]]]) -> None:
        assert hangs.wait(20)
        _finish(next_group())

    hanging = GroupCommit(hang)
    for name in ("first", "second", "third"):
        loop.start(partial(store, hanging, name))
        loop.greenlets.commit()
    assert waits == [greenlets.COMMIT_WAIT, 0, 0]
    hangs.set()
    loop.run()
    loop.start(partial(store, group_commit_of([]), "fourth"))
    loop.run()
    loop.start(partial(store, group_commit_of([]), "fifth"))
    loop.run()
    assert waits[-1] == greenlets.COMMIT_WAIT, "the ledger works again"


def _finish(group: list[QueuedWrite[str]], failure: LedgerError | None = None) -> None:
    for write in group:
        write.finish(failure)
