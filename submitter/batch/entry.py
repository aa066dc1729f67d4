"""One line of a batch as it was written: the known columns with their types, and other fields."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import from_json

from receiver.jobs.request import MAX_BATCH

Fields = dict[str, Any]

# Columns whose CSV cells are text even if they look like JSON.
_TEXTS = frozenset(
    {"prompt", "model", "size", "mode", "api", "key", "provider", "folder", "batch", "webhook"}
)
_LISTS = frozenset({"image", "images"})


def _nonempty(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    if "\x00" in value:
        raise ValueError("has a NUL character, which cannot be stored")
    return value.strip()


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_nonempty)]
# A database index limits the length; a derived key is about 70 characters and the batch's name.
Key = Annotated[str, Field(max_length=400), AfterValidator(_nonempty)]
Pictures = Annotated[
    list[Text] | None, BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


class Entry(BaseModel):
    """The columns of a line; None where the line has no value."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    prompt: Text
    model: Text | None = None
    size: Text | None = None
    variants: Annotated[int, Field(ge=1)] | None = None
    images: Pictures = None
    image: Pictures = None
    mode: Annotated[Literal["webhook", "poll", "stream"], BeforeValidator(_stripped)] | None = None
    api: Annotated[Literal["draw", "api"], BeforeValidator(_stripped)] | None = None
    provider: (
        Annotated[
            Literal["grsai", "openai", "fal", "replicate", "bfl", "kie"],
            BeforeValidator(_stripped),
        ]
        | None
    ) = None
    key: Key | int | None = None
    params: Fields | None = None
    batch: Annotated[Text, Field(max_length=MAX_BATCH)] | None = None
    metadata: Fields | None = None
    folder: Text | None = None
    webhook: Text | None = None

    @model_validator(mode="after")
    def _no_field_twice(self) -> "Entry":
        twice = sorted(set(self.params or {}) & set(self.model_extra or {}))
        if twice:
            raise ValueError(f"{', '.join(twice)}: both a column of its own and in params")
        return self

    @property
    def pictures(self) -> list[str]:
        """The reference pictures: URLs or local files."""
        return [*(self.images or []), *(self.image or [])]

    @property
    def fields(self) -> Fields:
        """The fields that are sent to the provider unchanged."""
        return {**(self.params or {}), **(self.model_extra or {})}


def cell(name: str, text: str) -> Any:
    """Return the value of a CSV cell: parsed if it is JSON, else the text."""
    if name in _TEXTS or (name in _LISTS and not text.lstrip().startswith("[")):
        return text
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
