"""The stream of events through real processes: delivery, limit of listeners, and a clean end."""

import signal

import requests
from installation import Installation
from waiting import until

from receiver.web.api.events import MAX_STREAMS


def test_listeners_get_events_and_their_streams_end_in_order(installation: Installation) -> None:
    with installation.started() as service:
        token = (installation.data / "secrets" / "admin").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}

        def listen() -> requests.Response:
            url = f"{installation.url}/api/stream"
            return requests.get(url, headers=headers, stream=True, timeout=60)

        def is_accepted() -> bool:
            with listen() as another:
                return bool(another.status_code == requests.codes.ok)

        listeners = [listen() for _ in range(MAX_STREAMS)]
        assert not is_accepted()
        job = installation.submit()
        lines = listeners[0].iter_lines(chunk_size=1)
        event = next(line for line in lines if line.startswith(b"data: "))
        assert job.ref.encode() in event
        listeners.pop().close()
        until(is_accepted, what="a free place after one listener left")
        service.process.send_signal(signal.SIGTERM)
        # A stream that is cut raises here; a stream that ends does not.
        assert b"".join(lines) is not None
        assert service.process.wait(60) == 0
        for listener in listeners:
            listener.close()
