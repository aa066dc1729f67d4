"""Losses planted behind the service's back, to see that the proof finds them."""

from collections.abc import Callable, Mapping

from sqlalchemy import delete, select

from receiver.ledger.tables import deliveries, events
from receiver.model import Source
from tests.prove.environment import Stage


def _remove_object(stage: Stage) -> None:
    stage.archive.remove(next(name for name in stage.archive.names() if name.endswith(".png")))


def _remove_manifest(stage: Stage) -> None:
    stage.archive.remove(next(name for name in stage.archive.names() if name.endswith("/job.json")))


def _remove_delivery(stage: Stage) -> None:
    first = (
        select(deliveries.c.id)
        .where(deliveries.c.source == Source.CALLBACK)
        .limit(1)
        .scalar_subquery()
    )
    with stage.services() as services:
        services.database.write(
            lambda connection: connection.execute(
                delete(deliveries).where(deliveries.c.id == first)
            )
        )


def _remove_event(stage: Stage) -> None:
    first = select(events.c.id).limit(1).scalar_subquery()
    with stage.services() as services:
        services.database.write(
            lambda connection: connection.execute(delete(events).where(events.c.id == first))
        )


SABOTAGES: Mapping[str, Callable[[Stage], None]] = {
    "object": _remove_object,
    "manifest": _remove_manifest,
    "delivery": _remove_delivery,
    "event": _remove_event,
}
