"""The demo's processes that learn and prove: they end with whoever waits for them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.core.allocator import advised
from understudy.runs.machine import PeakMemory


@dataclass(frozen=True, slots=True)
class Job:
    """A process that does one thing and ends. `what` it does is for the message of a failure."""

    what: str
    process: "subprocess.Popen[str]" = field(repr=False)
    log: Path | None

    def output(self) -> str:
        """What it printed, once it has ended. Raises RuntimeError with its last words where it
        failed."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            words = self.log.read_text().strip().splitlines()[-1:] if self.log else []
            raise RuntimeError(f"{self.what} failed: {words[0] if words else 'see above'}")
        return output or ""


@contextlib.contextmanager
def jobs(memory: PeakMemory) -> Iterator[Callable[..., Job]]:
    """`start(what, command)` starts a process. Those that still run when the block ends, however
    it ends, are ended."""
    with contextlib.ExitStack() as stack:

        def start(
            what: str,
            command: Sequence[str],
            *,
            log: Path | None = None,
            threads: int | None = None,
            stdout: Any = subprocess.PIPE,
        ) -> Job:
            """Its errors and progress go to the terminal, or to `log`."""
            environment = {**os.environ, **advised()}
            if threads is not None:
                environment["OMP_NUM_THREADS"] = str(threads)
            errors = stack.enter_context(log.open("ab")) if log else None
            with signals_held():  # none comes between a process and what ends it
                process = subprocess.Popen(
                    list(command), stdout=stdout, stderr=errors, env=environment, text=True
                )
                stack.callback(_end, process)
            memory.add(process.pid)
            return Job(what, process, log)

        yield start


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """What interrupts this process takes effect after the block. For the main thread."""
    came: list[int] = []
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    handled = {s: handler for s, handler in kept.items() if callable(handler)}
    for held in handled:
        signal.signal(held, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for held, handler in handled.items():
            signal.signal(held, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
