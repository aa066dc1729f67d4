"""What a caller asks for, before it is translated for a provider: for API, commands, library."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from receiver.model import Api, Mode, Provider, Submission
from receiver.providers.grsai import protocol as grsai

DEFAULT_MODEL = "gpt-image-1.5"

# Not only white space, as JSON Schema writes it.
_NOT_BLANK: dict[str, JsonValue] = {"pattern": r"\S"}
# A URL, a data URL of a picture, or the base64 of one, which begins like PNG, JPEG, GIF or WebP.
# Never a path: the web has no files of the caller.
_PICTURE = (
    r"^(https?://[!-~][^\x00-\x20]*"
    r"|data:image/[A-Za-z0-9.+;=-]+;base64,[A-Za-z0-9+/_-]+={0,2}"
    r"|(iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/_-]+={0,2})$"
)


def _picture(value: str) -> str:
    """Refuse what the provider would charge for but could not use."""
    if not re.fullmatch(_PICTURE, value):
        raise ValueError("neither a URL nor a picture; give an http(s) URL or a data:image/… URL")
    return value


class JobRequest(BaseModel):
    """One job to be posted; ``params`` reach the provider unchanged and override the named fields.

    ``size`` is a ratio (``3:2``), pixels (``1024x1024``) or ``1K``, ``2K``, ``4K``; ``variants`` is
    the number of pictures; ``images`` are reference pictures, as URLs or data URIs. ``key`` is the
    caller's own name for the job, used by one job. OpenAI ignores ``mode`` and ``api``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    prompt: Annotated[str, Field(min_length=1, max_length=100_000, json_schema_extra=_NOT_BLANK)]
    model: Annotated[str, Field(min_length=1, max_length=200, json_schema_extra=_NOT_BLANK)] = (
        DEFAULT_MODEL
    )
    size: (
        Annotated[str, Field(min_length=1, max_length=50, json_schema_extra=_NOT_BLANK)] | None
    ) = None
    variants: Annotated[int, Field(ge=1, le=32)] | None = None
    images: tuple[str, ...] = ()
    params: dict[str, JsonValue] = {}
    provider: Provider = Provider.GRSAI
    mode: Mode = Mode.WEBHOOK
    api: Api = Api.DRAW
    key: (
        Annotated[str, Field(min_length=1, max_length=500, json_schema_extra=_NOT_BLANK)] | None
    ) = None

    @model_validator(mode="after")
    def _storable(self) -> Self:
        """Refuse what databases cannot store (NUL) or JSON cannot express (NaN)."""
        for leaf in _leaves(self.model_dump()):
            if isinstance(leaf, str) and "\x00" in leaf:
                raise ValueError("a text holds a NUL character")
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise ValueError("NaN and Infinity are no numbers in JSON")
        return self

    def submission(self) -> Submission:
        """Return the submission for the provider."""
        direct = self.provider is Provider.OPENAI
        fields: dict[str, object] = {}
        if self.size:
            fields |= {"size": self.size} if direct else grsai.size_params(self.model, self.size)
        if self.variants:
            fields["variants"] = self.variants
        if self.images:
            fields["urls"] = list(self.images)
        mode, api = (Mode.SYNC, Api.IMAGES) if direct else (self.mode, self.api)
        return Submission(
            self.prompt, self.model, {**fields, **self.params}, mode, self.provider, api, self.key
        )


class GrsaiRequest(JobRequest):
    """A job for GRSAI, as the web API takes it.

    OpenAI jobs need the ``submitter``: the answer is the result, and a web process that restarts
    meanwhile would lose it.
    """

    provider: Literal[Provider.GRSAI] = Provider.GRSAI
    images: tuple[
        Annotated[str, AfterValidator(_picture), Field(json_schema_extra={"pattern": _PICTURE})],
        ...,
    ] = ()
    mode: Literal[Mode.WEBHOOK, Mode.POLL, Mode.STREAM] = Mode.WEBHOOK
    api: Literal[Api.DRAW, Api.NEWER] = Api.DRAW

    @field_validator("provider", "mode", "api", mode="before")
    @classmethod
    def _left_to_the_submitter(cls, value: object) -> object:
        if value in (Provider.OPENAI, Mode.SYNC, Api.IMAGES):
            raise ValueError("this API posts to GRSAI only; for OpenAI use the submitter")
        return value


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
    return [
        f"{'.'.join(map(str, item['loc'])) or 'job'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False)
    ]
