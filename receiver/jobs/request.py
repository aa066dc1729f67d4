"""What a caller asks for, before it is translated for a provider: for API, commands, library."""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from receiver.errors import AddressRefusedError, mistakes_in
from receiver.model import (
    FOLDER_PATTERN,
    MAX_FOLDER,
    QUARANTINE,
    Api,
    Mode,
    Provider,
    Submission,
    is_folder,
)
from receiver.net.policy import MAX_URL, read_url
from receiver.providers.dialect import Dialect
from receiver.providers.grsai import families
from receiver.providers.registry import DIALECTS, EXAMPLES

DEFAULT_MODEL = "gpt-image-1.5"

MAX_BATCH = 200  # characters of a batch's name
# Bytes of metadata as JSON, and how many names they may have.
MAX_METADATA, MAX_METADATA_NAMES = 4096, 50
_FOLDER: dict[str, JsonValue] = {
    "anyOf": [{"const": ""}, {"pattern": FOLDER_PATTERN, "maxLength": MAX_FOLDER}]
}

# A host name and no credentials; more is accepted, such as addresses and international names.
_WEBHOOK: dict[str, JsonValue] = {
    "pattern": r"^https?://([a-z0-9_]{1,60}\.)*[a-z_]{1,60}(:[1-9][0-9]{0,3})?(/[!\"$-~]*)?$",
    "maxLength": MAX_URL,
}

# JSON Schema for a text that is not only white space.
NOT_BLANK: dict[str, JsonValue] = {"pattern": r"\S"}
# A URL, a data URL of a picture, or the base64 of one, which begins like PNG, JPEG, GIF or WebP.
# Paths are refused: the web process does not have the caller's files.
_PICTURE = (
    r"^(https?://[!-~][^\x00-\x20]*"
    r"|data:image/[A-Za-z0-9.+;=-]+;base64,[A-Za-z0-9+/_-]+={0,2}"
    r"|(iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/_-]+={0,2})$"
)


def _picture(value: str) -> str:
    """Refuse a picture that the provider would charge for but could not use."""
    if not re.fullmatch(_PICTURE, value):
        raise ValueError("neither a URL nor a picture; give an http(s) URL or a data:image/… URL")
    return value


def _small(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse metadata that are too large for labels."""
    size = len(json.dumps(metadata, ensure_ascii=False).encode(errors="replace"))
    if size > MAX_METADATA:
        raise ValueError(f"{size} bytes as JSON; give at most {MAX_METADATA}")
    return metadata


def _folder(text: str) -> str:
    """Refuse a folder outside the archive, or one that looks like something else in it."""
    if text and not is_folder(text):
        raise ValueError(
            "not a folder for the archive: write words of letters, digits, dots, - and _ with "
            f"slashes between them, at most {MAX_FOLDER} characters, that begin with a letter "
            f"and are not {QUARANTINE!r}, such as shop/summer"
        )
    return text


def _webhook(url: str) -> str:
    """Refuse text that is not the address of a webhook; return the address as it is stored."""
    if "#" in url:
        raise ValueError(
            "has a # part; a job's webhook gets all events of the job, so leave it out"
        )
    try:
        return read_url(url).url
    except AddressRefusedError as error:
        raise ValueError(
            f"not the address of a webhook: {error}; write https://host/path"
        ) from None


class JobRequest(BaseModel):
    """One job to be posted; ``params`` reach the provider unchanged and override the named fields.

    ``size`` is a ratio (``3:2``), pixels (``1024x1024``) or ``1K``, ``2K``, ``4K``; ``variants`` is
    the number of pictures; ``images`` are reference pictures, as URLs or data URIs. What the model
    cannot express is refused. ``key`` is the caller's own name for the job, used by one job;
    ``batch`` is the caller's name for the jobs of one run. ``metadata`` is a small JSON object of
    the caller; its values find the job. ``folder`` is a folder of the archive for its pictures.
    ``webhook`` is a URL that gets the job's events, signed with EVENT_SECRET. OpenAI ignores
    ``mode`` and ``api``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    prompt: Annotated[str, Field(min_length=1, max_length=100_000, json_schema_extra=NOT_BLANK)]
    model: Annotated[str, Field(min_length=1, max_length=200, json_schema_extra=NOT_BLANK)] = (
        DEFAULT_MODEL
    )
    # The fields below are checked with these two, so they come after them.
    provider: Provider = Provider.GRSAI
    api: Api = Field(default=Api.DRAW, validate_default=True)
    size: Annotated[str, Field(min_length=1, max_length=50, json_schema_extra=NOT_BLANK)] | None = (
        None
    )
    variants: Annotated[int, Field(ge=1, le=32)] | None = None
    images: tuple[str, ...] = ()
    params: dict[str, JsonValue] = {}
    mode: Mode = Mode.WEBHOOK
    key: Annotated[str, Field(min_length=1, max_length=500, json_schema_extra=NOT_BLANK)] | None = (
        None
    )

    batch: (
        Annotated[str, Field(min_length=1, max_length=MAX_BATCH, json_schema_extra=NOT_BLANK)]
        | None
    ) = None
    metadata: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=100)], JsonValue],
        AfterValidator(_small),
        Field(max_length=MAX_METADATA_NAMES),
    ] = {}
    folder: Annotated[str, AfterValidator(_folder), Field(json_schema_extra=_FOLDER)] = ""
    webhook: Annotated[str, AfterValidator(_webhook), Field(json_schema_extra=_WEBHOOK)] | None = (
        Field(default=None, repr=False)  # it may be a secret
    )

    @field_validator("provider")
    @classmethod
    def _has_a_model(cls, value: Provider, info: ValidationInfo) -> Provider:
        """Refuse the default model for a provider that does not have it."""
        if value not in _WITH_DEFAULT_MODEL and info.data.get("model") == DEFAULT_MODEL:
            example = EXAMPLES[value]
            raise ValueError(f"{value} has no model {DEFAULT_MODEL}; name one, such as {example}")
        return value

    @field_validator("api", "size", "variants", "images", "mode")
    @classmethod
    def _expressible(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse an option that the model would ignore, or charge for without effect."""
        known = {**info.data, str(info.field_name): value}
        dialect = DIALECTS.get(known.get("provider", Provider.OPENAI))
        if value and dialect and {"model", "api"} <= known.keys():
            _FIELDS[str(info.field_name)](dialect, known["model"], known["api"], value)
        return value

    @model_validator(mode="after")
    def _storable(self) -> Self:
        """Refuse values that databases cannot store (NUL) or JSON cannot express (NaN)."""
        for leaf in _leaves(self.model_dump()):
            if isinstance(leaf, str) and "\x00" in leaf:
                raise ValueError("a text holds a NUL character")
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise ValueError("NaN and Infinity are not numbers in JSON")
        return self

    def submission(self) -> Submission:
        """Return the submission for the provider."""
        dialect, mode, api = DIALECTS.get(self.provider), self.mode, self.api
        if dialect is None:
            mode, api = Mode.SYNC, Api.IMAGES
        elif self.provider is not Provider.GRSAI:
            api = Api.QUEUE
        fields = self._task_fields(dialect) if dialect else self._direct_fields()
        return Submission(
            self.prompt,
            self.model,
            {**fields, **self.params},
            mode,
            self.provider,
            api,
            self.key,
            self.batch,
            self.metadata,
            self.folder,
            self.webhook,
        )

    def _direct_fields(self) -> dict[str, object]:
        """Return the named options for a provider that is called directly."""
        named = {"size": self.size, "variants": self.variants, "urls": list(self.images)}
        return {name: value for name, value in named.items() if value}

    def _task_fields(self, dialect: Dialect) -> dict[str, object]:
        """Return the named options as the fields that the model has."""
        fields: dict[str, object] = {}
        if self.size:
            fields |= dialect.size_params(self.model, self.api, self.size)
        if self.variants:
            fields |= dialect.count_params(self.model, self.api, self.variants)
        return fields | dialect.reference_params(self.model, self.api, self.images)


def _check_api(dialect: Dialect, model: str, api: Api, _value: object) -> None:
    if dialect.provider is Provider.GRSAI:
        families.fields_of(model, api)


def _check_mode(dialect: Dialect, _model: str, _api: Api, mode: Mode) -> None:
    if mode is Mode.STREAM and dialect.provider is not Provider.GRSAI:
        raise ValueError(f"{dialect.provider} has no streams; use webhook or poll")


# How the named options become the vendor's fields; each raises ValueError with the remedy.
_FIELDS: dict[str, Callable[[Dialect, str, Api, Any], object]] = {
    "api": _check_api,
    "mode": _check_mode,
    "size": lambda dialect, model, api, size: dialect.size_params(model, api, size),
    "variants": lambda dialect, model, api, count: dialect.count_params(model, api, count),
    "images": lambda dialect, model, api, images: dialect.reference_params(model, api, images),
}
# Providers that have the default model.
_WITH_DEFAULT_MODEL = frozenset({Provider.GRSAI, Provider.OPENAI})


class GrsaiRequest(JobRequest):
    """A job as the web API takes it, for GRSAI or another provider that reports its end later.

    OpenAI jobs need the ``submitter``: the answer is the result, and a web process that restarts
    meanwhile would lose it.
    """

    provider: Literal[
        Provider.GRSAI, Provider.FAL, Provider.REPLICATE, Provider.BFL, Provider.KIE
    ] = Provider.GRSAI
    api: Literal[Api.DRAW, Api.NEWER] = Field(default=Api.DRAW, validate_default=True)
    images: tuple[
        Annotated[str, AfterValidator(_picture), Field(json_schema_extra={"pattern": _PICTURE})],
        ...,
    ] = ()
    mode: Literal[Mode.WEBHOOK, Mode.POLL, Mode.STREAM] = Mode.WEBHOOK

    @field_validator("provider", "mode", "api", mode="before")
    @classmethod
    def _left_to_the_submitter(cls, value: object) -> object:
        if value in (Provider.OPENAI, Mode.SYNC, Api.IMAGES):
            raise ValueError("this API does not post to OpenAI; for OpenAI use the submitter")
        return value


def takes_variants(provider: Provider, model: str, api: Api, variants: int) -> bool:
    """Return whether one job can make this many pictures."""
    dialect = DIALECTS.get(provider)
    try:
        if dialect:
            dialect.count_params(model, api, variants)
    except ValueError:
        return variants == 1
    return True


def _leaves(value: object) -> Iterator[object]:
    """Yield every text and number in a JSON value, including the names of fields."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def mistakes(error: ValidationError) -> list[str]:
    """Return every mistake of a request with its field, without the value."""
    return [f"{field or 'job'}: {text}" for field, text in mistakes_in(error)]
