"""Reports to the webHook: which are sent, when, in which order, and how each was answered.

GRSAI does not document whether it repeats a report or follows a redirect, so the sandbox does
neither unless the script asks for it. The reports of one task are sent one after the other; only
duplicates that the script wants ``together`` are sent in parallel.
"""

import os
import time
from collections.abc import Callable
from functools import partial

import requests
from requests.adapters import HTTPAdapter

from submitter.sandbox.schedule import Schedule
from submitter.sandbox.script import Script
from submitter.sandbox.tasks import Report, SentReport, Task


def progress_reports(script: Script, *, no_progress: bool) -> list[tuple[float, Report]]:
    """Return the ``running`` reports, each with the second at which it is due."""
    if no_progress or script.callback.mode in ("lost", "early"):
        return []
    parts = script.progress + 1
    return [
        (script.delay * part / parts, Report("running", 100 * part // parts))
        for part in range(1, parts)
    ]


def final_reports(script: Script) -> list[Report]:
    """Return the reports that are sent after the task has ended, in order."""
    final = Report("final")
    match script.callback.mode:
        case "lost":
            return []
        case "duplicate":
            return [final] * script.callback.times
        case "reorder":
            return [final, Report("running", 50)]
        case "forged":
            return [Report("final", forged=True), final]
        case "contradiction":
            return [final, Report("contradiction")]
        case _:
            return [final]


def forge(url: str) -> str:
    """Return the URL with its last character changed: well-formed, but with a wrong ticket.

    The lowest bits of the last base64 character may be unused, so the change flips its highest bit.
    """
    return url[:-1] + ("z" if "A" <= url[-1] <= "Z" or "a" <= url[-1] <= "f" else "A")


class CallbackSender:
    """Sends reports with ``threads`` threads of the schedule and records every attempt in its task.

    ``make`` returns the status that a report tells, its bytes and its headers; ``timeout`` is in
    seconds, for connect and answer.
    """

    def __init__(
        self,
        schedule: Schedule,
        make: Callable[[Task, Report], tuple[str, bytes, dict[str, str]]],
        threads: int,
        timeout: float,
    ) -> None:
        self._schedule, self._make, self._timeout = schedule, make, timeout
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy of the environment before our own receiver
        self._session.headers["User-Agent"] = "grsai-sandbox"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=16, pool_maxsize=threads))

    def queue(self, task: Task, reports: list[Report], *, together: bool = False) -> None:
        """Send the reports soon: after those already queued, or all in parallel."""
        if together:
            for report in reports:
                self._schedule.after(0, partial(self._send_alone, task, report))
            return
        with task.lock:
            idle = not task.outgoing
            task.outgoing.extend(reports)
        if idle and reports:
            self._schedule.after(0, partial(self._send_next, task))

    def close(self) -> None:
        """Close the connections; the schedule must be stopped before."""
        self._session.close()

    def _send_next(self, task: Task, attempt: int = 0) -> None:
        """Send the first report of the queue; it stays there until its last retry is over."""
        pauses = _pauses(task)
        if not self.send(task, task.outgoing[0]) and attempt < len(pauses):
            self._schedule.after(pauses[attempt], partial(self._send_next, task, attempt + 1))
            return
        with task.lock:
            task.outgoing.popleft()
            more = bool(task.outgoing)
        task.report_done()
        if more:
            self._schedule.after(0, partial(self._send_next, task))

    def _send_alone(self, task: Task, report: Report, attempt: int = 0) -> None:
        pauses = _pauses(task)
        if not self.send(task, report) and attempt < len(pauses):
            retry = partial(self._send_alone, task, report, attempt + 1)
            self._schedule.after(pauses[attempt], retry)
        else:
            task.report_done()

    def send(self, task: Task, report: Report) -> bool:
        """Send one report now, record the attempt, and return whether the answer was 2xx."""
        url = task.request.webhook or ""
        url = forge(url) if report.forged else url
        kind, data, headers = self._make(task, report)
        started, status, error_text = time.time(), None, ""
        try:
            with self._session.post(
                url,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=self._timeout,
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or True,
            ) as answer:
                status = answer.status_code
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            error_text = f"{type(error).__name__}: {error}"
        seconds = time.time() - started
        task.note(SentReport(kind, url, status, error_text, started, seconds))
        return status is not None and requests.codes.ok <= status < requests.codes.multiple_choices


def _pauses(task: Task) -> tuple[float, ...]:
    """Return the seconds before each repetition of a report: the script's, or the provider's."""
    callback, stand_in = task.request.script.callback, task.request.stand_in
    if stand_in is None or "retries" in callback.model_fields_set:
        return (callback.pause,) * callback.retries
    return stand_in.pauses
