"""Build the packages and use the wheel as a stranger would: ``make package-test``.

The wheel is built from the sdist, so both must be complete. It is installed in a clean environment
of every supported Python that is found, and runs the demo with the checkout out of sight.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13")


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in ``folder``; return its output. Exit with its output if it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}\nended with {done.returncode}")
    return done.stdout


def say(text: str) -> None:
    """Print what is done now."""
    print(text, flush=True)  # noqa: T201 - a command


def pythons() -> Iterator[str]:
    """Yield an interpreter of each supported version that is found here."""
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        name = f"python{version}"
        candidates = chain([shutil.which(name)], managed.glob(f"{version}.*/bin/{name}"))
        working = [str(path) for path in candidates if path and works(str(path), version)]
        if working:
            yield working[0]
        else:
            say(f"Python {version} is not found here: skipped")


def works(python: str, version: str) -> bool:
    """Return whether an interpreter runs, has this version, and can make environments."""
    code = "import sys, venv, ensurepip, sqlite3; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def build(folder: Path) -> tuple[Path, Path]:
    """Build an sdist, and a wheel from it; return both."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def check_wheel(python: str, wheel: Path, folder: Path) -> None:
    """Install the wheel in a clean environment and run the demo."""
    run(python, "-m", "venv", folder / "venv", folder=folder)
    programs = folder / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    pip = (programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", constraints, wheel, folder=folder)
    version = run(programs / "receiver", "--version", folder=folder).strip()
    out = run(programs / "submitter", "demo", folder=folder)
    (verdict,) = [line for line in out.splitlines() if line.startswith("✓ all as promised")]
    say(f"{python}: {version}: {verdict}")


def main() -> None:
    """Build, then check the wheel with every Python."""
    with tempfile.TemporaryDirectory(prefix="package-") as name:
        folder = Path(name)
        sdist, wheel = build(folder)
        say(f"built {sdist.name} and {wheel.name}")
        for python in pythons():
            with tempfile.TemporaryDirectory(prefix="wheel-") as place:
                check_wheel(python, wheel, Path(place))


if __name__ == "__main__":
    main()
