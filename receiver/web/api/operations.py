"""What the API's description says of a route, written beside the function that answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., object])

_ATTRIBUTE = "description_for_openapi"


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes with one status: a model's JSON, or bytes of a media type."""

    meaning: str
    model: type[BaseModel] | None = None
    media: str = "application/json"
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """One operation: what it is asked with and what it answers."""

    summary: str
    answers: Mapping[int, Answer]
    problems: Mapping[int, str] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    headers: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict
    )  # of the request: name and schema
    public: bool = False  # needs no token


def described(summary: str, answers: Mapping[int, Answer], **more: object) -> Callable[[F], F]:
    """Describe a view; ``more`` are the other fields of Description."""

    def note(view: F) -> F:
        setattr(view, _ATTRIBUTE, Description(summary, answers, **more))  # type: ignore[arg-type]  # named as the fields are
        return view

    return note


def description_of(view: Callable[..., object]) -> Description | None:
    """Return what was said of a view; None if nothing was."""
    return getattr(view, _ATTRIBUTE, None)
