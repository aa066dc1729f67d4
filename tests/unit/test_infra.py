"""What packaging and infrastructure promise and no linter sees."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from real_parts import missing
from ruamel.yaml import YAML

from receiver.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = YAML(typ="safe").load(ROOT / "infra/compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "infra/Dockerfile").read_text()
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


def _files(top: Path) -> Iterator[Path]:
    """Every file of the project; what tools and runs leave behind is passed over."""
    for folder, folders, names in os.walk(top):
        folders[:] = [
            name
            for name in folders
            if name in {".ci", ".github"} or not name.startswith((".", "__pycache__"))
        ]
        if Path(folder) == ROOT:
            folders[:] = [
                name
                for name in folders
                if name not in {"build", "data"} and not name.endswith(".egg-info")
            ]
        yield from (Path(folder, name) for name in names)


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert users
    assert "0" not in users[-1]


def test_the_image_gets_every_file_it_copies() -> None:
    let_through = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = [
        line.split()[1:-1]
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
    ]
    assert {source for sources in copied for source in sources} == let_through


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] in {"1g", "256m"}
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "caddy" else [])


@pytest.mark.parametrize("name", SERVICES)
def test_each_foreign_image_has_a_version(name: str) -> None:
    image: str = SERVICES[name]["image"]
    assert image == "webhook-image-receiver" or re.search(r":\d[\w.-]*$", image)


def test_compose_runs_what_the_procfile_names() -> None:
    assert set(PROCFILE) == {"web", "worker", "release"}
    for process, service in (("web", "web"), ("worker", "worker"), ("release", "migrate")):
        assert shlex.split(PROCFILE[process].split(" && ")[0]) == SERVICES[service]["command"]


def test_the_example_names_every_variable_of_compose() -> None:
    text = (ROOT / "infra/compose.yaml").read_text()
    passed_on = {name for name, value in COMPOSE["x-app"]["environment"].items() if value is None}
    example = re.findall(
        r"^#?([A-Z0-9_]+)=", (ROOT / "infra/compose.env.example").read_text(), re.MULTILINE
    )
    assert set(example) == passed_on | set(re.findall(r"\$\{([A-Z0-9_]+)", text))


def test_compose_passes_every_setting_on() -> None:
    """Those of the image are set there: where the data is, and where to listen."""
    passed_on = set(COMPOSE["x-app"]["environment"])
    settings = {name.upper() for name in Settings.model_fields}
    assert settings - passed_on == {"DATA_DIR", "HOST", "PORT"}


def test_compose_reads_the_filled_example_and_names_what_is_empty(tmp_path: Path) -> None:
    if shutil.which("podman") is None:
        missing("podman (Debian: podman)")
    example = ROOT / "infra/compose.env.example"
    filled = tmp_path / "receiver.env"
    filled.write_text(re.sub(r"^(\w+)=$", r"\1=filled", example.read_text(), flags=re.MULTILINE))
    done = compose_config(filled)
    assert done.returncode == 0, done.stderr
    web = YAML(typ="safe").load(done.stdout)["services"]["web"]
    assert web["environment"]["PUBLIC_URL"] == "https://pictures.example.com"
    assert web["environment"]["ADMIN_TOKEN"] == "filled"
    done = compose_config(example)
    assert done.returncode != 0
    assert "is missing a value" in done.stderr


def compose_config(env_file: Path) -> subprocess.CompletedProcess[str]:
    """Run ``podman-compose config`` on infra/compose.yaml with this .env file."""
    program = str(Path(sys.executable).with_name("podman-compose"))
    files = ("-f", str(ROOT / "infra/compose.yaml"), "--env-file", str(env_file))
    return subprocess.run([program, *files, "config"], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "name", [".ci/run", ".github/workflows/test.yml", ".github/workflows/release.yml"]
)
def test_what_automation_calls_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"^\s*(?:- run: )?make ([a-z-]+)", text, re.MULTILINE))
    assert called
    assert called <= targets
    assert all((ROOT / path).exists() for path in re.findall(r"(?:file|FILE): (\S+)", text))


def test_the_sdist_names_only_what_exists() -> None:
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        command, *paths = line.split()
        if command in {"include", "graft"}:
            assert all((ROOT / path).exists() for path in paths), line


def test_the_constraints_pin_every_dependency_to_a_version_it_allows() -> None:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    pins = {
        canonicalize_name(name): version for name, version in (line.split("==") for line in lines)
    }
    project = PYPROJECT["project"]
    groups = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *PYPROJECT["dependency-groups"].values(),
    ]
    for requirement in (Requirement(text) for group in groups for text in group):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), (
            requirement
        )


def test_every_file_of_the_packages_is_installed() -> None:
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    installed = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / package).glob(pattern)
    }
    for path in (*_files(ROOT / "receiver"), *_files(ROOT / "submitter")):
        packages = [
            parent for parent in path.parents if parent.is_relative_to(ROOT) and parent != ROOT
        ]
        module = path.suffix == ".py" and all(
            (package / "__init__.py").exists() for package in packages
        )
        assert module or path in installed, (
            f"{path} would be missing from a wheel: see package-data in pyproject.toml"
        )


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    registries = [
        ".".join(parts)
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("registry", "npmjs"),
            ("deb", "debian"),
        )
    ]
    forbidden = re.compile(
        "|".join([r"/(root|home/\w+)/", *map(re.escape, [f"{ROOT}/", *registries])])
    )
    for path in _files(ROOT):
        found = forbidden.search(path.read_text(errors="ignore"))
        assert found is None, f"{path} names {found[0]}"
