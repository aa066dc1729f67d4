"""README's first five minutes, pasted to the letter in an empty folder."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from installation import SERVE
from processes import environment, free_port, run, running
from waiting import LIMIT

ROOT = Path(__file__).parents[2]
# What a person types at the end, to stop what runs in the background.
STOP = 'status=$?; kill $(jobs -p); wait; exit "$status"'


def blocks(page: str) -> list[str]:
    """Return the code blocks of a README's second section, the first one without the install."""
    section = (ROOT / page).read_text().split("\n## ")[1]
    found = re.findall(r"^```(?:python)?\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found[0] == "python3 -m venv .venv && . .venv/bin/activate && pip install .\n"
    return found[1:]


def pasted(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a shell, with free ports in place of those that a page names."""
    web, sandbox = free_port(), free_port()
    script = script.replace("8787", str(web)).replace("8788", str(sandbox))
    environ = environment({"PORT": str(web), "HOST": "127.0.0.1"})
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    shell = subprocess.Popen(
        ["/bin/bash", "-c", f"{script}\n{STOP}"],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = shell.communicate(timeout=LIMIT)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(script, shell.returncode, out, err)


def test_the_first_five_minutes_work_in_an_empty_folder(tmp_path: Path) -> None:
    """The Chinese page starts the same services, which make its picture too."""
    commands, *others = blocks("README.md")
    *services, _ = commands.strip().splitlines()
    *theirs, submit = blocks("docs/README.zh.md")[0].strip().splitlines()
    assert theirs == services
    (tmp_path / "job.py").write_text(next(one for one in others if "import" in one))
    done = pasted(f"{commands.strip()} && python job.py && {submit}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    names = re.findall(r"^pictures/(\S+)$", done.stdout, re.MULTILINE)
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "pictures" / name).stat().st_size > 1000
        assert f"/{name[:26]}/0.png " in done.stdout, "the key below data/archive"
    assert re.search(r"^archived \[PosixPath\('pictures/", done.stdout, re.MULTILINE)


def test_the_lines_that_the_sandbox_prints_are_enough_for_a_submit(tmp_path: Path) -> None:
    at = {"PORT": str(free_port()), "HOST": "127.0.0.1"}
    with running(("submitter", "sandbox", "--port", str(free_port())), at, tmp_path) as sandbox:
        sandbox.says("PUBLIC_URL")
        lines = re.findall("^export .*$", sandbox.output(), re.MULTILINE)
        script = "\n".join(lines).replace(":8787", f":{at['PORT']}")  # our port, not the usual one
        shell = ["/bin/bash", "-c", f"{script}\nenv -0"]
        variables = subprocess.run(shell, env=environment(at), capture_output=True, check=True)
        exported = dict(one.split("=", 1) for one in variables.stdout.decode().split("\0") if one)
        with running(SERVE, exported, tmp_path) as service:
            service.says("worker started")
            service.says("web started")  # the sandbox's callback comes at once
            submit = ("submitter", "submit", "a lighthouse", "--wait", "--output", ".")
            done = run(submit, exported, folder=tmp_path)
    assert done.status == 0, done
    assert len(list(tmp_path.glob("*-0.png"))) == 1
