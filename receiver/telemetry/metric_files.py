"""Figures for Prometheus, right with several processes: each writes files of its own, a scrape adds them up.

``prometheus_client`` decides when it is imported whether it works that way. So figures are declared anywhere, but the package is imported
when the first of them is counted, or shown.
"""

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from receiver.data_dir import lock_shared, try_lock

log = structlog.get_logger(__name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# Bytes of each file of a process: several times what all figures with all their labels take.
_ROOM = 256 * 1024
# Held until the process ends: whoever starts alone empties the folder, whoever finds others leaves their files alone.
_held: list[int] = []


def prepare(data_dir: Path) -> None:
    """Have this process, and those it starts, share their counts with all others of ``data_dir``. Call it before anything is counted.

    The counts begin anew when no process of theirs is left: a web that is restarted does not forget those of the worker.
    """
    folder = data_dir / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(data_dir / "metrics.lock", os.O_RDWR | os.O_CREAT, 0o600)
    if try_lock(lock):  # else others are counting
        for file in folder.glob("*.db"):
            file.unlink(missing_ok=True)
    lock_shared(lock)
    _held.append(lock)
    os.environ[_FOLDER] = str(folder)


def reserve_room() -> None:
    """Give this process's files their room on the disk now, or have it count for itself alone. Call it before anything is counted.

    The files are written through memory: where a full disk could not hold what is written then, the kernel would end the process.
    """
    folder = os.environ.get(_FOLDER)
    if folder is None:
        return
    try:
        for kind in ("counter", "histogram", "gauge_mostrecent"):
            with (Path(folder) / f"{kind}_{_process_name()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _ROOM)
    except OSError as error:
        log.warning(
            "figures of this process are not shared, there is no room for them", error=str(error)
        )
        del os.environ[_FOLDER]
        from prometheus_client import values  # noqa: PLC0415 - see above

        values.ValueClass = (
            values.MutexValue
        )  # the process that forked us may have imported it already


@cache
def _tell_processes_apart() -> None:
    from prometheus_client import values  # noqa: PLC0415 - see above

    if _FOLDER in os.environ:
        values.ValueClass = values.MultiProcessValue(_process_name)  # type: ignore[no-untyped-call]  # no types here


def _process_name() -> str:
    """Name a process by its host too: containers that share a DATA_DIR have the same pids."""
    return f"{socket.gethostname().replace('_', '-')}-{os.getpid()}"


class _Figure:
    """One metric, made when it is first needed. ``known`` are the labels that show from the start, so that the first event is a rise."""

    kind: str
    _declared: "list[_Figure]" = []  # noqa: RUF012 - one list for all, on purpose
    _lock = threading.Lock()

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        known: Sequence[tuple[str, ...]] = (),
        **options: object,
    ) -> None:
        self.name = name
        self._text = text
        self._labels = labels
        self._known = known
        self._options = options
        self._metric: Any = None
        self._declared.append(self)

    def made(self) -> Any:
        """Return the metric itself."""
        with self._lock:
            if self._metric is None:
                import prometheus_client  # noqa: PLC0415 - see above

                _tell_processes_apart()
                self._metric = getattr(prometheus_client, self.kind)(
                    self.name, self._text, self._labels, **self._options
                )
                for values in self._known:
                    self._metric.labels(*values)
            return self._metric

    def labels(self, *values: str) -> Any:
        """Return the metric of these labels."""
        return self.made().labels(*values)


class Counter(_Figure):
    """A figure that only grows; its name is shown with ``_total`` behind it."""

    kind = "Counter"

    def inc(self, amount: float = 1) -> None:
        """Count."""
        self.made().inc(amount)


class Histogram(_Figure):
    """Durations or sizes, counted by buckets."""

    kind = "Histogram"

    def observe(self, amount: float) -> None:
        """Count one value."""
        self.made().observe(amount)

    def time(self) -> AbstractContextManager[object]:
        """Count the seconds that the block takes."""
        clock: AbstractContextManager[object] = self.made().time()
        return clock


class Gauge(_Figure):
    """A figure that goes up and down; of several processes the one that set it last counts."""

    kind = "Gauge"

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text, multiprocess_mode="mostrecent")

    def set(self, value: float) -> None:
        """Say what it is now."""
        self.made().set(value)


def show() -> None:
    """Make every figure known so far, so that those nobody has counted yet are shown as zero."""
    for figure in list(_Figure._declared):  # noqa: SLF001 - its own module
        figure.made()


def names() -> list[str]:
    """Return the name of every figure declared so far, as it is shown."""
    declared = list(_Figure._declared)  # noqa: SLF001 - as above
    return sorted(
        f"{figure.name}_total" if isinstance(figure, Counter) else figure.name
        for figure in declared
    )


def serve(host: str, port: int) -> int:
    """Show the counts of all processes that share them on a port, in threads; return the port. Raise OSError if it is taken."""
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - see above
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415 - as above

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the package has no types here
    server, _ = start_http_server(port, host, registry)
    return int(server.server_address[1])
