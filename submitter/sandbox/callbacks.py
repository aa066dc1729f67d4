"""Reports to the webHook: which are sent when, in which order, and what came of each.

GRSAI does not say whether it repeats a report or follows a redirect: the sandbox does neither unless the script says so. One task's
reports leave one after the other, as from one sender; only duplicates that the script wants together overtake each other.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from submitter.sandbox.schedule import Schedule
from submitter.sandbox.script import Script
from submitter.sandbox.tasks import Post, Sent, Task


def progress_posts(script: Script, *, quiet: bool) -> list[tuple[float, Post]]:
    """Give the reports of progress with the second at which each is due."""
    if quiet or script.callback.mode in ("lost", "early"):
        return []
    parts = script.progress + 1
    return [
        (script.delay * part / parts, Post("running", 100 * part // parts))
        for part in range(1, parts)
    ]


def final_posts(script: Script) -> list[Post]:
    """Give what is sent once the task has ended, in its order."""
    final = Post("final")
    match script.callback.mode:
        case "lost":
            return []
        case "duplicate":
            return [final] * script.callback.times
        case "reorder":
            return [final, Post("running", 50)]
        case "forged":
            return [Post("final", forged=True), final]
        case "contradiction":
            return [final, Post("contradiction")]
        case _:
            return [final]


def forge(url: str) -> str:
    """Give the URL with its last character altered: right in form, wrong in ticket.

    In base64 the lowest bits of a last character may mean nothing, so it moves to the other half of that alphabet.
    """
    return url[:-1] + ("z" if "A" <= url[-1] <= "Z" or "a" <= url[-1] <= "f" else "A")


class Sender:
    """Sends reports by ``hands`` threads of the schedule and notes every attempt in its task.

    ``body`` makes the JSON of a report; ``timeout`` is how many seconds connecting and answering may take.
    """

    def __init__(
        self,
        schedule: Schedule,
        body: Callable[[Task, Post], dict[str, Any]],
        hands: int,
        timeout: float,
    ) -> None:
        self._schedule, self._body, self._timeout = schedule, body, timeout
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment is not for our own receiver
        self._session.headers["User-Agent"] = "grsai-sandbox"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=16, pool_maxsize=hands))

    def queue(self, task: Task, posts: list[Post], *, together: bool = False) -> None:
        """Send the reports soon: one after the other behind those already queued, or all at once."""
        if together:
            for post in posts:
                self._schedule.after(0, partial(self._send_alone, task, post))
            return
        with task.lock:
            idle = not task.outgoing
            task.outgoing.extend(posts)
        if idle and posts:
            self._schedule.after(0, partial(self._send_next, task))

    def close(self) -> None:
        """Close the connections; the schedule must have stopped."""
        self._session.close()

    def _send_next(self, task: Task, attempt: int = 0) -> None:
        """Send the first report of the queue; it stays in its place until it is done with, retries included."""
        callback = task.order.script.callback
        if not self.send(task, task.outgoing[0]) and attempt < callback.retries:
            self._schedule.after(callback.pause, partial(self._send_next, task, attempt + 1))
            return
        with task.lock:
            task.outgoing.popleft()
            more = bool(task.outgoing)
        task.settle()
        if more:
            self._schedule.after(0, partial(self._send_next, task))

    def _send_alone(self, task: Task, post: Post, attempt: int = 0) -> None:
        callback = task.order.script.callback
        if not self.send(task, post) and attempt < callback.retries:
            self._schedule.after(callback.pause, partial(self._send_alone, task, post, attempt + 1))
        else:
            task.settle()

    def send(self, task: Task, post: Post) -> bool:
        """Send one report now and note the attempt; says whether it was answered 2xx."""
        url = task.order.webhook or ""
        url = forge(url) if post.forged else url
        body = self._body(task, post)
        started, status, trouble = time.time(), None, ""
        try:
            with self._session.post(
                url, json=body, allow_redirects=False, timeout=self._timeout
            ) as answer:
                status = answer.status_code
        except (requests.RequestException, ValueError) as error:
            trouble = f"{type(error).__name__}: {error}"
        task.note(Sent(str(body["status"]), url, status, trouble, started, time.time() - started))
        return status is not None and requests.codes.ok <= status < requests.codes.multiple_choices
