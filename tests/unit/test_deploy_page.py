"""docs/deploy.md names what exists: files, variables, commands, probes, parameters."""

import re

import pytest
from deployments import LIVENESS, PORT, READINESS, ROOT, VERSION, is_ours, paths, unknown
from ruamel.yaml import YAML

PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
WAYS = ["One VPS", "Compose", "A platform", "Kubernetes", "AWS"]
SECTIONS = dict(part.split("\n", 1) for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:])
# Variables of the page's own shell commands, and of proxies.
OF_THE_SHELL = {"IMAGE", "DOMAIN", "UPSTREAM"}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_says_how_to_begin_and_to_look(way: str) -> None:
    section = SECTIONS[way]
    assert "```" in section
    assert re.search(r"receiver[\"\]`, ]+doctor", section)
    assert "ashboard**" in section
    assert f"#{way.lower().replace(' ', '-')})" in PAGE


def test_every_variable_exists() -> None:
    named = set(re.findall(r"(?<![\w$-])([A-Z][A-Z0-9]*_[A-Z0-9_]+|PORT)\b", PAGE))
    named |= set(re.findall(r"(?<![\w$-])([A-Z][A-Z0-9_]+)=", PAGE))
    assert unknown(named - OF_THE_SHELL - {"CAPABILITY_IAM"}) == set()
    assert {"DATABASE_URL", "ADMIN_TOKEN", "FORWARDED_ALLOW_IPS"} <= named


def test_every_file_exists() -> None:
    named = re.findall(r"(?<![\w/.-])(infra/[\w./-]+\w|[\w-]+\.(?:toml|txt|json|yaml))", PAGE)
    assert len(named) > 15
    names = {path.name for path in (ROOT / "infra").rglob("*")}
    assert [name for name in named if not (ROOT / name).exists() and name not in names] == []


def test_every_command_exists() -> None:
    page = PAGE.replace("-n receiver", "")  # the namespace of kubectl
    page = page.replace("create namespace receiver", "").replace("secret generic receiver", "")
    found = re.findall(r"(?:^|[/ \"`])((?:receiver|submitter) [a-z]+(?: --[a-z-]+)*)", page)
    assert len(found) > 8
    assert [command for command in found if not is_ours(command.split())] == []


def test_its_probes_ports_and_version_are_those_of_the_code() -> None:
    assert {LIVENESS, READINESS, "/status"} <= paths()
    for text in (f"`{LIVENESS}`", f"`{READINESS}`", "`/status`", f"`PORT` ({PORT})"):
        assert text in PAGE
    assert set(re.findall(r"webhook-image-receiver:([\d.]+\d)", PAGE)) == {VERSION}


def test_it_gives_every_parameter_of_the_aws_template_that_has_no_default() -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.constructor.add_multi_constructor("!", lambda *_: None)
    parameters = yaml.load(ROOT / "infra/cloudformation/receiver.yaml")["Parameters"]
    given = set(re.findall(r"(?<=[ ])([A-Z][A-Za-z]+[a-z])=", SECTIONS["AWS"]))
    needed = {name for name, parameter in parameters.items() if "Default" not in parameter}
    assert needed <= given <= set(parameters)


def test_the_readme_and_the_chinese_page_name_it() -> None:
    assert "docs/deploy.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(deploy.md)" in (ROOT / "docs/README.zh.md").read_text(encoding="utf-8")
