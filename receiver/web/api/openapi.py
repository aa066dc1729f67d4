"""The API's description (OpenAPI 3.1), made from the routes and from the models that validate what comes and shape what goes."""

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from flask import Flask, Response, current_app, jsonify
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from receiver.jobs.schemas import REF, ProblemView
from receiver.web.api.base import blueprint
from receiver.web.api.operations import Answer, Description, described, description_of

_AT = "#/components/schemas/{model}"
_PARAMETERS: dict[str, dict[str, object]] = {
    "ref": {"type": "string", "pattern": f"^{REF}$"},
    "index": {"type": "integer", "minimum": 0},
    "number": {"type": "integer", "minimum": 1},
}
_ALWAYS = {
    503: "the ledger or the archive is away, or too much is under way; Retry-After says when to come again"
}
_PRIVATE = {401: "without the token"}
_ABOUT = (
    "Jobs posted to image-generation providers, and their pictures in the archive. Everything needs the header "
    "`Authorization: Bearer ADMIN_TOKEN`. Errors are `application/problem+json` (RFC 9457)."
)


@blueprint.get("/openapi.json")
@described("Describe this API", {200: Answer("this document")})
def openapi() -> Response:
    """Describe this API."""
    return jsonify(document(current_app))


def document(app: Flask) -> dict[str, Any]:
    """Return the description of every described route of an application."""
    found = list(_operations(app))
    schemas = _schemas(description for _, _, description in found)
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, description in found:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        paths.setdefault(path, {})[method] = _operation(rule, description, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhook-image-receiver",
            "version": version("webhook-image-receiver"),
            "description": _ABOUT,
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {
                name: schema for name, schema in schemas.items() if not name.endswith("Query")
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operations(app: Flask) -> Iterator[tuple[Rule, str, Description]]:
    for rule in app.url_map.iter_rules():
        view: Callable[..., object] = app.view_functions[rule.endpoint]
        if (description := description_of(view)) is not None:
            for method in sorted((rule.methods or set()) & {"GET", "POST"}):
                yield rule, method.lower(), description


def _schemas(descriptions: Iterator[Description]) -> dict[str, Any]:
    """Return the schema of each model by its name: of what is read as it is validated, of what is answered as it is written."""
    wanted: dict[type[BaseModel], JsonSchemaMode] = {ProblemView: "serialization"}
    for description in descriptions:
        wanted |= {model: "validation" for model in (description.query, description.body) if model}
        wanted |= {
            answer.model: "serialization" for answer in description.answers.values() if answer.model
        }
    _, definitions = models_json_schema(list(wanted.items()), ref_template=_AT)
    found: dict[str, Any] = definitions["$defs"]
    return found


def _operation(rule: Rule, description: Description, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.rpartition(".")[2],
        "summary": description.summary,
        "parameters": [*_path(rule), *_headers(description), *_query(description, schemas)],
        "responses": _responses(description),
    }
    if description.body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _of(description.body)}},
        }
    operation["security"] = [] if description.public else [{"token": []}]
    return operation


def _path(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]}
        for name in sorted(rule.arguments)
    ]


def _headers(description: Description) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": schema}
        for name, schema in description.headers.items()
    ]


def _query(description: Description, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if description.query is None:
        return []
    schema = schemas[description.query.__name__]
    return [
        {"name": name, "in": "query", "schema": field}
        for name, field in schema["properties"].items()
    ]


def _responses(description: Description) -> dict[str, Any]:
    problems = _ALWAYS | ({} if description.public else _PRIVATE) | dict(description.problems)
    told = {
        status: Answer(meaning, ProblemView, "application/problem+json")
        for status, meaning in problems.items()
    }
    return {
        str(status): _response(answer)
        for status, answer in sorted((dict(description.answers) | told).items())
    }


def _response(answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.meaning}
    if answer.headers:
        response["headers"] = {name: {"schema": {"type": "string"}} for name in answer.headers}
    if answer.media:
        response["content"] = {answer.media: {"schema": _of(answer.model)} if answer.model else {}}
    return response


def _of(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _AT.format(model=model.__name__)}
