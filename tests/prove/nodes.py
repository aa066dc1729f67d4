"""Machines of a run: each is a process in its own network namespace with a virtual cable.

Our own side is a namespace too, which no other process can reach. Namespaces and cables end with
their processes. Needs root, ``ip`` and ``unshare`` (Linux).
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from processes import environment

OURS = "10.99.0.1"
_BRIDGE = "bridge0"
_INSIDE = "RECEIVER_PROVE_INSIDE"
_START_WITHIN = 10.0


def is_possible() -> bool:
    """Say whether this machine allows network namespaces."""
    return (
        os.geteuid() == 0
        and all(map(shutil.which, ("ip", "unshare", "nsenter")))
        and _runs("unshare", "-n", "true")
    )


def go_inside() -> None:
    """Continue in a new namespace with a bridge for the cables: runs this program again there."""
    if os.environ.get(_INSIDE) != "yes":
        os.environ[_INSIDE] = "yes"
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])  # noqa: S606, S607 - this very program again
    _ip("link", "set", "lo", "up")
    _ip("link", "add", _BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{OURS}/24", "dev", _BRIDGE)
    _ip("link", "set", _BRIDGE, "up")


class Node:
    """A machine that runs one command; its number is the end of its address."""

    def __init__(
        self,
        name: str,
        number: int,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.name, self.address = name, f"10.99.0.{number}"
        self._cable = f"cable{number}"
        self._command, self._environ = command, environ
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._logged_before = 0

    def start(self) -> None:
        """Plug it in and run its command."""
        self._logged_before = self.log.stat().st_size if self.log.exists() else 0
        waiting = ["unshare", "-n", "sh", "-c", 'read -r _; exec "$@"', "sh", *self._command]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                waiting,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment(self._environ),
                start_new_session=True,
            )
        pid = str(self._process.pid)
        end = time.monotonic() + _START_WITHIN
        while Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            assert time.monotonic() < end, "no namespace"
            time.sleep(0.01)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", pid)
        _ip("link", "set", self._cable, "master", _BRIDGE, "up")
        for words in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            subprocess.run(["nsenter", "-t", pid, "-n", "ip", *words], check=True)  # noqa: S607 - checked to be there
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    def pull(self) -> None:
        """Cut it off: packets are lost without an error."""
        _ip("link", "set", self._cable, "down")

    def plug(self) -> None:
        """Let it come back."""
        _ip("link", "set", self._cable, "up")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None
            _runs("ip", "link", "del", self._cable)  # the kernel takes its time to do so by itself

    def stop(self, within: float = 20.0) -> int | None:
        """Ask it to drain; return its exit status."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def said_since_its_start(self, words: str) -> bool:
        """Say whether its log has these words since it was started last."""
        with self.log.open("rb") as file:
            file.seek(self._logged_before)
            return words.encode() in file.read()

    def said(self, words: str) -> int:
        """Count how often its log has these words."""
        return (
            self.log.read_text(encoding="utf-8", errors="replace").count(words)
            if self.log.exists()
            else 0
        )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)  # noqa: S607 - checked to be there


def _runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
