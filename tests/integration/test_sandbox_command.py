"""The command ``submitter sandbox``, run as a process of its own."""

import signal
import subprocess
import sys
from typing import IO

import pytest
import requests
from click.testing import CliRunner

from submitter.sandbox import Sandbox
from submitter.sandbox.command import sandbox

START = [
    sys.executable,
    "-W",
    "error",
    "-c",
    "from submitter.sandbox.command import sandbox; sandbox()",
    "--port",
    "0",
]


def line(output: IO[str] | None) -> str:
    assert output is not None
    return output.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    options = ["--key", "sk-1", "--script", '{"delay": 0}', "--url-lifetime", "60", "--looks", "3"]
    with subprocess.Popen(
        [*START, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url = line(process.stdout)
        assert line(process.stdout) == "Use it from another shell:"
        assert (
            line(process.stdout)
            == f"GRSAI_BASE_URL={url} GRSAI_API_KEY=sk-1 FETCH_ALLOW={url.removeprefix('http://')}"
        )
        body = {"model": "m", "prompt": "a fox", "webHook": "-1"}
        for key, status in (("sk-1", 200), ("sk-2", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert (
                requests.post(
                    f"{url}/v1/draw/completions", json=body, headers=headers, timeout=10
                ).status_code
                == status
            )
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--script", "{"], "not JSON"),
        (["--script", "[]"], "not a JSON object"),
        (["--url-lifetime", "-1"], "--url-lifetime"),
        (["--looks", "0"], "--looks"),
    ],
)
def test_wrong_options_are_wrong_usage(options: list[str], said: str) -> None:
    result = CliRunner().invoke(sandbox, ["--port", "0", *options])
    assert result.exit_code == 2
    assert said in result.output


def test_a_wrong_script_and_a_taken_port_are_told_in_one_line() -> None:
    result = CliRunner().invoke(sandbox, ["--port", "0", "--script", '{"dealy": 1}'])
    assert (result.exit_code, "sandbox.dealy: Extra inputs" in result.output) == (2, True)
    with Sandbox() as running:
        result = CliRunner().invoke(sandbox, ["--port", str(running.port)])
    assert result.exit_code == 2
    assert "in use" in result.output
