"""The API conforms to its OpenAPI document: schemathesis sends valid and invalid requests."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from web_client import FAILED, SUCCEEDED, WebClient, web_client

from receiver.model import Submission
from receiver.web import create_app
from receiver.web.api.openapi import document
from submitter.sandbox import Sandbox

DOCUMENT = document(create_app())
# All operations but the stream, which does not end.
OPERATIONS = [
    (path, method)
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
    if path != "/api/stream"
]
ASKED = [
    (path, method) for path, method in OPERATIONS if DOCUMENT["paths"][path][method]["parameters"]
]
# A text with NUL is refused everywhere, which a schema cannot say of free-form values (``params``).
CONFIG = {"generation": {"allow-x00": False}}
RIGHT, WRONG = "POSITIVE", "NEGATIVE"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebClient]:
    environ = {"PUBLIC_URL": "https://receiver.test", "GRSAI_API_KEY": "sk-test"}
    with (
        Sandbox() as sandbox,
        web_client(
            tmp_path_factory.mktemp("openapi") / "data", {**environ, "GRSAI_BASE_URL": sandbox.url}
        ) as web,
    ):
        for body in (SUCCEEDED, {**FAILED, "id": "task-2"}):
            ref = web.services.jobs.submit(
                Submission("a fox", "gpt-image-1.5", {}), "https://provider.test"
            ).ref
            web.callback(web.services.tickets.sign(ref), body)
        yield web


@pytest.fixture(scope="module")
def api(web: WebClient) -> Any:
    """Return the application as its document describes it, for schemathesis."""
    # Imported here, because it takes a second in each of the processes that collect this module.
    import schemathesis  # noqa: PLC0415 - see above

    # The token has its own tests; here every request has it.
    open_to_all = {
        name: value for name, value in copy.deepcopy(DOCUMENT).items() if name != "security"
    }
    for methods in open_to_all["paths"].values():
        for described in methods.values():
            described.pop("security")
    api = schemathesis.openapi.from_dict(open_to_all, config=schemathesis.Config.from_dict(CONFIG))
    api.app = web.client.application
    return api


def use_a_model_without_limits(body: dict[str, Any]) -> None:
    """Ask for a model that takes every size and number; a schema cannot say which one does."""
    body |= {"model": "of-tomorrow", "api": "draw", "provider": "grsai"}


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [*((*found, RIGHT) for found in OPERATIONS), *((*found, WRONG) for found in ASKED)],
)
def test_every_operation_conforms_to_its_description(
    web: WebClient, api: Any, path: str, method: str, mode: str
) -> None:
    from schemathesis import GenerationMode  # noqa: PLC0415 - as in ``api``

    operation = api[path][method.upper()]
    statuses = []

    @settings(examples(3), suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=GenerationMode[mode]))
    def answers(case: Any) -> None:
        if mode == RIGHT and (path, method) == ("/api/jobs", "post"):
            use_a_model_without_limits(case.body)
        if path == "/v1/images/generations":
            case.headers["Prefer"] = "respond-async"  # no worker archives pictures here
            if mode == RIGHT:
                case.body |= {"model": "of-tomorrow", "n": 1}
        statuses.append(case.call_and_validate(headers=web.admin).status_code)

    answers()
    assert statuses


def test_the_document_needs_the_token_and_says_so(web: WebClient) -> None:
    assert web.client.get("/openapi.json").status_code == 401
    shown = web.client.get("/openapi.json", headers=web.admin)
    assert (shown.status_code, shown.json["openapi"]) == (200, "3.1.0")
    assert shown.json == DOCUMENT
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            assert operation["security"] == [{"token": []}], path
            assert web.client.open(
                path.replace("{", "").replace("}", ""), method=method
            ).status_code in {401, 404}, path


def test_every_route_of_the_api_is_documented() -> None:
    routes = {
        rule.rule
        for rule in create_app().url_map.iter_rules()
        if rule.rule.startswith(("/api/", "/v1/"))
    }
    assert {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route) for route in routes} == set(
        DOCUMENT["paths"]
    ) - {"/openapi.json"}


def test_the_document_has_the_limits_of_the_models_and_no_internal_fields() -> None:
    (limit,) = [
        item
        for item in DOCUMENT["paths"]["/api/jobs"]["get"]["parameters"]
        if item["name"] == "limit"
    ]
    assert limit["schema"] == {
        "default": 50,
        "maximum": 500,
        "minimum": 1,
        "title": "Limit",
        "type": "integer",
    }
    job = DOCUMENT["components"]["schemas"]["GrsaiRequest"]
    assert job["additionalProperties"] is False
    assert job["properties"]["mode"]["enum"] == ["webhook", "poll", "stream"]
    assert "deadline" not in json.dumps(DOCUMENT), "internal columns are not in the API"
