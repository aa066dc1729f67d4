"""Threads that notify at the same time need one notification, which must not come too early."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from receiver.worker.notifier import ALL, Notifier


def test_a_thread_that_cannot_notify_itself_is_notified_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call comes while the first one writes; what the first wrote may be too early."""
    notifier = Notifier(tmp_path / "pipe")
    writing, second_came, written = threading.Event(), threading.Event(), []
    write = Notifier._write

    def slow_write(one: Notifier, names: set[str]) -> None:
        write(one, names)
        written.append(threading.current_thread().name)
        writing.set()
        assert second_came.wait(30)

    monkeypatch.setattr(Notifier, "_write", slow_write)
    with notifier.listen() as listener:
        first = threading.Thread(target=notifier.notify, name="first")
        first.start()
        assert writing.wait(30)
        listener.wait(0)  # the first notification is used up
        notifier.notify()
        second_came.set()
        first.join()
        assert written == ["first", "first"]
        started = time.monotonic()
        listener.wait(60)
        assert time.monotonic() - started < 30
    notifier.close()


def test_the_names_of_work_queues_arrive_and_too_many_become_all(tmp_path: Path) -> None:
    notifier = Notifier(tmp_path / "pipe")
    with notifier.listen() as listener:
        notifier.notify("assets")
        notifier.notify("events to a")
        notifier.notify("assets")
        assert listener.wait(60) == {"assets", "events to a"}
        notifier.notify("x" * 3000)
        assert listener.wait(60) == {ALL}
        notifier.notify()
        assert listener.wait(60) == {ALL}
    notifier.close()


@pytest.mark.parametrize("size", [4096, 65536])
@pytest.mark.parametrize("length", [20, 300, 2000])
def test_what_a_full_pipe_has_no_room_for_is_not_lost(
    tmp_path: Path, size: int, length: int
) -> None:
    """A pipe divides its room into pages; a user with many pipes gets one page for each."""
    notifier, names = Notifier(tmp_path / "pipe"), [f"{n:0{length}}" for n in range(4000)]
    with notifier.listen() as listener:
        pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
        os.close(pipe)
        for name in names:
            notifier.notify(name)
        assert listener.wait(60) == {ALL}
    notifier.close()
