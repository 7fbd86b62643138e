"""Every command that the README shows is run here, in its order, on a small scale; its Python
block too. What serves goes on serving, and clients ask it what the README says they can ask."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from traffic import conversations, write_jsonl
from understudy import OpenAI
from understudy.core.chat_files import ImportOptions, episode_from_row
from understudy.core.ids import uuid7
from understudy.core.types import ModelRef, Scenario, split_of
from understudy.demo import owner_check
from understudy.envs.mcp_env import McpTools
from understudy.gateway.routing import draw
from understudy.store import SQLiteStore

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SMALL = {  # what is added to a command of the README so that it takes seconds
    "eval": "--scenarios 4 --quiet",
    "train sft": "--set epochs=1 --quiet --threads 1",
    "train kto": "--set epochs=1 --quiet --threads 1",
    "train correct": "--set steps=1 --set turns_per_step=2 --set samples=1 --quiet --threads 1",
    "train world": "--set epochs=1 --quiet --threads 1",
    "train rft": "--set readings=1 --set reader_epochs=1 --set scenarios=8 --set max_turns=3 "
    "--quiet --threads 1",
    "train grpo": "--set steps=1 --set scenarios_per_step=2 --set group_size=2 --set pool=20 "
    "--set max_turns=4 --quiet --threads 1",
}
STUB = ROOT / "tests" / "gateway" / "stub_upstream.py"


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


def test_the_row_of_the_readme_is_one() -> None:
    (row,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    episode = episode_from_row(json.loads(row), ImportOptions(), "readme")
    assert [f.name for f in episode.feedback] == ["outcome"]
    assert [r.latency_s for r in episode.results.values()] == [0.2]


async def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "conversations.jsonl.gz", await conversations(tmp_path, 30))
    shutil.copyfile(str(owner_check.__file__), tmp_path / "check.py")
    (tmp_path / "so-far.json").write_text('[{"role": "user", "content": "Quillon, please"}]')
    search = {"name": "search_stays", "arguments": {"city": "Quillon", "guests": 2}}
    (tmp_path / "plans.json").write_text(json.dumps({"once": [search], "twice": [search] * 2}))
    ran: list[str] = []
    with ExitStack() as stack:

        def serve(*command: str) -> str:
            return stack.enter_context(_serving([sys.executable, *command], tmp_path))

        provider, port = serve(str(STUB)), _free_port()
        gateway = ""
        for line in readme_commands():
            if not line.startswith("understudy "):
                continue
            arguments = shlex.split(line)[1:]
            if arguments[0] == "up":
                arguments[arguments.index("--upstream") + 1] = provider
                arguments += ["--port", "0", "--engine-url", f"http://127.0.0.1:{port}"]
                gateway = serve("-m", "understudy.cli", *arguments)
                _run_python_block(gateway, tmp_path)
            elif arguments[:2] == ["world", "serve"]:
                arguments[arguments.index("--http") + 1] = "127.0.0.1:0"
                url = serve("-m", "understudy.cli", *arguments)
                await _serves_lives(url, tmp_path / "understudy.db")
            elif arguments[:2] == ["engine", "serve"]:
                serve("-m", "understudy.cli", *arguments, "--port", str(port))
            else:
                if arguments[0] == "eval" and arguments[1].startswith("http"):
                    arguments[1] = gateway
                more = shlex.split(SMALL.get(" ".join(arguments[:2]), SMALL.get(arguments[0], "")))
                done = _run([*arguments, *more], tmp_path)
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if arguments[0] in ("deploy", "rollback"):
                _everything_deployed_answers(gateway, tmp_path / "understudy.db")
            ran.append(arguments[0])
    assert len(ran) >= 10
    assert ran.count("deploy") == 2
    with SQLiteStore.open(tmp_path / "understudy.db") as store:
        (episode,) = store.read_episodes(workload="support", limit=1)
        assert [f.name for f in episode.feedback] == ["thumb"]
        assert episode.metadata == {"ticket": {"id": 17}}
        (served,) = {
            c.served
            for s in store.find_completions(alias="prod", limit=1000)
            if (c := store.read_completion(s.id)) is not None and c.output_ids and c.logprobs
        }
    assert served == ModelRef("rehearsed")  # by the engine, which gives ids and logprobs


def _run_python_block(gateway: str, folder: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block + "\nprint(reply.choices[0].message.content)"],
        cwd=folder,
        env={**_environment(), "UNDERSTUDY_BASE_URL": gateway},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Hello\n"), done.stderr  # the stand-in echoes


async def _serves_lives(url: str, path: Path) -> None:
    """The tools of the traffic are there, and a seed gives the same life again."""
    with SQLiteStore.open(path) as store:
        episodes = [e for e in store.read_episodes() if e.tools][:5]
    calls = [c for e in episodes for m in e.messages for c in m.get("tool_calls") or []]
    lives = []
    for seed in (7, 7, 8):
        session = await McpTools(f"{url}?seed={seed}").start(Scenario("s", ()), 0)
        assert {t["function"]["name"] for t in session.tools()} == {
            t["function"]["name"] for t in episodes[0].tools
        }
        lives.append([(await session.call("agent", c)).content for c in calls])
        await session.aclose()
    assert lives[0] == lives[1] != lives[2]


def _everything_deployed_answers(gateway: str, path: Path) -> None:
    """Under `prod`, each policy of the deployment answers the episodes that are drawn for it, once
    the gateway has seen the deployment."""
    with SQLiteStore.open(path) as store:
        deployed = store.deployments()["prod"]
    until = time.monotonic() + 20
    for policy, _ in deployed.shares:
        ids = (i for i in iter(uuid7, "") if draw(deployed, i) == policy)
        while _answered_by(gateway, next(ids)) != policy.name:
            assert time.monotonic() < until, f"{policy.name} does not answer under prod"


def _answered_by(gateway: str, episode_id: str) -> str:
    with OpenAI(base_url=gateway, max_retries=0) as client:
        with client.episode(id=episode_id):
            answer = client.chat.completions.create(
                model="prod", messages=[{"role": "user", "content": "Hello"}], max_tokens=8
            )
    assert answer.choices[0].message.role == "assistant"
    return answer.model


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "not-a-key"}


def _run(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    if "EPISODE" in arguments:
        listed = json.loads(_run(["episodes", "--json", "--limit", "100"], folder).stdout)
        imported = [e for e in listed if e["scenario_id"]]  # not what `eval` plays
        ids = [e["id"] for e in imported if split_of(e["scenario_id"]) == "train"]
        arguments = [ids[0] if a == "EPISODE" else a for a in arguments]
    return subprocess.run(
        [sys.executable, "-m", "understudy.cli", *arguments],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@contextmanager
def _serving(command: list[str], folder: Path) -> Iterator[str]:
    """A command that serves: it prints a line of JSON with its URL, and ends when told to."""
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert '"url"' in line, line
            yield str(json.loads(line)["url"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
