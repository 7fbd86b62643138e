"""`understudy world serve` as a process: it says where it is, ends when told, and refuses in one
line."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import ENV, serve_command, serving

from understudy.cli import main
from understudy.core.types import Scenario
from understudy.envs.mcp_env import McpTools, ServerFailed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_served_world_ends_with_success_while_clients_are_there(
    number: int, world_folder: Path
) -> None:
    with serving(world_folder) as (url, process):
        session = await McpTools(url).start(Scenario("s", ()), 0)
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, 10) == 0
        with pytest.raises(ServerFailed):
            await session.call(
                "agent",
                {"id": "c", "type": "function", "function": {"name": "part", "arguments": "{}"}},
            )
        await session.aclose()


def test_over_stdio_it_ends_with_its_client(world_folder: Path) -> None:
    done = subprocess.run(
        serve_command(world_folder),
        env={**os.environ, **ENV},
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--http", "0.0.0.0:0"], "host 0.0.0.0 is open to others"),
        (["--http", "8402"], "--http '8402' is not of the form HOST:PORT"),
        (["--http", "127.0.0.1:65536"], "is not of the form HOST:PORT"),
        (["--http", "127.0.0.1:{taken}"], "Address already in use"),
        (["--http", "0.0.0.0:0", "--allow-remote"], "name the variable of the key"),
        (["--http", "0.0.0.0:0", "--allow-remote", "--key-env", "NO_KEY"], "has no NO_KEY"),
        (["--key-env", "PATH"], "--key-env is for --http"),
        (["--latency", "slow"], "--latency 'slow' is neither real, none nor a factor"),
        (["--latency", "-1"], "is neither real, none nor a factor"),
        (["--latency", "nan"], "is neither real, none nor a factor"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    options: list[str],
    why: str,
    world_folder: Path,
    world_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken = world_url.rpartition(":")[2].split("/")[0]
    arguments = [o.replace("{taken}", taken) for o in options]
    assert main(["world", "serve", str(world_folder), *arguments]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert why in err


def test_no_world_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "serve", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("understudy: ")


def test_without_the_mcp_package_it_says_what_to_install(world_folder: Path) -> None:
    program = (
        "import sys; sys.modules['mcp'] = None\n"
        "from understudy.cli import main\n"
        f"sys.exit(main(['world', 'serve', {str(world_folder)!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **ENV},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = "understudy: mcp is not installed; MCP needs it: pip install 'understudy[mcp]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
