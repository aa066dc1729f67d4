"""OpenAI's Images API: its request, translated into jobs of ours, and the forms of its answers."""

import re
from contextlib import suppress
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from receiver.jobs.request import DEFAULT_MODEL, NOT_BLANK, GrsaiRequest, takes_variants
from receiver.model import Api, Mode, Provider
from receiver.providers.grsai import families
from receiver.providers.registry import DIALECTS

# These name the caller's own users: they are not sent to the provider, they become metadata.
_ABOUT_USERS = ("user", "safety_identifier")
# OpenAI's word for the default; we leave the field out instead.
_AUTO = "auto"
# The words of retired models; a tool may still send them.
_QUALITIES = {"standard": None, "hd": "high"}
# Fields of our own job request that may stand in the body, as ``extra_body`` puts them there.
_OUR_OWN = (
    "provider",
    "images",
    "params",
    "mode",
    "api",
    "key",
    "metadata",
    "batch",
    "folder",
    "webhook",
)
_PIXELS = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.IGNORECASE)
# Ratios that models take, and how far pixels may be from one: 1792x1024 is meant as 16:9.
_RATIOS = ((1, 1), (3, 2), (2, 3), (4, 3), (3, 4), (16, 9), (9, 16), (5, 4), (4, 5), (21, 9))
_TOLERANCE = 0.02


def _not_streamed(value: object) -> object:
    """Refuse what asks for a stream, in words that a caller of OpenAI understands."""
    if value not in (None, False, 0):
        raise ValueError("pictures are not streamed here; leave out stream and partial_images")
    return value


T = TypeVar("T")
NotStreamed = Annotated[T | None, BeforeValidator(_not_streamed)]


def _without_null(value: object) -> object:
    return 1 if value is None else value


class ImagesRequest(BaseModel):
    """The body of ``POST /v1/images/generations``.

    ``model`` may begin with a provider, as in ``grsai/nano-banana``. ``n`` pictures become several
    jobs if the model makes fewer in one. Without ``response_format`` the answer has both, ``url``
    and ``b64_json``. ``user`` is not sent to the provider, but kept as
    metadata. Our own ``provider``, ``images``, ``params``, ``mode``, ``api``, ``key``,
    ``metadata``, ``batch``, ``folder`` and ``webhook`` are those of ``POST /api/jobs``, and
    ``variants`` is ``n``; every other field is sent to the provider unchanged.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: Annotated[str, Field(min_length=1, max_length=100_000, json_schema_extra=NOT_BLANK)]
    model: Annotated[str, Field(max_length=200, json_schema_extra=NOT_BLANK)] | None = None
    n: Annotated[int, Field(ge=1, le=10), BeforeValidator(_without_null)] = 1
    size: Annotated[str, Field(max_length=50)] | None = None
    quality: Annotated[str, Field(max_length=50)] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Annotated[str, Field(max_length=20)] | None = Field(
        default=None, json_schema_extra={"not": {"const": "svg"}}
    )
    stream: NotStreamed[Literal[False]] = None
    partial_images: NotStreamed[Literal[0]] = None

    @model_validator(mode="before")
    @classmethod
    def _one_number(cls, given: Any) -> Any:
        """Take ``variants`` for ``n``; refuse two numbers."""
        if not isinstance(given, dict) or given.get("variants") is None:
            return given
        body = dict(given)
        variants = body.pop("variants")
        if body.get("n") not in (None, variants):
            raise ValueError("variants: it differs from n; give one of them")
        return {**body, "n": variants}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        """Refuse a request whose pictures would be paid for but could not be returned."""
        if self.output_format == "svg" or (self.model_extra or {}).get("svg"):
            raise ValueError("output_format: svg is not archived; ask for png, webp or jpeg")
        return self

    @property
    def provider_and_model(self) -> tuple[str, str]:
        """Return the provider that the model's name begins with, GRSAI if none, and the model."""
        model = self.model or DEFAULT_MODEL
        prefix, _, rest = model.partition("/")
        return (prefix, rest) if rest and prefix in set(Provider) else (Provider.GRSAI, model)

    def job_requests(self, mode: Mode) -> list[GrsaiRequest]:
        """Return the jobs that make the pictures; ``mode`` is for a request that names none.

        Raise ValidationError with every mistake.
        """
        extra = self.model_extra or {}
        given = {name: value for name, value in extra.items() if value not in (None, "")}
        ours = {name: given.pop(name) for name in _OUR_OWN if name in given}
        about_users = {name: given.pop(name) for name in _ABOUT_USERS if name in given}
        if about_users and isinstance(ours.setdefault("metadata", {}), dict):
            ours["metadata"] = {**about_users, **ours["metadata"]}
        provider, model = self.provider_and_model
        if "provider" in ours:
            provider = self._named_provider(ours["provider"])
            model = (self.model or DEFAULT_MODEL).removeprefix(f"{provider}/")
        api = ours.setdefault("api", _api_of(provider, model))
        ours.setdefault("mode", Mode.POLL if api == Api.NEWER else mode)
        fields: dict[str, Any] = {
            "provider": provider,
            "model": model,
            "prompt": self.prompt,
            "size": self._size(provider, model, api),
            **ours,
            "params": self._params(given, ours.get("params", {})),
        }
        if self.n == 1 or takes_variants(Provider(provider), model, api, self.n):
            variants = self.n if self.n > 1 else None
            return [GrsaiRequest.model_validate({**fields, "variants": variants})]
        return [GrsaiRequest.model_validate(fields)] * self.n

    @staticmethod
    def _named_provider(given: Any) -> str:
        """Return the provider that the body names; raise ValidationError for an unknown one."""
        if given not in list(Provider):
            GrsaiRequest.model_validate({"prompt": "-", "provider": given})
        return str(given)

    def _params(self, given: dict[str, JsonValue], named: Any) -> Any:
        """Return the fields that are sent to the provider as they are; ``params`` come last."""
        if not isinstance(named, dict):
            return named  # returned as it is, to be refused later
        quality = _QUALITIES.get(self.quality or "", self.quality)
        params = {**given, "quality": quality, "output_format": self.output_format}
        known = {name: value for name, value in params.items() if value not in (None, "", _AUTO)}
        return {**known, **named}

    def _size(self, provider: str, model: str, api: str) -> str | None:
        """Return the size, as a ratio if the model takes no pixels, which most tools send."""
        size = (self.size or "").strip()
        if not size or size.lower() == _AUTO:
            return None
        dialect, pixels = DIALECTS.get(Provider(provider)), _PIXELS.fullmatch(size)
        if dialect is None or pixels is None:
            return size
        shape = int(pixels[1]) / int(pixels[2])
        near = [
            f"{width}:{height}"
            for width, height in _RATIOS
            if abs(shape * height / width - 1) <= _TOLERANCE
        ]
        for wanted in (size, *near):
            with suppress(ValueError):
                dialect.size_params(model, Api(api), wanted)
                return wanted
        return size  # returned as it is, to be refused later with the remedy


class ImageView(BaseModel):
    """One picture in OpenAI's answer: a lasting link that needs no token, its bytes, or both."""

    url: str | None = None
    b64_json: str | None = None


class FailedPart(BaseModel):
    """A job of a request for several pictures that has none."""

    job: str
    reason: str
    message: str


class ImagesView(BaseModel):
    """OpenAI's answer, with ``jobs``, the refs, and ``failed`` for those without a picture.

    ``size`` and ``output_format`` are those of the first picture.
    """

    created: int
    output_format: str | None = None
    size: str | None = None
    quality: str | None = None
    jobs: list[str]
    failed: list[FailedPart] = []
    data: list[ImageView]


class ImagesFaultView(BaseModel):
    """An error; ``param`` is the field that is wrong, ``code`` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ImagesErrorView(BaseModel):
    """An error in OpenAI's form."""

    error: ImagesFaultView


class ModelView(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "receiver"


class ModelList(BaseModel):
    """Some models; any other name is passed on to the provider too."""

    object: Literal["list"] = "list"
    data: list[ModelView]


def _api_of(provider: str, model: str) -> Api:
    """Return the API that has the model: the older one if it can, because it has callbacks."""
    if provider == Provider.GRSAI:
        try:
            families.fields_of(model, Api.DRAW)
        except ValueError:
            return Api.NEWER
    return Api.DRAW
