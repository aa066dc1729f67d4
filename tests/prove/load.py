"""The load of a round: a customer who orders through the API, and a stream of callbacks."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from random import Random
from typing import Any

import requests

from receiver.ingest.tickets import Tickets
from receiver.model import new_ref
from submitter.sandbox import Sandbox
from tests.prove.recording_proxy import RecordingProxy

Menu = tuple[dict[str, Any], ...]
Menus = Mapping[str, Menu]

# What an order may ask of the sandbox. No contradictory reports: a crash may lose one half of them.
# It is unknown whether GRSAI repeats a callback without an answer, so some are repeated.
REPEATED = {"mode": "once", "retries": 50, "pause": 0.2}
MENU: Menu = (
    *({},) * 4,
    *({"callback": REPEATED},) * 4,
    {"fail": "error"},
    {"fail": "output_moderation"},
    {"callback": {"mode": "duplicate", "times": 3}},
    {"callback": "reorder"},
    {"callback": "lost"},
    {"callback": "early"},
    {"answer": "lost"},
    {"file": {"mode": "not_ready", "times": 1}},
    {"file": {"mode": "reset", "times": 1}},
)
KEY = "sk-prove"
_THREADS = 4
_ANSWERED_WITHIN = 60.0  # seconds for an order to be answered
_BEAT = 0.03  # seconds between two reports
_BEATS = 60  # of one job: of more than 200 not all are kept


class Customer:
    """Orders through the API. Each order has a key and is repeated until it is answered."""

    def __init__(self, url: str, token: str, given_up: threading.Event) -> None:
        self._url = f"{url}/api/jobs"
        self._given_up = given_up
        self._headers = {"Authorization": f"Bearer {token}"}
        self.provider_ids: dict[
            str, str
        ] = {}  # the provider's id by prompt, as in the API's answer
        self.cut: list[str] = []

    def order(self, prompt: str, script: dict[str, Any], variants: int = 1) -> None:
        """Order one job; raise AssertionError if there is no answer within a minute."""
        order = {
            "prompt": prompt,
            "variants": variants,
            "params": {"size": "64x64", "sandbox": script},
            "key": prompt,
        }
        end = time.monotonic() + _ANSWERED_WITHIN
        while not self._is_taken(order) and not self._given_up.wait(0.1):
            assert time.monotonic() < end, (
                f"the API did not answer {prompt!r} for {_ANSWERED_WITHIN:.0f} s"
            )

    def _is_taken(self, order: dict[str, Any]) -> bool:
        try:
            answer = requests.post(self._url, json=order, headers=self._headers, timeout=15)
        except requests.RequestException as error:
            self.cut.append(f"{order['prompt']}: {error}")
            return False
        assert answer.ok or answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR, answer.text
        if answer.ok and (provider_id := answer.json()["provider_id"]):
            self.provider_ids[order["prompt"]] = provider_id
        return answer.ok


class Orders(threading.Thread):
    """Threads that order jobs from the menus in turn: at least ``least``, then until ``stop``.

    A prompt begins with its menu's name.
    """

    def __init__(
        self, customer: Customer, menus: Menus, random: Random, least: int, most: int
    ) -> None:
        super().__init__(name="orders", daemon=True)
        self._customer, self._menus, self._dice, self._least, self._most = (
            customer,
            list(menus.items()),
            random,
            least,
            most,
        )
        self._number = 0
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self.error: BaseException | None = None

    def stop(self) -> None:
        """Order no more than ``least``, and wait until all is answered."""
        self._enough.set()
        self.join()
        if self.error:
            raise self.error

    def run(self) -> None:
        """Order until stopped."""
        threads = [
            threading.Thread(target=self._order, name="orders", daemon=True)
            for _ in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _order(self) -> None:
        try:
            for prompt, script, variants in self._next():
                self._customer.order(prompt, script, variants)
                if self._number >= self._least:  # until then without a pause
                    self._enough.wait(0.2)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            self.error = error

    def _next(self) -> Iterator[tuple[str, dict[str, Any], int]]:
        while True:
            with self._lock:
                if self._number >= (self._least if self._enough.is_set() else self._most):
                    return
                self._number += 1
                name, menu = self._menus[self._number % len(self._menus)]
                script = {**self._dice.choice(menu), "delay": self._dice.uniform(0.0, 0.6)}
                one = f"{name} {self._number}", script, self._dice.choice((1, 1, 1, 2))
            yield one


class Strangers:
    """Jobs that only the provider knows: another machine posted them with our secret."""

    def __init__(self, sandbox: Sandbox, tickets: Tickets) -> None:
        self._url, self._tickets = sandbox.url, tickets
        self._number = 0

    def post(self, web_hook: str, script: dict[str, Any]) -> str:
        """Post one job with this webHook; return its id."""
        self._number += 1
        order = {
            "model": "sora-image",
            "prompt": f"a stranger's order {self._number}",
            "size": "64x64",
            "webHook": web_hook,
        }
        taken = self._ask("/v1/draw/completions", {**order, "sandbox": script})
        return str(taken["id"])

    def ticket(self) -> str:
        """Return a callback path for a job that will be posted."""
        return f"/callback/{self._tickets.sign(new_ref(time.time()))}"

    def result(self, task: str) -> dict[str, Any]:
        """Read a job's result as the provider would report it."""
        return self._ask("/v1/draw/result", {"id": task})

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = requests.post(
            self._url + path, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=15
        )
        found: dict[str, Any] = answer.json()["data"]
        return found


class Pulse(threading.Thread):
    """Delivers different reports without a pause: ``_BEATS`` of a job, its end, then the next."""

    def __init__(
        self, seen: RecordingProxy, strangers: Strangers, given_up: threading.Event
    ) -> None:
        super().__init__(name="pulse", daemon=True)
        self._seen, self._strangers, self._given_up = seen, strangers, given_up
        self._enough = threading.Event()

    def stop(self) -> None:
        """Report the end of the current job, then stop."""
        self._enough.set()
        self.join()

    def run(self) -> None:
        """Deliver until stopped."""
        while not self._enough.is_set():
            task, path = self._strangers.post("-1", {"delay": 0}), self._strangers.ticket()
            for number in range(_BEATS):
                report = {"id": task, "status": "running", "progress": number, "beat": number}
                self._seen.deliver(path, json.dumps(report).encode())
                if self._enough.wait(_BEAT):
                    break
            self._end(path, json.dumps(self._strangers.result(task)).encode())

    def _end(self, path: str, final: bytes) -> None:
        while (answer := self._seen.deliver(path, final)) is None or answer[0] != HTTPStatus.OK:
            if self._given_up.wait(_BEAT):
                return
