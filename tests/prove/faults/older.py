"""A ledger as the first release left it, with unfinished jobs."""

import time

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, Table, create_engine, insert

from receiver.ledger import schema
from receiver.settings import Settings
from tests.prove.environment import Environment

_FIRST = "0001"


def older_ledger(env: Environment, jobs: int) -> None:
    """Make a ledger of the first schema with waiting jobs; the provider will call back soon."""
    settings = Settings.load(env.installation.environ)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS).replace("%", "%%"))
    engine = create_engine(settings.database_url)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, _FIRST)
            for _ in range(jobs):
                _a_waiting_job(connection, env)
    finally:
        engine.dispose()


def _a_waiting_job(connection: Connection, env: Environment) -> None:
    path, now = env.strangers.ticket(), time.time()
    task = env.strangers.post(env.seen.url + path, {"delay": env.random.uniform(0.5, 3.0)})
    row = {
        "ref": path.rpartition("/")[2].partition(".")[0],
        "provider": "grsai",
        "provider_id": task,
        "base_url": env.installation.sandbox.url,
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
    # The table of that release, not of today's code.
    connection.execute(insert(Table("jobs", MetaData(), autoload_with=connection)).values(row))
