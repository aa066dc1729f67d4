"""Checks of workers and disk space."""

from receiver.doctor.checks import NothingToCheck, Trouble
from receiver.errors import LedgerError
from receiver.ledger.workers import NO_WORKER_REMEDY
from receiver.services import Services
from receiver.telemetry import metric_files


def workers(services: Services) -> str:
    """Look for workers of this ledger."""
    try:
        seen = services.workers.seen()
        alive = [worker for worker in seen if worker.is_alive]
        has_worker = services.has_worker()
    except LedgerError as error:
        raise NothingToCheck("the ledger cannot be read") from error
    if alive:
        hosts = ", ".join(sorted({worker.host for worker in alive}))
        return f"{len(alive)} on {hosts}, last heartbeat {alive[0].age:.0f} s ago"
    if has_worker:
        return "one runs here, and has sent no heartbeat yet"
    if (
        services.settings.embedded
        and not seen
        and not metric_files.are_shared(services.settings.data_dir)
    ):
        raise NothingToCheck("the service does not run here")
    raise Trouble(
        "no worker serves this ledger: callbacks are stored, and nothing is archived",
        NO_WORKER_REMEDY,
    )


def disk(services: Services) -> str:
    """Measure the free disk space."""
    found = services.disk_space()
    text = ", ".join(map(str, found))
    if any(one.is_low for one in found):
        raise Trouble(
            f"little disk space, {text}",
            "make the disk larger, or move the archive to a bucket; when it is full, callbacks are "
            "refused",
        )
    return text
