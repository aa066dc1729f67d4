"""The stream of events through real processes: told at once, given back when one hangs up, ended in order when the service stops."""

from collections.abc import Iterator

import pytest
import requests
from installation import Installation
from processes import Running
from waiting import until

from receiver.web.api.events import MAX_STREAMS


@pytest.fixture
def service(installation: Installation) -> Iterator[Running]:
    with installation.started() as service:
        yield service


def test_listeners_are_told_and_let_go(installation: Installation, service: Running) -> None:
    token = (installation.data / "secrets" / "admin").read_text().strip()

    def listen() -> requests.Response:
        return requests.get(
            f"{installation.url}/api/stream",
            headers={"Authorization": f"Bearer {token}"},
            stream=True,
            timeout=20,
        )

    def is_let_in() -> bool:
        with listen() as another:
            return bool(another.status_code == requests.codes.ok)

    listeners = [listen() for _ in range(MAX_STREAMS)]
    assert not is_let_in()
    job = installation.submit()
    lines = listeners[0].iter_lines(chunk_size=1)
    told = next(line for line in lines if line.startswith(b"data: "))
    assert job.ref.encode() in told
    listeners.pop().close()
    until(is_let_in, what="that a place is given back by one that hung up")
    service.process.terminate()
    # A stream that is cut raises here; one that is ended does not.
    assert b"".join(lines) is not None
    assert service.process.wait(20) == 0
    for listener in listeners:
        listener.close()
