"""The page that shows the API's OpenAPI document to people."""

import json
from typing import Any

from flask import Response, current_app

from receiver.web.api.openapi import document
from receiver.web.dashboard.base import blueprint, page


@blueprint.get("/docs/api")
def api_reference() -> Response:
    """Show every operation with its parameters, bodies, answers and examples, and every schema."""
    described = document(current_app)
    operations = [
        {"method": method.upper(), "path": path, "id": operation["operationId"], **operation}
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = described["components"]["schemas"]
    values = {
        "operations": operations,
        "schemas": {name: _fields(schema) for name, schema in schemas.items()},
        "about": {name: schema.get("description", "") for name, schema in schemas.items()},
        "type_of": type_of,
        "name_of": name_of,
        "as_text": as_text,
    }
    return page("reference.html", values)


def _fields(schema: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return name and type of each field, and whether it must be there."""
    required = schema.get("required", ())
    fields = schema.get("properties", {})
    return [(name, type_of(one), name in required) for name, one in fields.items()]


def type_of(schema: dict[str, Any]) -> str:
    """Return the type in words, such as ``list of AssetView``."""
    if "$ref" in schema:
        return name_of(schema)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " · ".join(json.dumps(word, ensure_ascii=False) for word in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    kind = schema.get("type", "any value")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def name_of(schema: dict[str, Any]) -> str:
    """Return the name of the schema in a reference; "" for anything else."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def as_text(value: object) -> str:
    """Return an example as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)
