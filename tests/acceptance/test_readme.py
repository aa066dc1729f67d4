"""README's first five minutes, pasted to the letter in an empty folder."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from processes import environment, free_port

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
        out, err = shell.communicate(timeout=60)
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
    script = r"""submitter sandbox --port 8788 > lines &
    until grep -q PUBLIC_URL lines; do sleep 0.1; done
    grep ^export lines | sed "s/:87[8]7/:$PORT/" > exports # our port in place of the usual one
    . ./exports
    receiver serve &
    submitter submit "a lighthouse" --wait --output ."""
    done = pasted(script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("*-0.png"))) == 1
