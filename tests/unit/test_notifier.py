"""Threads that notify at the same time need one notification, which must not come too early."""

import threading
import time
from pathlib import Path

import pytest

from receiver.worker.notifier import Notifier


def test_a_thread_that_cannot_notify_itself_is_notified_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call comes while the first one writes; what the first wrote may be too early."""
    notifier = Notifier(tmp_path / "pipe")
    writing, second_came, written = threading.Event(), threading.Event(), []
    write = Notifier._write

    def slow_write(one: Notifier) -> None:
        write(one)
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
