"""The AWS template agrees with the code; cfn-lint and checkov read it for everything else."""

import json
import re
import shlex
from functools import cache
from typing import Any

import pytest
from deployments import DRAIN, LIVENESS, MIGRATE, PORT, ROOT, WEB, WORKER, is_ours, unknown
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

FILE = ROOT / "infra/cloudformation/receiver.yaml"


def _function(loader: Any, tag: str, node: Any) -> dict[str, Any]:
    """Return ``!Name value`` as {"Name": value}."""
    if isinstance(node, ScalarNode):
        return {tag: loader.construct_scalar(node)}
    if isinstance(node, SequenceNode):
        return {tag: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, MappingNode)
    return {tag: loader.construct_mapping(node, deep=True)}


@cache
def template() -> dict[str, Any]:
    """Read the template; this takes long, so only in a test."""
    yaml = YAML(typ="safe", pure=True)
    yaml.constructor.add_multi_constructor("!", _function)
    found: dict[str, Any] = yaml.load(FILE)
    return found


def resources() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = template()["Resources"]
    return found


TASKS = {"WebTask": WEB, "WorkerTask": WORKER}


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of a type."""
    return {
        name: found.get("Properties", {})
        for name, found in resources().items()
        if found["Type"] == kind
    }


def container(task: str) -> dict[str, Any]:
    (found,) = resources()[task]["Properties"]["ContainerDefinitions"]
    assert isinstance(found, dict)
    return found


def test_cloudformation_reads_it() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert not re.search(r"<<:|: [&*]\w", text), "CloudFormation knows no anchors of YAML"
    assert len(text) < 51_200, "the most that is accepted without a bucket"


@pytest.mark.parametrize(("task", "process"), TASKS.items())
def test_a_task_migrates_and_runs_what_the_procfile_names(task: str, process: list[str]) -> None:
    shell, flag, line = container(task)["Command"]
    migrate, run = line.split(" && exec ")
    assert (shell, flag, shlex.split(migrate)) == ("sh", "-c", MIGRATE)
    words = shlex.split(run)
    assert words[: len(process)] == process
    assert is_ours(words)


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_variables_exist_and_secrets_are_secret(task: str) -> None:
    plain = {found["Name"] for found in container(task)["Environment"]}
    secret = {found["Name"] for found in container(task)["Secrets"]}
    assert unknown(plain | secret) == set()
    assert secret == {"GRSAI_API_KEY", "CALLBACK_SECRETS", "ADMIN_TOKEN", "PGPASSWORD"}
    assert plain >= {"PUBLIC_URL", "DATABASE_URL", "ARCHIVE_URL", "AWS_DEFAULT_REGION"}


def test_both_tasks_have_the_same_settings() -> None:
    web, worker = map(container, TASKS)
    for part in ("Environment", "Secrets", "MountPoints", "User"):
        assert web[part] == worker[part]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_locked_down_and_has_time_to_drain(task: str) -> None:
    found = container(task)
    assert found["ReadonlyRootFilesystem"] is True
    assert found["LinuxParameters"] == {"Capabilities": {"Drop": ["ALL"]}}
    assert found["StopTimeout"] >= 2 * DRAIN
    dockerfile = (ROOT / "infra/Dockerfile").read_text(encoding="utf-8")
    assert f"USER {found['User']}" in dockerfile
    (mount,) = found["MountPoints"]
    # Only a volume that the image declares keeps the image's owner.
    assert f"VOLUME {mount['ContainerPath']}" in dockerfile
    environment = {variable["Name"]: variable["Value"] for variable in found["Environment"]}
    assert environment["TMPDIR"] == mount["ContainerPath"]


def test_the_ports_and_probes_are_those_of_the_processes() -> None:
    assert container("WebTask")["PortMappings"] == [{"ContainerPort": PORT}]
    (targets,) = of_type("AWS::ElasticLoadBalancingV2::TargetGroup").values()
    assert (targets["Port"], targets["HealthCheckPath"]) == (PORT, LIVENESS)
    (balanced,) = resources()["Web"]["Properties"]["LoadBalancers"]
    assert (balanced["ContainerName"], balanced["ContainerPort"]) == ("web", PORT)
    asked = json.dumps(container("WorkerTask")["HealthCheck"]["Command"])
    (port,) = re.findall(r"--metrics-port (\d+)", container("WorkerTask")["Command"][2])
    assert f"http://127.0.0.1:{port}{LIVENESS}" in asked


def test_callbacks_are_passed_on_from_both_ports_and_never_redirected() -> None:
    rules = of_type("AWS::ElasticLoadBalancingV2::ListenerRule")
    first = {rule["ListenerArn"]["Ref"]: rule for rule in rules.values() if rule["Priority"] == 1}
    assert set(first) == {"HttpsListener", "HttpListener"}
    for rule in first.values():
        (condition,) = rule["Conditions"]
        assert condition["PathPatternConfig"]["Values"] == ["/callback", "/callback/*", LIVENESS]
        assert [action["Type"] for action in rule["Actions"]] == ["forward"]


def test_no_other_address_is_allowed_unless_the_operator_says_so() -> None:
    default = resources()["HttpsListener"]["Properties"]["DefaultActions"]
    assert default == [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}]
    assert template()["Parameters"]["OperatorCidr"]["Default"] == "127.0.0.1/32"


def test_what_was_paid_for_outlives_the_stack() -> None:
    assert resources()["Archive"]["DeletionPolicy"] == "Retain"
    assert resources()["Ledger"]["DeletionPolicy"] == "Snapshot"


def test_every_exception_of_checkov_has_its_reason() -> None:
    skipped = [
        skip
        for found in resources().values()
        for skip in found.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]
    assert skipped
    assert all(len(skip["comment"]) > 30 for skip in skipped)


def test_the_alarm_waits_for_the_line_that_web_logs() -> None:
    pattern = resources()["Faults"]["Properties"]["FilterPattern"]
    (words,) = re.findall(r'\$\.event = "(.+)"', pattern)
    source = (ROOT / "receiver/web/fault_log.py").read_text(encoding="utf-8")
    assert f'log.error("{words}"' in source
