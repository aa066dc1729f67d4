"""The Kubernetes overlays as kustomize makes them: locked down, and in agreement with the code.

``make lint`` asks Kubernetes' own schemas whether every field is known.
"""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from deployments import (
    DRAIN,
    LIVENESS,
    MIGRATE,
    PORT,
    READINESS,
    ROOT,
    VERSION,
    WEB,
    WEB_DRAIN,
    WORKER,
    is_ours,
    unknown,
)
from ruamel.yaml import YAML

OVERLAYS = ROOT / "infra/kubernetes/overlays"
PROCESSES = {
    "distributed": {"web": WEB, "worker": WORKER, "migrate": MIGRATE},
    "embedded": {"web": ["receiver", "serve", "--host", "0.0.0.0"]},
}
VARIABLES = {
    "embedded": {"PUBLIC_URL"},
    "distributed": {"PUBLIC_URL", "ARCHIVE_URL", "AWS_DEFAULT_REGION"},
}

Resources = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module", params=PROCESSES)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def resources(overlay: str) -> Resources:
    """Return the resources of an overlay by kind and name."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        # No version in Debian knows this kustomize, so its absence must not fail CI either.
        pytest.skip("kubectl is not installed")
    command = [kubectl, "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return {
        (found["kind"], found["metadata"]["name"].removesuffix(suffix(found))): found
        for found in YAML(typ="safe").load_all(done.stdout)
    }


def suffix(resource: dict[str, Any]) -> str:
    """Return what kustomize adds to the name of a generated ConfigMap."""
    name: str = resource["metadata"]["name"]
    return name[name.rindex("-") :] if resource["kind"] == "ConfigMap" else ""


def pods(resources: Resources) -> dict[str, dict[str, Any]]:
    """Return the specification of the pods of each Deployment and Job."""
    return {
        name: found["spec"]["template"]["spec"]
        for (kind, name), found in resources.items()
        if kind in {"Deployment", "Job"}
    }


def containers(resources: Resources) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(resources).items():
        (container,) = pod["containers"]
        yield name, container


def test_the_pods_run_what_the_procfile_names(overlay: str, resources: Resources) -> None:
    expected = PROCESSES[overlay]
    found = dict(containers(resources))
    assert set(found) == set(expected)
    for name, container in found.items():
        command = container["command"]
        assert command[: len(expected[name])] == expected[name]
        assert is_ours(command)
        assert container["image"].endswith(f"/webhook-image-receiver:{VERSION}")


def test_the_settings_exist_and_come_with_the_secret(overlay: str, resources: Resources) -> None:
    config = resources["ConfigMap", "receiver"]
    assert unknown(set(config["data"])) == set()
    assert set(config["data"]) == {"LOG_FORMAT", "DATA_DIR", "TMPDIR", *VARIABLES[overlay]}
    for _, container in containers(resources):
        assert container["envFrom"] == [
            {"configMapRef": {"name": config["metadata"]["name"]}},
            {"secretRef": {"name": "receiver"}},
        ]


def test_each_pod_is_locked_down(resources: Resources) -> None:
    for pod in pods(resources).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        user, group = security["runAsUser"], security["runAsGroup"]
        dockerfile = (ROOT / "infra/Dockerfile").read_text(encoding="utf-8")
        assert f"USER {user}:{group}" in dockerfile
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


def test_what_is_written_is_in_a_volume(resources: Resources) -> None:
    config = resources["ConfigMap", "receiver"]["data"]
    for pod in pods(resources).values():
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
        assert config["DATA_DIR"].startswith(mount["mountPath"] + "/")
        assert config["TMPDIR"] == mount["mountPath"]


def test_each_process_that_stays_is_asked_the_right_questions(resources: Resources) -> None:
    for name, container in containers(resources):
        if name == "migrate":
            continue
        (port,) = container["ports"]
        number = port["containerPort"]
        assert number == PORT or f"--metrics-port {number}" in " ".join(container["command"])
        for probe, path in (
            ("startupProbe", LIVENESS),
            ("livenessProbe", LIVENESS),
            ("readinessProbe", READINESS),
        ):
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        (service,) = resources["Service", name]["spec"]["ports"]
        assert (service["port"], service["targetPort"]) == (number, port["name"])


def test_a_pod_has_time_to_drain(resources: Resources) -> None:
    for name, pod in pods(resources).items():
        if name == "migrate":
            continue
        hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        assert pod["terminationGracePeriodSeconds"] >= hook["sleep"]["seconds"] + DRAIN + 10
    assert DRAIN > WEB_DRAIN


def test_only_callbacks_and_the_health_check_come_in_and_none_is_redirected(
    resources: Resources,
) -> None:
    ingress = resources["Ingress", "web"]
    (rule,) = ingress["spec"]["rules"]
    public = resources["ConfigMap", "receiver"]["data"]["PUBLIC_URL"]
    assert public == f"https://{rule['host']}"
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    assert [(path["path"], path["pathType"]) for path in rule["http"]["paths"]] == [
        ("/callback", "Prefix"),
        (LIVENESS, "Exact"),
    ]
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/ssl-redirect"] == "false"


def test_the_network_is_closed_but_for_what_is_named(overlay: str, resources: Resources) -> None:
    policies = {name: found for (kind, name), found in resources.items() if kind == "NetworkPolicy"}
    assert policies["nothing"]["spec"] == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "receiver"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    named = {"nothing", "in", "out"} | ({"postgresql"} if overlay == "distributed" else set())
    assert set(policies) == named
    for (kind, _), found in resources.items():
        if kind in {"Deployment", "Job"}:
            labels = found["spec"]["template"]["metadata"]["labels"]
            assert labels["app.kubernetes.io/name"] == "receiver"


def test_web_and_worker_outlast_a_drained_node(overlay: str, resources: Resources) -> None:
    budgets = {name for kind, name in resources if kind == "PodDisruptionBudget"}
    assert budgets == ({"web", "worker"} if overlay == "distributed" else set())
    for name in budgets:
        assert resources["Deployment", name]["spec"]["replicas"] == 2
        budget = resources["PodDisruptionBudget", name]["spec"]
        labels = resources["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_a_single_pod_is_never_two(overlay: str, resources: Resources) -> None:
    if overlay == "embedded":
        deployment = resources["Deployment", "web"]["spec"]
        assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
        claim = deployment["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        assert ("PersistentVolumeClaim", claim) in resources
