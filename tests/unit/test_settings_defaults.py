"""The default of every environment variable."""

from pathlib import Path

import pytest

from receiver.settings import Settings

DEFAULTS = {
    "grsai_api_key": None,
    "grsai_base_url": "https://grsaiapi.com",
    "openai_api_key": None,
    "openai_base_url": "https://api.openai.com/v1",
    "fal_key": None,
    "fal_base_url": "https://queue.fal.run",
    "fal_jwks_url": "https://rest.fal.ai/.well-known/jwks.json",
    "fal_user_id": "",
    "replicate_api_token": None,
    "replicate_base_url": "https://api.replicate.com",
    "replicate_webhook_secret": (),
    "bfl_api_key": None,
    "bfl_base_url": "https://api.bfl.ai",
    "kie_api_key": None,
    "kie_base_url": "https://api.kie.ai",
    "kie_webhook_key": (),
    "public_url": None,
    "receiver_url": None,
    "callback_secrets": (),
    "admin_token": None,
    "s3_addressing_style": "auto",
    "s3_checksums": "when_required",
    "s3_verify": "auto",
    "s3_sse": "",
    "s3_sse_kms_key_id": "",
    "s3_storage_class": "",
    "fetch_allow": (),
    "fetch_hosts": (),
    "fetch_max_bytes": 104_857_600,
    "fetch_timeout": 700.0,
    "fetch_user_agent": "webhook-image-receiver",
    "quarantine_max_bytes": 4_294_967_296,
    "quarantine_job_max_bytes": 268_435_456,
    "job_max_bytes": 2_147_483_648,
    "job_max_files": 64,
    "url_lifetime": 7200.0,
    "poll_after": 120.0,
    "poll_interval": 30.0,
    "job_timeout": 3600.0,
    "ticket_lifetime": 730 * 86400,
    "callback_max_bytes": 1_048_576,
    "confirm": "unsigned",
    "event_urls": (),
    "event_secret": (),
    "prices": (),
    "currency": "",
    "host": None,
    "port": 8787,
    "web_concurrency": 2,
    "waiting_clients": 16,
    "worker_threads": 16,
    "log_level": "INFO",
    "log_format": "auto",
}


def test_an_empty_environment_works_and_keeps_everything_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {name: getattr(Settings.load({}), name) for name in Settings.model_fields}
    assert found == DEFAULTS | {
        "data_dir": tmp_path / "data",
        "database_url": f"sqlite:///{tmp_path}/data/ledger.sqlite3",
        "archive_url": f"file://{tmp_path}/data/archive",
        "archive_public_url": None,
    }
