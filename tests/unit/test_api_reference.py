"""The API's document: its examples are valid, people can read it, a client can be made of it."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel
from web_client import web_client

from receiver.jobs import images_api, job_object, request, schemas
from receiver.web import create_app
from receiver.web.api.examples import EXAMPLES
from receiver.web.api.openapi import document

DOCUMENT = document(create_app())
MODELS: dict[str, type[BaseModel]] = {
    name: model
    for module in (images_api, job_object, request, schemas)
    for name, model in vars(module).items()
    if isinstance(model, type) and issubclass(model, BaseModel)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid_and_whole(name: str) -> None:
    shown = MODELS[name].model_validate_json(json.dumps(EXAMPLES[name]))
    again = shown.model_dump(mode="json", exclude_unset=True)
    assert again == EXAMPLES[name]
    if name.endswith("View") and "request" in again:
        assert set(again) == set(MODELS[name].model_fields)


def test_the_reference_page_shows_every_operation_and_nothing_of_another_host(
    tmp_path: Path,
) -> None:
    with web_client(tmp_path) as web:
        assert web.client.get("/docs/api").status_code in {302, 303}
        web.client.post("/login", data={"token": web.services.admin_token})
        page = web.client.get("/docs/api")
    assert page.status_code == 200
    text = page.get_data(as_text=True)
    for path, methods in DOCUMENT["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}".replace("<", "&lt;") in text
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="{name}"' in text
    assert 'src="http' not in text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
