"""A ledger as the first release left it, with jobs under way."""

import time

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, Table, create_engine, insert

from receiver.ledger import schema
from receiver.settings import Settings
from tests.prove.environment import Stage

_FIRST = "0001"


def older_ledger(stage: Stage, jobs: int) -> None:
    """Make a ledger of the first schema with so many jobs waiting; the provider has them all and will call back soon."""
    settings = Settings.load(stage.installation.environ)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS).replace("%", "%%"))
    engine = create_engine(settings.database_url)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, _FIRST)
            for _ in range(jobs):
                _a_waiting_job(connection, stage)
    finally:
        engine.dispose()


def _a_waiting_job(connection: Connection, stage: Stage) -> None:
    path, now = stage.strangers.ticket(), time.time()
    task = stage.strangers.post(stage.seen.url + path, {"delay": stage.dice.uniform(0.5, 3.0)})
    row = {
        "ref": path.rpartition("/")[2].partition(".")[0],
        "provider": "grsai",
        "provider_id": task,
        "base_url": stage.installation.sandbox.url,
        "api": "draw",
        "mode": "webhook",
        "model": "sora-image",
        "prompt": "asked before the upgrade",
        "params": "{}",
        "state": "waiting",
        "submitted_at": now,
        "deadline_at": now + 3600,
        "due_at": now + 2,
    }
    # The table as it was then, not as today's code knows it.
    connection.execute(insert(Table("jobs", MetaData(), autoload_with=connection)).values(row))
