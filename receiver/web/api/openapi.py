"""The API's OpenAPI 3.1 document, built from the routes and the models that they use."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Response, current_app, jsonify
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from receiver.installation import version
from receiver.jobs.schemas import REF, ProblemView
from receiver.web.api.base import blueprint
from receiver.web.api.examples import EXAMPLES
from receiver.web.api.operations import OperationDoc, ResponseDoc, doc_of, documented

_REFERENCE = "#/components/schemas/{model}"
_PARAMETERS: dict[str, dict[str, object]] = {
    "ref": {"type": "string", "pattern": f"^{REF}$"},
    "index": {"type": "integer", "minimum": 0},
    "number": {"type": "integer", "minimum": 1},
}
_ALWAYS = {
    503: "the ledger or the archive is unavailable, or too many requests are in progress; "
    "Retry-After says when to try again"
}
_UNAUTHORIZED = {401: "the token is missing or wrong"}
_DESCRIPTION = (
    "Jobs submitted to image generation providers, and their files in the archive. "
    "Every request needs the header `Authorization: Bearer ADMIN_TOKEN`. "
    "Errors are `application/problem+json` (RFC 9457)."
)


@blueprint.get("/openapi.json")
@documented("Describe this API", {200: ResponseDoc("this document")})
def openapi() -> Response:
    """Return this API's OpenAPI document."""
    return jsonify(document(current_app))


def document(app: Flask) -> dict[str, Any]:
    """Return the OpenAPI document of every documented route of an application."""
    found = list(_operations(app))
    schemas = _schemas(doc for _, _, doc in found)
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, doc in found:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        paths.setdefault(path, {})[method] = _operation(rule, doc, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhook-image-receiver",
            "version": version(),
            "description": _DESCRIPTION,
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {
                name: schema for name, schema in schemas.items() if not name.endswith("Query")
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operations(app: Flask) -> Iterator[tuple[Rule, str, OperationDoc]]:
    for rule in app.url_map.iter_rules():
        view: Callable[..., object] = app.view_functions[rule.endpoint]
        if (doc := doc_of(view)) is not None:
            for method in sorted((rule.methods or set()) & {"GET", "POST"}):
                yield rule, method.lower(), doc


def _schemas(docs: Iterator[OperationDoc]) -> dict[str, Any]:
    """Return the schema of each model by its name.

    Requests get the schema that validates them, responses the schema they are written with.
    """
    wanted: dict[type[BaseModel], JsonSchemaMode] = {ProblemView: "serialization"}
    for doc in docs:
        wanted |= {model: "validation" for model in (doc.query, doc.body) if model}
        wanted |= {doc.problem_model: "serialization"} if doc.problem_model else {}
        wanted |= {
            response.model: "serialization" for response in doc.responses.values() if response.model
        }
    _, definitions = models_json_schema(list(wanted.items()), ref_template=_REFERENCE)
    found: dict[str, Any] = definitions["$defs"]
    return found


def _operation(rule: Rule, doc: OperationDoc, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.rpartition(".")[2],
        "summary": doc.summary,
        "parameters": [
            *_path_parameters(rule),
            *_header_parameters(doc),
            *_query_parameters(doc, schemas),
        ],
        "responses": _responses(doc),
    }
    if doc.body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": _content(doc.body)},
        }
    operation["security"] = [] if doc.public else [{"token": []}]
    return operation


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]}
        for name in sorted(rule.arguments)
    ]


def _header_parameters(doc: OperationDoc) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": schema} for name, schema in doc.headers.items()
    ]


def _query_parameters(doc: OperationDoc, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if doc.query is None:
        return []
    schema = schemas[doc.query.__name__]
    return [
        {"name": name, "in": "query", "schema": field}
        for name, field in schema["properties"].items()
    ]


def _responses(doc: OperationDoc) -> dict[str, Any]:
    problems = _ALWAYS | ({} if doc.public else _UNAUTHORIZED) | dict(doc.problems)
    model = doc.problem_model or ProblemView
    media = "application/json" if doc.problem_model else "application/problem+json"
    errors = {status: ResponseDoc(meaning, model, media) for status, meaning in problems.items()}
    return {
        str(status): _response(response)
        for status, response in sorted((dict(doc.responses) | errors).items())
    }


def _response(doc: ResponseDoc) -> dict[str, Any]:
    response: dict[str, Any] = {"description": doc.meaning}
    if doc.headers:
        response["headers"] = {name: {"schema": {"type": "string"}} for name in doc.headers}
    if doc.media:
        response["content"] = {doc.media: _content(doc.model) if doc.model else {}}
    return response


def _content(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body, with an example if there is one."""
    found: dict[str, Any] = {"schema": _reference(model)}
    if example := EXAMPLES.get(model.__name__):
        found["example"] = example
    return found


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
