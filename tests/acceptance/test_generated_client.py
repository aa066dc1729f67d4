"""A client that openapi-python-client makes of the OpenAPI document works with the service."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from installation import Installation
from real_parts import missing
from waiting import until

from receiver.web import create_app
from receiver.web.api.openapi import document


def make_client(folder: Path) -> None:
    """Make the package ``made_client`` in a folder; fail at the first warning."""
    try:
        from openapi_python_client import generate  # noqa: PLC0415 - a development tool
        from openapi_python_client.config import (  # noqa: PLC0415 - as above
            Config,
            ConfigFile,
            MetaType,
        )
    except ImportError:
        missing("openapi-python-client")
    source = folder / "openapi.json"
    source.write_text(json.dumps(document(create_app())))
    config = Config.from_sources(
        ConfigFile(
            post_hooks=[],
            package_name_override="made_client",
            # The generator knows files of unknown type only by this word.
            content_type_overrides={"image/*": "application/octet-stream"},
        ),
        MetaType.NONE,
        document_source=source,
        file_encoding="utf-8",
        overwrite=True,
        output_path=folder / "made_client",
    )
    assert [error.header for error in generate(config=config)] == []


def test_a_generated_client_posts_a_job_and_gets_its_picture(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_client(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def operation(name: str) -> Any:
        return importlib.import_module(f"made_client.api.default.{name}")

    made = importlib.import_module("made_client")
    models = importlib.import_module("made_client.models")
    with installation.started():
        token = (installation.data / "secrets" / "admin").read_text().strip()
        with made.AuthenticatedClient(base_url=installation.url, token=token) as client:
            body = models.GrsaiRequest(prompt="a fox", key="made-1")
            posted = operation("submit").sync_detailed(client=client, body=body)
            again = operation("submit").sync_detailed(client=client, body=body)
            assert (posted.status_code, again.status_code) == (201, 200)
            ref = posted.parsed.ref

            def archived() -> Any:
                job = operation("job").sync(ref, client=client)
                return job if job.state == "archived" else None

            job = until(archived, what="the picture in the archive")
            (asset,) = job.assets
            file = operation("asset").sync_detailed(ref, 0, client=client)
            assert hashlib.sha256(file.content).hexdigest() == asset.sha256
            assert operation("link").sync(ref, 0, client=client).url.startswith(installation.url)
            (listed,) = operation("jobs").sync(client=client, key="made-1").jobs
            assert listed.to_dict() == job.to_dict()
            assert len(operation("events").sync(client=client).events) == 2
            wanted = models.ImagesRequest(prompt="a hen")
            made_by = operation("generations").sync(client=client, body=wanted)
            assert made_by.data[0].url.startswith(f"{installation.url}/files/")
            unknown = operation("job").sync("01JZ2Q7V3N0123456789ABCDEF", client=client)
            assert (unknown.status, unknown.title) == (404, "Not Found")
