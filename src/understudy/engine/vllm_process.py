"""A vLLM of our own: started on a free port of this machine; it and its workers end when they are
told to, or when this process is gone.

vLLM pins its own torch and transformers, so it lives in an environment of its own; `command` is
the path of its `vllm` there.
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import aiohttp

from understudy.core import children
from understudy.engine.errors import EngineError

_CAUSE = re.compile(r"\b(\w*(?:Error|Exception|Interrupt)): (?!Engine core initialization failed)")
_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\)\s*)?(?:[A-Z]+ [\d-]+ [\d:]+ \[\S+\]\s*)?")


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM is started. `more` are further arguments of `vllm serve`, taken last."""

    command: str = "vllm"
    max_loras: int = 8  # adapters in one batch
    max_cpu_loras: int = 64  # adapters in memory
    max_lora_rank: int = 32
    max_logprobs: int = 20  # the most that `score` and `sample` may ask for in each place
    context: int | None = None  # tokens; None: the model's own
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    gpu_memory: float = 0.9  # the share of the GPU's memory that it takes
    ready_within_s: float = 900.0
    more: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def vllm_command(base: str, name: str, port: int, options: VllmOptions) -> list[str]:
    """The command line that serves the folder `base` under `name` as VllmEngine needs it."""
    context = () if options.context is None else ("--max-model-len", str(options.context))
    return [
        options.command, "serve", base, "--served-model-name", name,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", options.dtype,
        "--gpu-memory-utilization", str(options.gpu_memory), *context,
        "--enable-lora", "--max-loras", str(options.max_loras),
        "--max-cpu-loras", str(max(options.max_loras, options.max_cpu_loras)),
        "--max-lora-rank", str(options.max_lora_rank),
        "--max-logprobs", str(options.max_logprobs),
        "--logprobs-mode", "processed_logprobs",  # of the distribution that is sampled
        "--generation-config", "vllm",  # no sampling defaults of the model's
        "--structured-outputs-config.backend", "guidance",
        "--enable-prompt-tokens-details",  # counts of cached tokens
        *options.more,
    ]  # fmt: skip


@dataclass
class VllmProcess:
    """A vLLM that is ready. As a context manager it is ended with the block."""

    url: str
    log_path: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self, grace_s: float = 15.0) -> int:
        """Ask it to end (SIGTERM), make it after `grace_s` seconds, its workers too; its code."""
        return children.end_group(self.process, grace_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def say_to_stderr(seconds: float, line: str) -> None:
    """Shows a start: how long it has taken, and what its log said last."""
    sys.stderr.write(f"vllm, {seconds:.0f} s: {line}\n")


async def start_vllm(
    base: str,
    log_path: str | Path,
    options: VllmOptions | None = None,
    *,
    name: str | None = None,
    say: Callable[[float, str], None] = say_to_stderr,
    every_s: float = 10.0,
) -> VllmProcess:
    """Start `vllm serve` on the folder `base`, named `name` (the folder's), and return when its
    /health answers; `say` is told every `every_s` seconds.

    Raises EngineError, one line with the log's, where it is not there, dies or is not ready within
    `ready_within_s` seconds. Then, and where the wait is cancelled, nothing is left running.
    """
    options = options or VllmOptions()
    started = _spawn(base, name, Path(log_path), options)
    try:
        await _await_health(started, options.ready_within_s, say, every_s)
    except BaseException:
        started.stop(grace_s=2.0)
        raise
    return started


def _spawn(base: str, name: str | None, log_path: Path, options: VllmOptions) -> VllmProcess:
    if shutil.which(options.command) is None:
        raise EngineError(
            f"there is no command {options.command}: install 'understudy[vllm]' in an environment "
            "of its own and name its vllm"
        )
    port = _free_port()
    command = vllm_command(base, name or Path(base).resolve().name, port, options)
    own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "understudy.engine.with_parent", *command],
            stdin=subprocess.PIPE,  # closes when this process is gone
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own, **options.env},
            start_new_session=True,  # a group of its own, workers included
        )
    return VllmProcess(f"http://127.0.0.1:{port}", log_path, process)


async def _await_health(
    started: VllmProcess, within_s: float, say: Callable[[float, str], None], every_s: float
) -> None:
    begun = told = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as http:
        while not await _healthy(http, f"{started.url}/health"):
            now = time.monotonic()
            if not started.running:
                raise EngineError(
                    f"vllm ended with code {started.process.returncode} before it was ready; see "
                    f"{started.log_path}: {why(started.log_path)}"
                )
            if now - begun > within_s:
                raise EngineError(
                    f"vllm was not ready within {within_s:g} s; see {started.log_path}: "
                    f"{last_line(started.log_path)}"
                )
            if now - told >= every_s:
                told = now
                say(now - begun, last_line(started.log_path))
            await asyncio.sleep(0.2)


async def _healthy(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError):
        return False


def last_line(log: Path) -> str:
    """What a log said last, without vLLM's prefix."""
    return _PREFIX.sub("", children.last_line(log)).strip()[:300]


def why(log: Path) -> str:
    """The error that ended it: the log's last line that names one, where vLLM's own last line
    (that its engine did not start) says nothing; else its last line."""
    named = [
        line[found.start() :].strip()
        for line in log.read_text(errors="replace").splitlines()
        if (found := _CAUSE.search(line))
    ]
    return named[-1][:300] if named else last_line(log)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
