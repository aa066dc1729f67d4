"""Optional parts that are not installed: one line with the remedy, before anything happens."""

import sys

import pytest
from installation import Installation

from receiver import installation

POSTGRES = {
    "DATABASE_URL": "postgresql://user:planted@127.0.0.1:9/none",
    "CALLBACK_SECRETS": "a-planted-secret-0123",
    "ADMIN_TOKEN": "a-planted-token-0123",
    "ARCHIVE_URL": "s3://bucket",
}
MODULES = {
    "mcp": "mcp.server",
    "postgres": "psycopg",
    "openai": "openai",
    "otel": "opentelemetry.sdk.trace",
}
CASES = [
    ("mcp", ("submitter", "mcp"), {}, "submitter mcp: "),
    ("postgres", ("receiver", "jobs"), POSTGRES, "DATABASE_URL: postgresql://"),
    ("postgres", ("receiver", "doctor"), POSTGRES, "DATABASE_URL: postgresql://"),
    (
        "openai",
        ("submitter", "submit", "a fox", "--provider", "openai"),
        {"OPENAI_API_KEY": "sk-test"},
        "--provider openai: ",
    ),
    (
        "otel",
        ("receiver", "serve"),
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        "OTEL_EXPORTER_OTLP_ENDPOINT: ",
    ),
]


@pytest.mark.parametrize(("extra", "command", "environ", "named"), CASES)
def test_a_missing_part_is_named_with_its_remedy(
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
    command: tuple[str, ...],
    environ: dict[str, str],
    named: str,
) -> None:
    monkeypatch.setitem(sys.modules, MODULES[extra], None)
    done = installation.invoke(*command, **environ)
    assert done.status == 2
    (line,) = [one for one in (done.out + done.err).splitlines() if named in one]
    assert "planted" not in done.out + done.err
    assert f"pip install 'webhook-image-receiver[{extra}]'" in done.out + done.err, line
    assert installation.tasks() == []


def test_a_batch_names_it_before_the_first_post(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    lines = installation.folder / "lines.jsonl"
    lines.write_text('{"prompt": "a fox"}\n{"prompt": "a hare", "provider": "openai"}\n')
    done = installation.invoke("submitter", "batch", str(lines), OPENAI_API_KEY="sk-test")
    assert (done.status, "[openai]" in done.err) == (2, True)
    assert installation.tasks() == []


def test_what_is_installed_is_not_missing() -> None:
    assert [installation.missing(extra) for extra in ("postgres", "openai", "otel")] == [""] * 3
