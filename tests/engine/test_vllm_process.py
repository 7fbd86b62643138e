"""Starting a vLLM and ending it, with small programs in the place of `vllm`."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.engine.errors import EngineError
from understudy.engine.vllm_process import VllmOptions, start_vllm

SERVES = """
import http.server, os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import signal, time\\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\nprint('deaf', flush=True)\\ntime.sleep(600)"],
    stdout=subprocess.PIPE)
worker.stdout.readline()
print("worker", worker.pid, "me", os.getpid(), "args", *sys.argv[1:], flush=True)
print("runtime", os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], flush=True)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
DIES = """
import sys
print("(APIServer pid=7) INFO 11-27 16:07:07 [api_utils.py:347] version 0.32.0")
print("(EngineCore pid=9) ERROR 11-27 16:09:54 [core.py:1750] ValueError: No memory for the cache.")
print("(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above.")
sys.exit(3)
"""
WAITS = "import time\nprint('(EngineCore pid=9) Loading weights', flush=True)\ntime.sleep(600)"


def program(folder: Path, text: str) -> VllmOptions:
    path = folder / "vllm"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return VllmOptions(command=str(path), ready_within_s=30.0)


def told(log: Path, word: str) -> str:
    words = log.read_text().split()
    return words[words.index(word) + 1]


def gone(pid: int) -> bool:
    """Whether a process that is no child of this one has ended, waiting for it."""
    state = Path(f"/proc/{pid}/stat")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        os.sched_yield()
    return False


async def test_it_is_served_and_ended_with_its_workers(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "vllm.log"
    with await start_vllm("some/base", log, program(tmp_path, SERVES)) as served:
        assert served.running
        worker, vllm = int(told(log, "worker")), int(told(log, "me"))
        assert told(log, "--served-model-name") == "base"
        assert told(log, "--logprobs-mode") == "processed_logprobs"
        assert told(log, "runtime") == "True"
        assert served.url.endswith(":" + told(log, "--port"))
    assert not served.running
    assert gone(worker)
    assert gone(vllm)


async def test_why_it_died_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        await start_vllm("base", tmp_path / "vllm.log", program(tmp_path, DIES))
    text = str(caught.value)
    assert text.endswith(f"{tmp_path}/vllm.log: ValueError: No memory for the cache.")
    assert "code 3" in text


async def test_what_is_not_ready_in_time_is_ended_and_meanwhile_shown(tmp_path: Path) -> None:
    options, shown = program(tmp_path, WAITS), []
    late = VllmOptions(command=options.command, ready_within_s=2.0)
    with pytest.raises(EngineError, match=r"within 2 s; see .*: Loading weights$"):
        await start_vllm(
            "base", tmp_path / "vllm.log", late, say=lambda s, line: shown.append(line), every_s=0.3
        )
    assert shown[-1] == "Loading weights"


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    options = program(tmp_path, "import os\nprint('me', os.getpid(), flush=True)\n" + WAITS)
    begun = asyncio.Event()
    task = asyncio.create_task(
        start_vllm("base", log, options, say=lambda *_: begun.set(), every_s=0.0)
    )
    while "me" not in (log.read_text() if log.exists() else ""):
        await begun.wait()
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(int(told(log, "me")))


def test_it_ends_when_the_starting_process_is_killed(tmp_path: Path) -> None:
    log, options = tmp_path / "vllm.log", program(tmp_path, SERVES)
    code = (
        "import asyncio, sys\nfrom understudy.engine.vllm_process import *\n"
        f"options = VllmOptions(command={options.command!r})\n"
        f"p = asyncio.run(start_vllm('base', {str(log)!r}, options))\n"
        "print('ready', flush=True)\nsys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"ready\n"
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    assert gone(int(told(log, "me")))
    assert gone(int(told(log, "worker")))


async def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no command nowhere/vllm: install 'understudy\[vllm\]'"):
        await start_vllm("base", tmp_path / "log", VllmOptions(command="nowhere/vllm"))
