"""Secrets planted in every setting must not appear in logs, answers, files or command lines."""

import re
from contextlib import closing
from dataclasses import dataclass, field

import pytest
import requests
from installation import Installation
from postgres import PostgresServer
from seaweed import S3Server
from sqlalchemy import make_url

from receiver.model import JobState

PLANTED = {
    "GRSAI_API_KEY": "sk-canary-grsai-7c1f",
    "OPENAI_API_KEY": "sk-canary-openai-7c1f",
    "CALLBACK_SECRETS": "canary-callback-newer-7c1f,canary-callback-older-7c1f",
    "ADMIN_TOKEN": "canary-admin-token-7c1f",
    "EVENT_SECRET": "whsec_Y2FuYXJ5LWV2ZW50LXNlY3JldC03YzFmLTAwMDAwMDA=",
}
PASSWORD = "canary-database-7c1f"
# A part of the webhook of the job; no event reaches it.
PATH = "canary-webhook-7c1f"


@dataclass
class Findings:
    """All texts of an installation, by where they were read."""

    texts: dict[str, str] = field(default_factory=dict)

    def leaks(self, secrets: list[str]) -> list[str]:
        """Return the secrets that were found, and where."""
        return [
            f"{secret} in {where}"
            for where, text in self.texts.items()
            for secret in secrets
            if secret in text
        ]


def ask(installation: Installation, findings: Findings, ticket: str, ref: str) -> None:
    """Request everything, with and without a token, and with the mistakes of a stranger."""
    forged = f"{ticket[:-1]}{'A' if ticket[-1] != 'A' else 'B'}"

    def get(path: str, who: str, headers: dict[str, str]) -> None:
        answer = requests.get(
            installation.url + path, headers=headers, timeout=10, allow_redirects=False
        )
        findings.texts[f"GET {path.replace(ticket, 'TICKET')} by {who}"] = (
            f"{dict(answer.headers)} {answer.text}"
        )

    pages = [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/nothing",
        f"/callback/{ticket}",
        f"/callback/{ticket}/",
        "//",
        "/login",
    ]
    api = [
        f"/api/jobs/{ref}",
        "/api/jobs",
        "/api/events",
        "/api/audit",
        "/api/jobs?limit=x",
        "/api/jobs/nothing",
        f"/api/jobs/{ref}/assets/0",
    ]
    for path in pages:
        get(path, "a stranger", {})
    for path in api:
        get(path, "an administrator", {"Authorization": f"Bearer {PLANTED['ADMIN_TOKEN']}"})
    get(api[0], "a liar", {"Authorization": "Bearer wrong"})
    bodies = {
        "unreadable": b"{",
        "empty": b"",
        "too large": b"x" * 2_000_000,
        "late": b'{"id":"x","status":"running"}',
    }
    for kind, body in bodies.items():
        for kind_of_ticket, path in (
            ("right", ticket),
            ("forged", forged),
            ("twice", f"{ticket}/{ticket}"),
        ):
            answer = requests.post(f"{installation.url}/callback/{path}", data=body, timeout=10)
            findings.texts[f"POST {kind} to a {kind_of_ticket} ticket"] = (
                f"{dict(answer.headers)} {answer.text}"
            )
    answer = requests.post(f"{installation.url}/callback?ticket={ticket}", data=b"{}", timeout=10)
    findings.texts["POST without a ticket"] = answer.text


COMMANDS = (
    ("receiver", "jobs"),
    ("receiver", "show"),
    ("receiver", "audit"),
    ("receiver", "retry"),
    ("submitter", "submit", "a fox", "--json", "--param", 'sandbox={"refuse": "no"}'),
    ("submitter", "credits"),
)


def gather(installation: Installation, more: dict[str, str]) -> tuple[Findings, str]:
    """Run the main job with all secrets; return all texts, and the ticket that was used."""
    findings = Findings()
    installation.environ |= more
    with installation.started() as service:
        (job,) = installation.wait(installation.submit(webhook=f"https://hooks.invalid/{PATH}").ref)
        assert job.state is JobState.ARCHIVED
        ticket = installation.sandbox.tasks()[0]["webhook"].rpartition("/")[2]
        ask(installation, findings, ticket, job.ref)
        findings.texts["command lines"] = "\n".join(service.members().values())
        for line in COMMANDS:
            done = installation.invoke(*line, *([job.ref] if line[-1] in {"show", "retry"} else []))
            findings.texts[" ".join(line)] = f"{done.out}\n{done.err}"
        assert service.stop() == 0
        findings.texts["log"] = service.output()
    return findings, ticket


def test_on_one_machine_no_secret_is_to_be_seen_anywhere(installation: Installation) -> None:
    more = {
        **PLANTED,
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
        "EVENT_URLS": "http://127.0.0.1:9/events",
    }
    findings, ticket = gather(installation, more)
    for path in (installation.data / "archive").rglob("job.json"):
        findings.texts["manifest"] = path.read_text(encoding="utf-8")
    secrets = [part for value in PLANTED.values() for part in value.split(",")]
    secrets += [ticket, PATH]
    assert findings.leaks(secrets) == []
    assert {"manifest", "log", "command lines", "receiver audit"} <= findings.texts.keys()
    assert "callback accepted" in findings.texts["log"]
    assert "hooks.invalid" in findings.texts["log"], "the webhook's failures are logged"


def test_with_postgresql_and_a_bucket_no_secret_is_to_be_seen_either(
    installation: Installation, postgres_server: PostgresServer, s3_server: S3Server
) -> None:
    url = postgres_server.make_database()
    with_password = (
        make_url(url)
        .set(drivername="postgresql", password=PASSWORD)
        .render_as_string(hide_password=False)
    )
    bucket, of_s3 = s3_server.make_bucket(), s3_server.environment()
    more = {
        **PLANTED,
        **of_s3,
        "DATABASE_URL": with_password,
        "ARCHIVE_URL": f"s3://{bucket}/x",
        "S3_ADDRESSING_STYLE": "path",
    }
    more |= {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "console"}
    try:
        assert installation.invoke("receiver", "migrate", **more).status == 0
        findings, ticket = gather(installation, more)
        keys = [
            entry["Key"] for entry in s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]
        ]
        for key in keys:
            head = s3_server.client.head_object(Bucket=bucket, Key=key)
            findings.texts[f"metadata of {key}"] = f"{head['Metadata']}"
            if key.endswith(".json"):
                with closing(s3_server.client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
                    findings.texts["manifest"] = body.read().decode()
    finally:
        postgres_server.drop_database(url)
    secrets = [part for value in PLANTED.values() for part in value.split(",")] + [
        ticket,
        PATH,
        PASSWORD,
        of_s3["AWS_SECRET_ACCESS_KEY"],
    ]
    assert findings.leaks(secrets) == []
    assert "manifest" in findings.texts


WRONG = {
    "CALLBACK_SECRETS": "canary-short",
    "ADMIN_TOKEN": "canary with a space",
    "GRSAI_API_KEY": "canary-ключ",
    "DATABASE_URL": "postgresql://me:canary@host:port/x?y",
    "ARCHIVE_URL": "s3://canary:canary@bucket",
    "EVENT_SECRET": "canary-no-whsec",
    "PUBLIC_URL": "https://me:canary@/?canary",
    "GRSAI_API_KEY_FILE": "/canary/is/no/file",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_without_its_value(installation: Installation, name: str) -> None:
    environ = {name: WRONG[name], **({"GRSAI_API_KEY": ""} if name.endswith("_FILE") else {})}
    done = installation.invoke("receiver", "jobs", **environ)
    assert (done.status, name.removesuffix("_FILE") in done.err) == (2, True), done.err
    assert "canary" not in done.out + done.err


def test_the_canaries_are_looked_for_as_they_are() -> None:
    findings = Findings({"log": f"x {PASSWORD} y"})
    assert findings.leaks([PASSWORD, "other"]) == [f"{PASSWORD} in log"]
    assert re.fullmatch(r"[\w.,=-]+", "".join(PLANTED.values()))
