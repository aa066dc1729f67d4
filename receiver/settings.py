"""The environment, read once: every variable of the service, its default and what a wrong value is told.

``Settings.load`` is the only place that looks at the environment. All mistakes are reported together.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from receiver.archive.address import AddressPolicy
from receiver.errors import ConfigurationError


def _split(value: object) -> object:
    """Turn a comma-separated variable into its parts; blanks around and between them mean nothing."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an http:// or https:// address without ?query, such as https://pictures.example.com")
    return value.rstrip("/")


def _ledger_address(value: str) -> str:
    if value.startswith(("postgresql://", "postgres://")):
        return "postgresql+psycopg://" + value.split("://", 1)[1]
    if value.startswith("sqlite:///") and len(value) > len("sqlite:///"):
        return value
    raise ValueError("must be sqlite:///path/of/ledger.sqlite3 or postgresql://user:password@host/database")


def _archive_address(value: str) -> str:
    parts = urlsplit(value)
    if (parts.scheme == "file" and not parts.netloc and parts.path) or (parts.scheme == "s3" and parts.netloc):
        return value
    raise ValueError("must be file:///absolute/path or s3://bucket/prefix")


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """What the environment says. Durations are seconds, sizes are bytes; field names are the variables in lower case."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    grsai_api_key: SecretStr | None = None
    grsai_base_url: WebAddress = "https://grsaiapi.com"
    public_url: WebAddress | None = None  # as the provider sees us
    callback_secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(_split)] = ()  # the first signs, all verify
    admin_token: SecretStr | None = None
    data_dir: Path = Path("data")
    database_url: Annotated[str, AfterValidator(_ledger_address)] = ""
    archive_url: Annotated[str, AfterValidator(_archive_address)] = ""
    s3_addressing_style: Literal["auto", "path", "virtual"] = "auto"
    s3_checksums: Literal["when_required", "when_supported"] = "when_required"
    fetch_allow: Words = ()
    fetch_hosts: Words = ()
    fetch_max_bytes: Count = 100 * 1024 * 1024
    fetch_timeout: Seconds = 700
    url_lifetime: Seconds = 7200
    poll_after: Seconds = 120
    poll_interval: Seconds = 30
    job_timeout: Seconds = 3600
    callback_max_bytes: Count = 1024 * 1024
    confirm: Literal["unsigned", "always"] = "unsigned"
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    web_concurrency: Count = 2
    worker_threads: Count = 16
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from ``environ``; raise ConfigurationError naming every mistake at once."""
        values, mistakes = _gather(cls, environ)
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            mistakes += [_mistake(item["loc"], item["msg"]) for item in error.errors(include_url=False, include_input=False)]
        if mistakes:
            raise ConfigurationError(mistakes)
        return settings

    @model_validator(mode="before")
    @classmethod
    def _defaults_in_data_dir(cls, values: dict[str, object]) -> dict[str, object]:
        data = Path(str(values.get("data_dir") or "data")).resolve()
        values.setdefault("database_url", f"sqlite:///{data / 'ledger.sqlite3'}")
        values.setdefault("archive_url", f"file://{data / 'archive'}")
        return {**values, "data_dir": data}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mistakes = []
        try:
            self.address_policy()
        except ValueError as error:
            mistakes.append(f"FETCH_ALLOW, FETCH_HOSTS: {error}")
        if any(len(secret.get_secret_value()) < 16 for secret in self.callback_secrets):  # noqa: PLR2004 - the length the text names
            mistakes.append("CALLBACK_SECRETS: each secret needs at least 16 characters; make one with: openssl rand -hex 32")
        if not self.embedded and not self.callback_secrets:
            mistakes.append("CALLBACK_SECRETS: must be set, alike on every machine, when DATABASE_URL is PostgreSQL")
        if not self.embedded and self.admin_token is None:
            mistakes.append("ADMIN_TOKEN: must be set, alike on every machine, when DATABASE_URL is PostgreSQL")
        if mistakes:
            raise ValueError(json.dumps(mistakes))
        return self

    @property
    def embedded(self) -> bool:
        """Whether the ledger is a SQLite file: one machine, nothing to configure."""
        return self.database_url.startswith("sqlite")

    @property
    def ledger_path(self) -> Path:
        """The embedded ledger's file."""
        return Path(self.database_url.removeprefix("sqlite:///"))

    def address_policy(self) -> AddressPolicy:
        """Build the rule of where downloads may connect; raise ValueError naming a malformed entry."""
        return AddressPolicy.parse(self.fetch_allow, self.fetch_hosts)


def _gather(cls: type[Settings], environ: Mapping[str, str]) -> tuple[dict[str, object], list[str]]:
    """Collect NAME or the contents of NAME_FILE for every field; an empty variable counts as unset."""
    values: dict[str, object] = {}
    mistakes = []
    for field in cls.model_fields:
        name = field.upper()
        value, file = environ.get(name, ""), environ.get(f"{name}_FILE", "")
        if value and file:
            mistakes.append(f"{name}: set either {name} or {name}_FILE, not both")
        elif file:
            try:
                value = Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                mistakes.append(f"{name}_FILE: {file} cannot be read ({error}); name a readable text file")
        if value.strip():
            values[field] = value
    return values, mistakes


def _mistake(place: tuple[int | str, ...], text: str) -> str:
    """Say one validation error with the name of its variable; the value stays out, it may be a secret."""
    text = text.removeprefix("Value error, ")
    return f"{str(place[0]).upper()}: {text}" if place else "; ".join(json.loads(text))
