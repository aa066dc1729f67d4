"""Losses that are seeded without the service, to check that the prover finds them."""

from collections.abc import Callable, Mapping

from sqlalchemy import delete, select

from receiver.ledger.tables import deliveries, events
from receiver.model import Source
from tests.prove.environment import Environment


def _remove_object(env: Environment) -> None:
    env.archive.remove(next(name for name in env.archive.names() if name.endswith(".png")))


def _remove_manifest(env: Environment) -> None:
    env.archive.remove(next(name for name in env.archive.names() if name.endswith("/job.json")))


def _remove_delivery(env: Environment) -> None:
    first = (
        select(deliveries.c.id)
        .where(deliveries.c.source == Source.CALLBACK)
        .limit(1)
        .scalar_subquery()
    )
    with env.services() as services:
        services.database.write(
            lambda connection: connection.execute(
                delete(deliveries).where(deliveries.c.id == first)
            )
        )


def _remove_event(env: Environment) -> None:
    first = select(events.c.id).limit(1).scalar_subquery()
    with env.services() as services:
        services.database.write(
            lambda connection: connection.execute(delete(events).where(events.c.id == first))
        )


SEEDED_FAULTS: Mapping[str, Callable[[Environment], None]] = {
    "object": _remove_object,
    "manifest": _remove_manifest,
    "delivery": _remove_delivery,
    "event": _remove_event,
}
