"""The OpenAPI documentation of a route, written as a decorator on its function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., object])

_ATTRIBUTE = "openapi_operation"


@dataclass(frozen=True, slots=True)
class ResponseDoc:
    """The response with one status: the JSON of a model, or bytes of a media type."""

    meaning: str
    model: type[BaseModel] | None = None
    media: str = "application/json"
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OperationDoc:
    """One operation: its parameters, body and responses."""

    summary: str
    responses: Mapping[int, ResponseDoc]
    problems: Mapping[int, str] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    # Headers of the request: name and schema.
    headers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    public: bool = False  # needs no token
    problem_model: type[BaseModel] | None = None  # of errors; None: application/problem+json


def documented(
    summary: str, responses: Mapping[int, ResponseDoc], **more: object
) -> Callable[[F], F]:
    """Document a view; ``more`` are the other fields of OperationDoc."""

    def attach(view: F) -> F:
        setattr(view, _ATTRIBUTE, OperationDoc(summary, responses, **more))  # type: ignore[arg-type]  # named as the fields are
        return view

    return attach


def doc_of(view: Callable[..., object]) -> OperationDoc | None:
    """Return the documentation of a view; None if it has none."""
    return getattr(view, _ATTRIBUTE, None)
