"""The settings: every environment variable of the service with its default and its check.

``Settings.load`` is the only place that reads them. All mistakes are reported together.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from receiver import installation
from receiver.archive.stores.s3_options import (
    AddressingStyle,
    Checksums,
    S3Options,
    Verify,
    encryption,
    storage_class,
)
from receiver.errors import ConfigurationError, mistakes_in
from receiver.events.destinations import (
    OF_JOBS,
    Destination,
    DestinationKind,
    read_destination,
    read_destinations,
)
from receiver.jobs.prices import read_prices
from receiver.model import EventType
from receiver.net.policy import AddressPolicy
from receiver.providers.accounts import ProviderSettings, Token, WebAddress, split
from receiver.variables import read_variables

# Characters of a callback secret or ADMIN_TOKEN, and bytes of a signing key (Standard Webhooks).
_MIN_SECRET = 16
_TOO_SHORT = f"needs at least {_MIN_SECRET} characters; generate one with: openssl rand -hex 32"
_SIGNING_KEY_SIZES = range(24, 65)


def _our_address(value: str) -> str:
    """Return our own address: a host without a path, because our pages link from the root."""
    parts = urlsplit(value)
    if not parts.path:
        return value
    # A user name in the address may be a secret.
    right = "" if "@" in parts.netloc else f": write {parts.scheme}://{parts.netloc}"
    if re.fullmatch(r"/+callback(/.*)?", parts.path):
        raise ValueError(f"must not end in /callback, which the service adds itself{right}")
    raise ValueError(
        f"must have no path, because the dashboard is at the root of its address{right}, and give "
        "the service a host name or a port of its own"
    )


def _bare_host(value: object) -> object:
    """Return a host without the brackets of an IPv6 address; ``*`` means all interfaces."""
    if not isinstance(value, str):
        return value
    return "::" if value == "*" else value.removeprefix("[").removesuffix("]")


def _upper(value: object) -> object:
    word = value.upper() if isinstance(value, str) else value
    return "WARNING" if word == "WARN" else word


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _ledger_address(value: str) -> str:
    if value.startswith(("postgresql://", "postgres://")):
        address = "postgresql+psycopg://" + value.split("://", 1)[1]
        if remedy := installation.missing("postgres"):
            raise ValueError(f"postgresql:// {remedy}")
        with suppress(ValueError, ArgumentError):
            make_url(address)
            return address
    elif re.fullmatch(r"sqlite:///(?!:memory:)[^?]+", value):
        return value
    raise ValueError(
        "must be sqlite:///path/of/ledger.sqlite3 (no path with a ?) "
        "or postgresql://user:password@host/database"
    )


def _archive_address(value: str) -> str:
    if re.fullmatch(r"file:///.+|s3://[A-Za-z0-9][A-Za-z0-9._-]{2,62}(/.*)?", value):
        return value
    raise ValueError(
        "must be file:///absolute/path or s3://bucket/prefix; credentials belong in "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def _long_enough(value: SecretStr | None) -> SecretStr | None:
    if value is not None and len(value.get_secret_value()) < _MIN_SECRET:
        raise ValueError(_TOO_SHORT)
    return value


def _hard_to_guess(values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if any(len(secret.get_secret_value()) < _MIN_SECRET for secret in values):
        raise ValueError(f"each secret {_TOO_SHORT}")
    return values


def _signing(values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for secret in values:
        with suppress(ValueError):  # not base64
            prefix, _, key = secret.get_secret_value().partition("_")
            if prefix == "whsec" and len(b64decode(key, validate=True)) in _SIGNING_KEY_SIZES:
                continue
        raise ValueError(
            "must be whsec_ and 24 to 64 bytes in base64; generate one with: "
            'echo "whsec_$(openssl rand -base64 32)"'
        )
    return values


def _places(entries: tuple[str, ...]) -> tuple[str, ...]:
    read_destinations(entries)
    return entries


def _costs(entries: tuple[str, ...]) -> tuple[str, ...]:
    read_prices(entries)
    return entries


def _exemptions(entries: tuple[str, ...]) -> tuple[str, ...]:
    AddressPolicy.parse(entries, ())
    return entries


def _patterns(entries: tuple[str, ...]) -> tuple[str, ...]:
    AddressPolicy.parse((), entries)
    return entries


T = TypeVar("T")
Words = Annotated[tuple[str, ...], BeforeValidator(split)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(split), AfterValidator(_hard_to_guess)]
SigningSecrets = Annotated[tuple[SecretStr, ...], BeforeValidator(split), AfterValidator(_signing)]
AdminToken = Annotated[Token, AfterValidator(_long_enough)]
OurAddress = Annotated[WebAddress, AfterValidator(_our_address)]
# Words may be written in any case.
Lower = BeforeValidator(_lower)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Host = Annotated[str, BeforeValidator(_bare_host), Field(pattern=r"^[A-Za-z0-9._:%-]+$")]
CountOrNone = Annotated[int, Field(ge=0)]


class Settings(ProviderSettings):
    """All settings. Durations are seconds, sizes are bytes; fields are variables in lower case."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    public_url: OurAddress | None = None  # our address as the provider sees it
    receiver_url: OurAddress | None = None  # of a service elsewhere, for the submitter
    data_dir: Path = Path("data")
    database_url: Annotated[str, AfterValidator(_ledger_address)] = Field(
        default="", repr=False
    )  # may hold a password
    # The next two are checked with database_url, so they come after it. The first secret signs, all
    # verify.
    callback_secrets: Secrets = Field(default=(), validate_default=True)
    admin_token: AdminToken = Field(default=None, validate_default=True)
    archive_url: Annotated[str, AfterValidator(_archive_address)] = Field(
        default="", validate_default=True
    )
    archive_public_url: WebAddress | None = None  # the public address of the archive
    s3_addressing_style: Annotated[AddressingStyle, Lower] = "auto"
    s3_checksums: Annotated[Checksums, Lower] = "when_required"
    s3_verify: Annotated[Verify, Lower] = "auto"
    s3_sse: Annotated[str, AfterValidator(encryption)] = ""
    s3_sse_kms_key_id: str = ""  # checked with s3_sse, so it comes after it
    s3_storage_class: Annotated[str, AfterValidator(storage_class)] = ""
    fetch_allow: Annotated[Words, AfterValidator(_exemptions)] = ()
    fetch_hosts: Annotated[Words, AfterValidator(_patterns)] = ()
    fetch_max_bytes: Count = 100 * 1024 * 1024
    fetch_timeout: Seconds = 700
    fetch_user_agent: Annotated[str, Field(pattern=r"^[!-~]([ -~]*[!-~])?$")] = (
        "webhook-image-receiver"
    )
    quarantine_max_bytes: CountOrNone = 4 * 1024**3
    quarantine_job_max_bytes: CountOrNone = 256 * 1024**2
    job_max_bytes: Count = 2 * 1024**3
    job_max_files: Count = 64
    url_lifetime: Seconds = 7200
    poll_after: Seconds = 120
    poll_interval: Seconds = 30
    job_timeout: Seconds = 3600
    ticket_lifetime: Seconds = Field(default=730 * 86400, validate_default=True)
    callback_max_bytes: Count = 1024 * 1024
    confirm: Annotated[Literal["unsigned", "always"], Lower] = "unsigned"
    event_urls: Annotated[Words, AfterValidator(_places)] = Field(
        default=(), repr=False
    )  # a path may be a secret
    event_secret: SigningSecrets = Field(
        default=(), validate_default=True
    )  # checked with event_urls, so it comes after it
    prices: Annotated[Words, AfterValidator(_costs)] = ()
    currency: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,16}$")] = ""
    # The address to listen on; None: see ``listen_host``.
    host: Host | None = None
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    web_concurrency: Count = 2
    waiting_clients: Count = 16
    worker_threads: Count = 16
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = (
        "INFO"
    )
    log_format: Annotated[Literal["auto", "json", "console"], Lower] = "auto"

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in ``environ``; raise ConfigurationError with all mistakes."""
        values, mistakes = read_variables(cls.model_fields, environ)
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            mistakes += [_mistake(field, text) for field, text in mistakes_in(error)]
        if mistakes:
            raise ConfigurationError(mistakes)
        return settings

    @model_validator(mode="before")
    @classmethod
    def _defaults_in_data_dir(cls, values: dict[str, object]) -> dict[str, object]:
        data = Path(str(values.get("data_dir") or "data")).resolve()
        values.setdefault("database_url", f"sqlite:///{data / 'ledger.sqlite3'}")
        if not str(values["database_url"]).startswith("postgres"):
            values.setdefault("archive_url", (data / "archive").as_uri())
        return {**values, "data_dir": data}

    @field_validator("callback_secrets", "admin_token")
    @classmethod
    def _required_with_postgresql(cls, value: T, info: ValidationInfo) -> T:
        if not value and info.data.get("database_url", "").startswith("postgresql"):
            raise ValueError(
                "must be set when DATABASE_URL is PostgreSQL, to the same value on every machine"
            )
        return value

    @field_validator("ticket_lifetime")
    @classmethod
    def _outlives_every_job(cls, value: float, info: ValidationInfo) -> float:
        longest = info.data.get("job_timeout", 0.0) + info.data.get("url_lifetime", 0.0)
        if value <= longest:
            raise ValueError(
                f"must be longer than JOB_TIMEOUT and URL_LIFETIME together ({longest:.0f} s), "
                "or callbacks of jobs that still run would be refused"
            )
        return value

    @field_validator("archive_url", mode="before")
    @classmethod
    def _named_with_postgresql(cls, value: object, info: ValidationInfo) -> object:
        if not value and "database_url" in info.data:
            raise ValueError(
                "must be set when DATABASE_URL is PostgreSQL, alike on every machine: "
                "s3://bucket/prefix, or file:///path of a directory that all machines share"
            )
        return value or "file:///none"  # not a mistake if DATABASE_URL is wrong

    @field_validator("event_secret")
    @classmethod
    def _webhooks_are_signed(
        cls, value: tuple[SecretStr, ...], info: ValidationInfo
    ) -> tuple[SecretStr, ...]:
        if not value and any(
            read_destination(entry).kind is DestinationKind.WEBHOOK
            for entry in info.data.get("event_urls", ())
        ):
            raise ValueError(
                "must be set when EVENT_URLS has a webhook; generate one with: "
                'echo "whsec_$(openssl rand -base64 32)"'
            )
        return value

    @field_validator("s3_sse_kms_key_id")
    @classmethod
    def _keys_are_for_kms(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("s3_sse", "aws:kms").startswith("aws:kms"):
            raise ValueError("is used with S3_SSE=aws:kms only: set that, or unset the key")
        return value

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """The destinations of events that EVENT_URLS names."""
        return read_destinations(self.event_urls)

    @property
    def served(self) -> dict[str, tuple[EventType, ...]]:
        """The event types of each destination that gets events, by its name.

        Those of EVENT_URLS and, with EVENT_SECRET, the webhooks of jobs.
        """
        of_jobs = (OF_JOBS,) if self.event_secret else ()
        return {to.name: to.types for to in (*self.destinations, *of_jobs)}

    @property
    def embedded(self) -> bool:
        """Whether the ledger is a SQLite file: one machine, nothing to configure."""
        return self.database_url.startswith("sqlite")

    @property
    def listen_host(self) -> str:
        """The address to listen on; "" for all interfaces.

        If PORT is set, as by a platform, calls come from outside. Otherwise only this machine can
        call.
        """
        if self.host is not None:
            return self.host
        return "" if "port" in self.model_fields_set else "127.0.0.1"

    @property
    def ledger_path(self) -> Path:
        """The embedded ledger's file."""
        return Path(self.database_url.removeprefix("sqlite:///"))

    def secrets(self) -> tuple[str, ...]:
        """Return every secret in the settings, for redaction; not those the service generates."""
        found = [
            value for name in type(self).model_fields for value in _each_secret(getattr(self, name))
        ]
        if not self.embedded:
            # Decoded, and as it is written in the address.
            passwords = (make_url(self.database_url).password, urlsplit(self.database_url).password)
            found += [str(password) for password in passwords if password]
        return tuple(found)

    def s3_options(self) -> S3Options:
        """Return what the archive's bucket needs to know."""
        return S3Options(
            addressing_style=self.s3_addressing_style,
            checksums=self.s3_checksums,
            verify=self.s3_verify,
            sse=self.s3_sse,
            sse_kms_key_id=self.s3_sse_kms_key_id,
            storage_class=self.s3_storage_class,
        )

    def address_policy(self) -> AddressPolicy:
        """Return which addresses downloads may connect to."""
        return AddressPolicy.parse(self.fetch_allow, self.fetch_hosts)

    def event_policy(self) -> AddressPolicy:
        """Return which addresses events may be sent to; FETCH_HOSTS is for downloads only."""
        return AddressPolicy.parse(self.fetch_allow, ())


def _each_secret(value: object) -> list[str]:
    several = value if isinstance(value, tuple) else (value,)
    return [one.get_secret_value() for one in several if isinstance(one, SecretStr)]


def _mistake(field: str, text: str) -> str:
    """Return a mistake with the name of its variable, once."""
    name = field.partition(".")[0].upper()
    return f"{name}: {text.removeprefix(f'{name}: ')}"
