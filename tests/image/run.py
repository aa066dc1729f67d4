"""Build the image and run it as a hardened container: ``make image-test``, as root on Debian 12.

The base image of infra/Dockerfile cannot be downloaded everywhere. So one is made from Debian's
packages and imported under its name, and the build sees what it would see on any machine.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "debootstrap", "podman", "runc")
BASE = "docker.io/library/python:3.11-slim-bookworm"
IMAGE = "localhost/webhook-image-receiver:test"
SUITE = "bookworm"
LIMIT_MB = 200  # of our own layers, without the base image
HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--tmpfs=/tmp")
# The network of this machine, so that no bridge has to be set up; limits that any machine allows.
HERE = ("--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
READY_WITHIN = 60  # seconds
STOPPED_WITHIN = 20  # seconds; the service drains in 10
STARTED = time.monotonic()


class Containers:
    """buildah and podman with a storage of their own in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._storage = [f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}"]

    def build(self, *arguments: str) -> None:
        """Build an image."""
        run("buildah", *self._storage, "--storage-driver=overlay", "build", *arguments)

    def podman(self, *arguments: str) -> str:
        """Run a command of podman; return its output."""
        options = [*self._storage, "--cgroup-manager=cgroupfs", "--runtime=runc"]
        return run("podman", *options, *arguments)

    def inspect(self, image: str) -> dict[str, object]:
        """Return what is known about an image."""
        (found,) = json.loads(self.podman("image", "inspect", image))
        return dict(found)


def run(*command: str) -> str:
    """Run a command; return its output. Exit with its output if it fails."""
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(command)}\nended with {done.returncode}")
    return done.stdout


def say(text: str) -> None:
    """Print what is done now, after the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", flush=True)  # noqa: T201 - a command


def import_base(containers: Containers, folder: Path) -> None:
    """Make the base image from Debian's packages."""
    tree, archive = folder / "base", folder / "base.tar"
    packages = "--include=python3,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", packages, SUITE, str(tree), debian_mirror())
    (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    leave_out = [f"--exclude=./{name}" for name in ("proc/*", "sys/*", "var/cache/apt/archives/*")]
    run("tar", "--create", f"--file={archive}", f"--directory={tree}", *leave_out, ".")
    containers.podman("import", str(archive), BASE)


def debian_mirror() -> str:
    """Return the address from which apt gets this suite on this machine."""
    targets = run("apt-get", "indextargets", "--format=$(CODENAME) $(REPO_URI)").splitlines()
    found = [line.split()[1] for line in targets if line.split()[0] == SUITE]
    return found[0] if found else sys.exit(f"apt has no source for Debian {SUITE}: add one")


def download_packages(folder: Path) -> list[str]:
    """Download what the image installs; return the options that show it to the build.

    So the build needs no way to a package index, whatever that way is on this machine.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wheels, config = folder / "wheels", folder / "pip.conf"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    where = (f"--constraint={ROOT / 'constraints.txt'}", f"--dest={wheels}")
    run(*pip, *where, *wanted, *(package for extra in extras for package in extra))
    config.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    return [f"--volume={wheels}:/wheels:ro", f"--volume={config}:/etc/pip.conf:ro"]


def build(containers: Containers, folder: Path) -> None:
    """Build infra/Dockerfile."""
    containers.build(
        "--format=docker",  # the other format has no HEALTHCHECK
        "--isolation=chroot",
        "--pull=never",
        *download_packages(folder),
        f"--file={ROOT / 'infra' / 'Dockerfile'}",
        f"--tag={IMAGE}",
        str(ROOT),
    )


def check_image(containers: Containers) -> None:
    """Check the user, the health check and the size."""
    image, base = containers.inspect(IMAGE), containers.inspect(BASE)
    ours = (int(str(image["Size"])) - int(str(base["Size"]))) / 1e6
    say(f"{ours:.0f} MB are ours")
    assert ours < LIMIT_MB, f"{ours:.0f} MB are ours, and {LIMIT_MB} MB are allowed"
    assert image["User"] == "10001:10001"
    assert image["Healthcheck"]


def check_demo(containers: Containers) -> None:
    """Run the main job in a container."""
    out = containers.podman("run", "--rm", *HARDENED, *HERE, IMAGE, "submitter", "demo")
    (verdict,) = [line for line in out.splitlines() if line.startswith("✓ all as promised")]
    say(f"demo: {verdict}")


def check_service(containers: Containers) -> None:
    """Run the service, ask its health check, and stop it."""
    with free_port() as port, service(containers, port) as name:
        wait_until_healthy(containers, name)
        say("the service is healthy")
        began = time.monotonic()
        containers.podman("stop", f"--time={STOPPED_WITHIN}", name)
        stopped_after = time.monotonic() - began
        (container,) = json.loads(containers.podman("inspect", name))
        assert container["State"]["ExitCode"] == 0, container["State"]
        say(f"it stopped after {stopped_after:.1f} s")


@contextmanager
def free_port() -> Iterator[int]:
    """Yield a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


@contextmanager
def service(containers: Containers, port: int) -> Iterator[str]:
    """Run the image's own command in a container; yield the container's name."""
    name = f"image-test-{port}"
    # On this machine's network it listens on loopback only.
    command = ("receiver", "serve", "--host", "127.0.0.1")
    containers.podman(
        "run", "--detach", f"--name={name}", f"--env=PORT={port}", *HARDENED, *HERE, IMAGE, *command
    )
    try:
        yield name
    except BaseException:
        say(containers.podman("logs", name))
        raise
    finally:
        containers.podman("rm", "--force", "--volumes", name)


def wait_until_healthy(containers: Containers, name: str) -> None:
    """Run the image's health check until it succeeds."""
    (_, *check) = containers.inspect(IMAGE)["Healthcheck"]["Test"]  # type: ignore[index]  # JSON
    deadline = time.monotonic() + READY_WITHIN
    while "failed" in containers.podman(
        "exec", name, "sh", "-c", '"$@" || echo failed', "-", *check
    ):
        assert time.monotonic() < deadline, "not healthy in time"


def main() -> None:
    """Make the base image, build ours, and check it."""
    if os.geteuid():
        sys.exit("run it as root: debootstrap and the isolation by chroot need that")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        sys.exit(f"not installed: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        containers = Containers(folder)
        for step in (import_base, build):
            say(step.__name__.replace("_", " "))
            step(containers, folder)
        for check in (check_image, check_demo, check_service):
            check(containers)
        say("the image works")


if __name__ == "__main__":
    main()
