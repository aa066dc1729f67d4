"""``submitter submit --provider openai`` as users run it, beserver ``receiver serve``."""

import json

import pytest
from click.testing import CliRunner
from installation import Installation
from openai_server import PNGS, OpenAIServer, with_pictures, wrong
from processes import Finished

from submitter.cli import main as submitter

COMMAND = ("submitter", "submit", "a fox", "--provider", "openai")


def submit(installation: Installation, server: OpenAIServer, *options: str) -> Finished:
    return installation.invoke(
        *COMMAND, *options, OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=server.url
    )


def test_pictures_in_an_answer_are_archived_while_the_command_waits(
    installation: Installation,
) -> None:
    with OpenAIServer(with_pictures(*PNGS)) as server, installation.started() as service:
        options = "--variants 3 --size 1024x1024 --param quality=high --wait --json"
        done = submit(installation, server, *options.split())
        assert done.status == 0, done.err
        assert (len(server.calls), server.connections) == (1, 1)
        assert server.calls[0].body == {
            "model": "gpt-image-1.5",
            "prompt": "a fox",
            "n": 3,
            "size": "1024x1024",
            "quality": "high",
        }
        assert "Traceback" not in service.output()
        assert installation.invoke("receiver", "audit").status == 0
    job = json.loads(done.out)
    assert (job["state"], job["provider"], job["provider_id"]) == ("archived", "openai", None)
    files = [installation.data / "archive" / asset["key"] for asset in job["assets"]]
    assert [file.read_bytes() for file in files] == list(PNGS)
    assert "sk-test" not in done.err + service.output()


def test_a_refusal_is_printed_and_sets_the_exit_status(installation: Installation) -> None:
    with OpenAIServer(wrong(400, "invalid_value", "Invalid size: '3:2'")) as server:
        done = submit(installation, server, "--size", "3:2")
    assert (done.status, "Invalid size: '3:2'" in done.err) == (1, True)


def test_without_a_key_the_variable_is_named(installation: Installation) -> None:
    done = installation.invoke(*COMMAND)
    assert (done.status, done.out, "OPENAI_API_KEY: not set" in done.err) == (2, "", True)


@pytest.mark.parametrize(
    "options", [["--mode", "poll"], ["--api", "api"], ["--wait", "--resubmit", "1"]]
)
def test_what_is_for_the_other_provider_is_wrong_usage(
    installation: Installation, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(installation.data))
    result = CliRunner().invoke(submitter, [*COMMAND[1:], *options])
    assert (result.exit_code, "OpenAI answers with the pictures" in result.output) == (2, True)
    assert not installation.data.exists()
