"""Give a request to a thread of the pool, also if the system can start no more threads.

In gunicorn the error of such a system ends the worker and all its requests. Here the request is
answered 503, and the worker goes on; senders of callbacks repeat them.
"""

from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # the package has no types

from receiver.server import refusals
from receiver.server.gunicorn_log import client_faults


def give_thread(worker: ThreadWorker, conn: Any) -> None:
    """Have a thread handle the request on a connection; called in the main loop."""
    # A pool that cannot start a thread has queued the work already, and another thread may do it.
    # So the thread that takes the connection out of this queue handles it.
    handed = deque([conn])
    try:
        worker.tpool.submit(_handle, worker, handed)
    except RuntimeError as error:
        with suppress(IndexError):
            _refuse(worker, handed.pop(), error)


def _handle(worker: ThreadWorker, handed: deque[Any]) -> None:
    """Handle a request in a thread, unless it was refused."""
    try:
        conn = handed.pop()
    except IndexError:
        return
    finished = Future[Any]()
    try:
        finished.set_result(worker.handle(conn))
    except BaseException as error:  # noqa: BLE001 - the main loop closes the connection
        finished.set_exception(error)
    worker.method_queue.defer(worker.finish_request, conn, finished)


def _refuse(worker: ThreadWorker, conn: Any, error: RuntimeError) -> None:
    client_faults.log(str(error), event="request refused, no thread for it")
    refusals.send(conn, refusals.NO_THREAD)
    finished = Future[Any]()
    finished.set_result(False)
    worker.method_queue.defer(worker.finish_request, conn, finished)
