"""Every command that the README shows is run here, in its order, on a small scale."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from traffic import conversations, write_jsonl
from understudy.demo import owner_check

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SMALL = {  # what is added to a command of the README so that it takes seconds
    "train sft": "--set epochs=1 --quiet --threads 1",
    "train grpo": "--set steps=1 --set scenarios_per_step=2 --set group_size=2 --set pool=20 "
    "--set max_turns=4 --quiet --threads 1",
}
SERVES = ("up", "engine serve")


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in readme_commands():
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


async def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "conversations.jsonl.gz", await conversations(tmp_path, 30))
    shutil.copyfile(str(owner_check.__file__), tmp_path / "check.py")
    ran = 0
    for line in readme_commands():
        if not line.startswith("understudy "):
            continue
        arguments = shlex.split(line)[1:]
        name = " ".join(arguments[:2])
        if any(name.startswith(s) for s in SERVES):
            _serves(arguments, tmp_path)
        else:
            done = _run([*arguments, *shlex.split(SMALL.get(name, ""))], tmp_path)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 10


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "not-a-key"}


def _run(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    if "EPISODE" in arguments:
        listed = _run(["episodes", "--json"], folder)
        found = re.search(r'"id": "([^"]+)"', listed.stdout)
        assert found is not None
        arguments = [found.group(1) if a == "EPISODE" else a for a in arguments]
    return subprocess.run(
        [sys.executable, "-m", "understudy.cli", *arguments],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _serves(arguments: list[str], folder: Path) -> None:
    """A command that serves: it prints a line of JSON with its URL, and ends when told to."""
    command = [sys.executable, "-m", "understudy.cli", *arguments, "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert '"url"' in line, line
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
