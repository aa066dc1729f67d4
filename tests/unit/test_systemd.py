"""The systemd unit gives the service what it needs and nothing else."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from real_parts import missing

from receiver.settings import Settings

UNITS = Path(__file__).resolve().parents[2] / "infra/systemd"
# The exposure by "systemd-analyze security", times ten: 0 for a service that can do nothing, 96 for
# one that can do everything.
MOST_EXPOSED = 15


def read(name: str) -> dict[str, dict[str, list[str]]]:
    """Read a unit file: every value of every key of every section, in order."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            sections[section] = defaultdict(list)
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            sections[section][key].append(value)
    return sections


SERVICE = read("receiver.service")["Service"]


def test_the_service_runs_as_a_user_of_its_own_with_one_directory_of_its_own() -> None:
    assert SERVICE["DynamicUser"] == ["yes"]
    assert (SERVICE["StateDirectory"], SERVICE["StateDirectoryMode"], SERVICE["UMask"]) == (
        ["receiver"],
        ["0700"],
        ["0077"],
    )
    assert "User" not in SERVICE
    assert SERVICE["Environment"][0].split()[0] == "DATA_DIR=%S/receiver"


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("NoNewPrivileges", ["yes"]),
        ("CapabilityBoundingSet", [""]),
        ("AmbientCapabilities", [""]),
        ("ProtectSystem", ["strict"]),
        ("ProtectHome", ["yes"]),
        ("PrivateTmp", ["yes"]),
        ("PrivateDevices", ["yes"]),
        ("ProtectKernelTunables", ["yes"]),
        ("ProtectKernelModules", ["yes"]),
        ("ProtectControlGroups", ["yes"]),
        ("ProtectProc", ["invisible"]),
        ("RestrictNamespaces", ["yes"]),
        ("RestrictSUIDSGID", ["yes"]),
        ("MemoryDenyWriteExecute", ["yes"]),
        ("RestrictAddressFamilies", ["AF_INET AF_INET6 AF_UNIX"]),
        ("SystemCallFilter", ["@system-service", "~@privileged"]),
        ("LimitCORE", ["0"]),
    ],
)
def test_the_service_is_locked_down(key: str, values: list[str]) -> None:
    assert SERVICE[key] == values
    assert "ReadWritePaths" not in SERVICE


def test_the_service_starts_what_the_readme_names_and_holds_no_secret() -> None:
    assert SERVICE["ExecStart"] == ["/opt/receiver/bin/receiver serve"]
    assert SERVICE["EnvironmentFile"] == ["-/etc/receiver.env"]
    secret = {
        name.upper()
        for name, field in Settings.model_fields.items()
        if "Secret" in str(field.annotation)
    }
    assert "GRSAI_API_KEY" in secret
    assert not secret & {
        word.partition("=")[0] for line in SERVICE["Environment"] for word in line.split()
    }


def test_the_service_has_longer_to_stop_than_it_takes_to_drain() -> None:
    assert int(SERVICE["TimeoutStopSec"][0]) > 10
    assert SERVICE["KillMode"] == ["mixed"], (
        "SIGTERM to the supervisor alone: it drains its children itself"
    )


def test_the_memory_of_the_service_is_limited() -> None:
    assert (SERVICE["MemoryHigh"], SERVICE["MemoryMax"]) == (["1536M"], ["2G"])


def test_the_socket_is_for_the_proxy_on_this_machine_only() -> None:
    assert read("receiver.socket")["Socket"]["ListenStream"] == ["127.0.0.1:8787"]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; skip the test where there is none."""
    program = shutil.which("systemd-analyze")
    if program is None:
        missing("systemd-analyze (Debian: systemd)")
    command = [program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_systemd_itself_calls_the_service_little_exposed() -> None:
    done = analyze(
        "security",
        "--offline=true",
        "--no-pager",
        f"--threshold={MOST_EXPOSED}",
        str(UNITS / "receiver.service"),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_systemd_itself_finds_no_mistake_in_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/receiver/bin/receiver", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    done = analyze("verify", "--man=no", *map(str, sorted(tmp_path.iterdir())))
    ours = [line for line in done.stderr.splitlines() if "receiver." in line]
    assert (done.returncode, ours) == (0, [])
