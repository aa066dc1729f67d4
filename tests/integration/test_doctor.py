"""The doctor: each fault of ledger, archive, provider and clock is reported with its remedy."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from outside_network import ScriptedServer, answer
from seaweed import S3Server

from receiver.archive.stores.archive_url import open_store
from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_options import S3Options
from receiver.archive.stores.s3_probe import Capabilities
from receiver.doctor import checks
from receiver.doctor.checks import NothingToCheck, Trouble
from receiver.doctor.examine import Finding, Status, examine
from receiver.errors import StoreError
from receiver.ledger import schema
from receiver.services import Services
from receiver.settings import Settings
from submitter.sandbox import Sandbox

LOCAL = "http://127.0.0.1:1"  # a provider beside us: inside addresses are fine then
ABLE = Capabilities(
    "a server",
    whole=True,
    conditional=True,
    hashes=True,
    metadata=True,
    lists=True,
    links=True,
    deletes=True,
)

# The other checks.


@contextmanager
def services(**environ: str) -> Iterator[Services]:
    with closing(Services(Settings.load(environ)).open()) as services:
        yield services


def findings(services: Services) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(services)}


def test_a_fresh_installation_is_examined_in_order_and_everything_missing_is_reported(
    sqlite_url: str, tmp_path: Path
) -> None:
    closed = {
        "GRSAI_BASE_URL": LOCAL,
        "DATABASE_URL": sqlite_url,
        "DATA_DIR": str(tmp_path / "data"),
    }
    with services(**closed) as opened:
        found = findings(opened)
    parts = ["ledger", "archive", "workers", "secrets", "disk", "provider", "clock"]
    assert list(found) == [*parts, "events", "public URL"]
    assert f"schema {schema.HEAD}, 0 jobs" in found["ledger"].detail
    assert "files are written, linked and synced" in found["archive"].detail
    assert (found["provider"].status, found["provider"].remedy) == (
        Status.FAILED,
        "set GRSAI_API_KEY",
    )
    assert {name: finding.status for name, finding in found.items() if name != "provider"} == {
        "ledger": "ok",
        "archive": "ok",
        "workers": "skipped",
        "secrets": "ok",
        "disk": "ok",
        "clock": "skipped",
        "events": "skipped",
        "public URL": "skipped",
    }
    assert not any(path.name == "doctor.json" for path in (tmp_path / "data").iterdir())


def test_the_key_is_tried_at_the_provider(sqlite_url: str, tmp_path: Path) -> None:
    with Sandbox(keys=["sk-right"]) as sandbox:
        common = {
            "GRSAI_BASE_URL": sandbox.url,
            "DATABASE_URL": sqlite_url,
            "DATA_DIR": str(tmp_path / "data"),
        }
        with services(GRSAI_API_KEY="sk-right", **common) as opened:
            right = findings(opened)
        with services(GRSAI_API_KEY="sk-wrong", **common) as opened:
            wrong = findings(opened)
    assert right["provider"].detail == f"{sandbox.url} knows our key, 10000 credits left"
    assert right["clock"].status is Status.OK
    assert "invalid apikey" in wrong["provider"].detail
    assert wrong["provider"].remedy.startswith("correct GRSAI_API_KEY")


def test_a_provider_that_cannot_be_reached_is_reported(sqlite_url: str, tmp_path: Path) -> None:
    with services(
        GRSAI_API_KEY="sk-any",
        GRSAI_BASE_URL=LOCAL,
        DATABASE_URL=sqlite_url,
        DATA_DIR=str(tmp_path / "data"),
    ) as opened:
        found = findings(opened)
    assert found["provider"].status is Status.FAILED
    assert "GRSAI_BASE_URL where the host is wrong" in found["provider"].remedy


@pytest.mark.parametrize(
    ("date", "text"),
    [
        ("Sat, 01 Jan 2000 00:00:00 GMT", "s ahead of"),
        ("Sat, 01 Jan 2095 00:00:00 GMT", "s behind"),
    ],
)
def test_a_clock_that_is_wrong_is_reported(date: str, text: str) -> None:
    server = ScriptedServer((answer(f"Date: {date}", body=b""),))
    try:
        with pytest.raises(Trouble, match=text) as caught:
            checks.clock(f"http://127.0.0.1:{server.port}")
    finally:
        server.close()
    assert "NTP" in caught.value.remedy


@pytest.mark.parametrize("head", [("Date: yesterday",), ()])
def test_without_the_providers_time_the_clock_is_not_checked(head: tuple[str, ...]) -> None:
    server = ScriptedServer((answer(*head, body=b""),))
    try:
        with pytest.raises(NothingToCheck):
            checks.clock(f"http://127.0.0.1:{server.port}")
    finally:
        server.close()


def test_an_archive_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file")
    with pytest.raises(Trouble, match="a file stands where a directory should be"):
        checks.archive(open_store((tmp_path / "archive").as_uri()))


def test_the_dialect_of_a_bucket_is_found_and_nothing_is_left_there(
    s3_server: S3Server, bucket: str
) -> None:
    store = open_store(f"s3://{bucket}/home", S3Options(addressing_style="path"))
    assert isinstance(store, S3Store)
    dialect = store.probe()
    assert "SeaweedFS" in dialect.server
    assert dialect == replace(ABLE, server=dialect.server)
    assert checks.archive(store) == (
        f"S3 by {dialect.server}, put, read back, hashed, deleted; "
        "objects are not read back, because it rejects a wrong SHA-256"
    )
    left = s3_server.client.list_objects_v2(Bucket=bucket).get("Contents", [])
    assert [found["Key"] for found in left] == ["home/.receiver"]
    store.close()


def test_the_setting_to_read_every_object_back_is_shown(bucket: str) -> None:
    with closing(open_store(f"s3://{bucket}", S3Options(verify="always"))) as store:
        assert "each object is read back after its put" in checks.archive(store)


def test_each_missing_capability_of_a_server_is_named() -> None:
    lacks = replace(
        ABLE,
        conditional=False,
        hashes=False,
        metadata=False,
        lists=False,
        links=False,
        deletes=False,
    ).lacks()
    assert [line.partition(":")[0] for line in lacks] == [
        "no conditional put",
        "accepts a wrong SHA-256",
        "keeps no metadata",
        "may not be listed",
        "serves no signed links",
        "cannot delete",
    ]


def test_a_read_only_bucket_is_reported(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        S3Server(s3_server.url, s3_server.client, writer=s3_server.reader).environment().items()
    ):
        monkeypatch.setenv(name, value)
    with closing(open_store(f"s3://{bucket}", S3Options(addressing_style="path"))) as store:
        with pytest.raises(Trouble, match="not permitted"):
            checks.archive(store)
        assert isinstance(store, S3Store)
        with pytest.raises(StoreError, match="not permitted"):
            store.probe()
