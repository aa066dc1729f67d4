"""The settings of every provider: key, address, and what verifies its callbacks.

They are part of ``receiver.settings.Settings``.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr

from receiver.model import Provider
from receiver.providers.dialect import Account
from receiver.providers.grsai.base_url import base_url
from receiver.providers.registry import DIALECTS, READERS


def split(value: object) -> object:
    """Return the parts of a comma-separated variable, without blanks and empty parts."""
    return (
        tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, str)
        else value
    )


def web_address(value: str) -> str:
    """Return an http(s) address without a slash at its end; raise ValueError."""
    with suppress(ValueError):  # an unreadable port or bracket
        if re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", value) and urlsplit(value).port != 0:
            return value.rstrip("/")
    raise ValueError(
        "must be an http:// or https:// address without ?query, "
        "such as https://pictures.example.com"
    )


def _without_version(value: str) -> str:
    """Return an API's address without the version, which people often copy with it."""
    return re.sub(r"(/api)?/v1$", "", value)


def sendable(value: SecretStr | None) -> SecretStr | None:
    """Return a key that can be sent in an HTTP header; raise ValueError."""
    if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError(
            "must be ASCII without spaces, because it is sent in an HTTP header; copy it again"
        )
    return value


Token = Annotated[SecretStr | None, AfterValidator(sendable)]
WebAddress = Annotated[str, AfterValidator(web_address)]
ApiAddress = Annotated[WebAddress, AfterValidator(_without_version)]


# Bytes: Standard Webhooks says 24 to 64. A shorter secret was cut, and could be guessed.
_SHORTEST_SECRET = 16


def _webhook_secrets(values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for secret in values:
        prefix, _, key = secret.get_secret_value().partition("_")
        with suppress(ValueError):  # not base64
            if prefix == "whsec" and len(b64decode(key, validate=True)) >= _SHORTEST_SECRET:
                continue
        raise ValueError(
            "must be whsec_ and base64 of 16 bytes or more, as the provider shows it; copy it again"
        )
    return values


Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(split)]

WebhookSecrets = Annotated[Secrets, AfterValidator(_webhook_secrets)]


class ProviderSettings(BaseModel):
    """Keys, addresses and secrets of the providers; fields are variables in lower case."""

    grsai_api_key: Token = None
    grsai_base_url: Annotated[str, AfterValidator(base_url)] = "https://grsaiapi.com"
    openai_api_key: Token = None
    openai_base_url: WebAddress = "https://api.openai.com/v1"
    fal_key: Token = None
    fal_base_url: ApiAddress = "https://queue.fal.run"
    fal_jwks_url: WebAddress = "https://rest.fal.ai/.well-known/jwks.json"
    fal_user_id: Annotated[str, Field(pattern=r"^[!-~]*$")] = ""
    replicate_api_token: Token = None
    replicate_base_url: ApiAddress = "https://api.replicate.com"
    replicate_webhook_secret: WebhookSecrets = ()
    bfl_api_key: Token = None
    bfl_base_url: ApiAddress = "https://api.bfl.ai"
    kie_api_key: Token = None
    kie_base_url: ApiAddress = "https://api.kie.ai"
    kie_webhook_key: Secrets = ()

    def has_key(self, provider: Provider) -> bool:
        """Return whether the provider's key is set."""
        return getattr(self, READERS[provider].key_name.lower()) is not None

    def accounts(self) -> Mapping[Provider, Account]:
        """Return the account of each provider whose key is set and that takes tasks."""
        return {
            provider: Account(
                key.get_secret_value(),
                getattr(self, f"{provider}_base_url"),
                getattr(self, f"{provider}_jwks_url", ""),
            )
            for provider, dialect in DIALECTS.items()
            if (key := getattr(self, dialect.key_name.lower())) is not None
        }

    def verifying_keys(self) -> Mapping[Provider, tuple[str, ...]]:
        """Return the keys that verify callbacks and are set here instead of fetched."""
        given = {
            Provider.REPLICATE: self.replicate_webhook_secret,
            Provider.KIE: self.kie_webhook_key,
        }
        return {
            provider: tuple(secret.get_secret_value() for secret in secrets)
            for provider, secrets in given.items()
            if secrets
        }

    def user_ids(self) -> Mapping[Provider, str]:
        """Return our account's ids at providers that sign for all customers with one key."""
        return {Provider.FAL: self.fal_user_id} if self.fal_user_id else {}

    def base_urls(self) -> Mapping[Provider, str]:
        """Return where the tasks of each provider are posted."""
        return {provider: getattr(self, f"{provider}_base_url") for provider in DIALECTS}
