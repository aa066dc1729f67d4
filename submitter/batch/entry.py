"""One line of a batch as it was written: the columns we know, with their types, and whatever else there is for the provider."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import from_json

Fields = dict[str, Any]

# Columns whose CSV cells are text even where they look like JSON.
_TEXTS = frozenset({"prompt", "model", "size", "mode", "api", "key", "provider"})
_LISTS = frozenset({"image", "images"})


def _said(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    if "\x00" in value:
        raise ValueError("has a NUL character, which cannot be stored")
    return value.strip()


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_said)]
# An index over keys has its bounds; a derived key takes some 70 characters and the batch's name.
Key = Annotated[str, Field(max_length=400), AfterValidator(_said)]
Pictures = Annotated[
    list[Text] | None, BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


class Entry(BaseModel):
    """A line's columns; None is what the line does not say."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    prompt: Text
    model: Text | None = None
    size: Text | None = None
    variants: Annotated[int, Field(ge=1)] | None = None
    images: Pictures = None
    image: Pictures = None
    mode: Annotated[Literal["webhook", "poll", "stream"], BeforeValidator(_stripped)] | None = None
    api: Annotated[Literal["draw", "api"], BeforeValidator(_stripped)] | None = None
    provider: Annotated[Literal["grsai", "openai"], BeforeValidator(_stripped)] | None = None
    key: Key | int | None = None
    params: Fields | None = None

    @model_validator(mode="after")
    def _no_field_twice(self) -> "Entry":
        twice = sorted(set(self.params or {}) & set(self.model_extra or {}))
        if twice:
            raise ValueError(f"{', '.join(twice)}: both a column of its own and in params")
        return self

    @property
    def pictures(self) -> list[str]:
        """Reference pictures: URLs or local files."""
        return [*(self.images or []), *(self.image or [])]

    @property
    def fields(self) -> Fields:
        """What reaches the provider untouched."""
        return {**(self.params or {}), **(self.model_extra or {})}


def cell(name: str, text: str) -> Any:
    """Return the value of a CSV cell: JSON where it is JSON, else the text."""
    if name in _TEXTS or (name in _LISTS and not text.lstrip().startswith("[")):
        return text
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
