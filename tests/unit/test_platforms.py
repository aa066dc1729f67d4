"""Files for platforms and for Traefik name what exists: variables, commands, probes, ports."""

import json
import re
import shlex
import tomllib
from typing import Any

import pytest
from deployments import (
    CALLBACK_MAX_BYTES,
    DRAIN,
    LIVENESS,
    METRICS,
    MIGRATE,
    PORT,
    PROCFILE,
    READINESS,
    ROOT,
    WEB,
    WORKER,
    is_ours,
    paths,
    unknown,
)
from ruamel.yaml import YAML

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEROKU = json.loads((ROOT / "app.json").read_text(encoding="utf-8"))
FLY = tomllib.loads((ROOT / "fly.toml").read_text(encoding="utf-8"))
RENDER = YAML(typ="safe").load(ROOT / "render.yaml")
RENDER_WEB, RENDER_WORKER = RENDER["services"]
TRAEFIK = {
    path.stem: YAML(typ="safe").load(path) for path in (ROOT / "infra/proxies/traefik").iterdir()
}


def variables_of_render(service: dict[str, Any]) -> set[str]:
    """Return the variables of a service, with those of its groups."""
    groups = {group["name"]: group["envVars"] for group in RENDER["envVarGroups"]}
    entries = [
        entry
        for found in service["envVars"]
        for entry in groups.get(found.get("fromGroup"), [found])
    ]
    return {entry["key"] for entry in entries}


# The processes of web and worker, and the variables that each platform asks for or sets.
VARIABLES = {
    "heroku": {*HEROKU["env"], "DATABASE_URL"},  # the last by its add-on
    "render-web": variables_of_render(RENDER_WEB),
    "render-worker": variables_of_render(RENDER_WORKER),
}
# What many machines need.
NEEDED = {"DATABASE_URL", "ARCHIVE_URL", "CALLBACK_SECRETS", "ADMIN_TOKEN", "PUBLIC_URL"}


@pytest.mark.parametrize("platform", VARIABLES)
def test_a_platform_sets_every_variable_that_is_needed_and_no_unknown_one(platform: str) -> None:
    assert unknown(VARIABLES[platform]) == set()
    assert VARIABLES[platform] >= {*NEEDED, "GRSAI_API_KEY", "AWS_ACCESS_KEY_ID"}


def test_flys_variables_exist() -> None:
    assert unknown(set(FLY["env"])) == set()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (RENDER_WEB["startCommand"], WEB),
        (RENDER_WEB["preDeployCommand"], MIGRATE),
        (RENDER_WORKER["startCommand"], WORKER),
        (FLY["processes"]["web"], WEB),
        (FLY["processes"]["worker"], WORKER),
        (FLY["deploy"]["release_command"], MIGRATE),
    ],
)
def test_a_platform_runs_what_the_procfile_names(command: str, expected: list[str]) -> None:
    words = shlex.split(command)
    assert words[: len(expected)] == expected
    assert is_ours(words)


def test_the_procfile_has_the_three_processes() -> None:
    assert set(PROCFILE) == {"web", "worker", "release"}
    assert all(map(is_ours, (WEB, WORKER, MIGRATE)))
    assert set(HEROKU["formation"]) == {"web", "worker"}


def test_the_requirements_are_the_project_with_all_its_extras_in_pinned_versions() -> None:
    constraints, project = [
        line
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert constraints == "-c constraints.txt"
    extras = re.fullmatch(r"\.\[([\w,]+)\]", project)
    assert extras
    assert set(extras[1].split(",")) == set(PYPROJECT["optional-dependencies"])


def test_the_platforms_python_is_the_one_that_the_constraints_were_made_with() -> None:
    version = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    assert f"Python {version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_the_probes_exist_and_ask_the_right_question() -> None:
    checks = [*FLY["http_service"]["checks"], *FLY["checks"].values()]
    assert {check["path"] for check in checks} == {READINESS}
    assert RENDER_WEB["healthCheckPath"] == LIVENESS
    assert {found["path"] for found in FLY["metrics"]} == {METRICS}
    assert {LIVENESS, READINESS, METRICS} <= paths()


def test_flys_ports_are_those_of_the_processes() -> None:
    dockerfile = (ROOT / FLY["build"]["dockerfile"]).read_text(encoding="utf-8")
    assert f"PORT={PORT}" in dockerfile
    assert FLY["http_service"]["internal_port"] == PORT
    worker = f"--metrics-port {FLY['checks']['worker']['port']} --metrics-host 0.0.0.0"
    assert worker in FLY["processes"]["worker"]
    assert {found["port"] for found in FLY["metrics"]} == {PORT, FLY["checks"]["worker"]["port"]}


def test_a_platform_waits_for_the_drain() -> None:
    seconds = [
        FLY["kill_timeout"],
        *(found["maxShutdownDelaySeconds"] for found in RENDER["services"]),
    ]
    assert min(seconds) >= 2 * DRAIN


def test_no_platform_redirects_a_callback() -> None:
    assert FLY["http_service"]["force_https"] is False
    assert FLY["http_service"]["auto_stop_machines"] == "off"


# Traefik.


def test_traefik_redirects_no_entry_point_and_logs_no_paths() -> None:
    assert set(TRAEFIK) == {"traefik", "receiver"}
    assert "accessLog" not in TRAEFIK["traefik"]
    for entry in TRAEFIK["traefik"]["entryPoints"].values():
        assert set(entry) == {"address", "transport"}


def test_traefik_passes_callbacks_on_from_http_and_https_and_nothing_else() -> None:
    http = TRAEFIK["receiver"]["http"]
    served = {
        name: router for name, router in http["routers"].items() if router["service"] == "receiver"
    }
    assert {router["entryPoints"][0] for router in served.values()} == {"web", "websecure"}
    for router in served.values():
        assert set(re.findall(r"(Path\w*)\(`(.+?)`\)", router["rule"])) == {
            ("Path", "/callback"),
            ("PathPrefix", "/callback/"),
            ("Path", LIVENESS),
        }
        assert router["priority"] > http["routers"]["reading"]["priority"]
        assert not {"redirectScheme", "redirectRegex"} & {
            kind for name in router["middlewares"] for kind in http["middlewares"][name]
        }
    assert set(re.findall(r"Method\(`(\w+)`\)", http["routers"]["reading"]["rule"])) == {
        "GET",
        "HEAD",
    }


def test_traefiks_limits_suit_ours() -> None:
    http = TRAEFIK["receiver"]["http"]
    limit = http["middlewares"]["body"]["buffering"]["maxRequestBodyBytes"]
    assert CALLBACK_MAX_BYTES < limit < 2 * CALLBACK_MAX_BYTES
    assert http["services"]["receiver"]["loadBalancer"]["healthCheck"]["path"] == READINESS
