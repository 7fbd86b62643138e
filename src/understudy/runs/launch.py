"""Starts the processes of a run on this machine and ends them again.

A process that serves says when it is ready with one line of JSON on its standard output, which
carries at least its `url`: `{"url": "http://127.0.0.1:40321"}`. Everything else that it writes
goes to its log file.
"""

import contextlib
import json
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from understudy.core.children import end_group, last_line


class LaunchError(RuntimeError):
    """A process that did not become ready; the message ends with the last line of its log."""


@dataclass
class Launched:
    """A process that is ready. As a context manager it is ended with the block."""

    name: str
    url: str
    ready: Mapping[str, Any]  # the whole line that it printed
    log_path: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self, grace_s: float = 10.0) -> int:
        """Asks the process to end (SIGTERM), after `grace_s` seconds makes it; its exit code.

        Its children, where it leaves some, end with it.
        """
        return end_group(self.process, grace_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def launch(
    name: str,
    command: Sequence[str],
    log_path: str | Path,
    *,
    ready_within_s: float = 60.0,
    health: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> Launched:
    """Starts `command` and returns when it is ready: its line is there and, where `health` is a
    path, GET url + health answers 2xx.

    `env` is added to this process's environment. The process has its own session, so that Ctrl-C
    reaches this process alone, which then ends it in order; standard input is a pipe that closes
    when this process dies (see `end_with_parent`). Raises LaunchError, with nothing left running.
    """
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + ready_within_s
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    assert process.stdout is not None
    lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(
        target=_read_output, args=(process.stdout, log_path, lines), name=f"{name}-log", daemon=True
    ).start()
    try:
        ready = _await_line(name, process, lines, deadline, log_path)
        launched = Launched(name, str(ready["url"]), ready, log_path, process)
        if health is not None:
            _await_health(launched, health, deadline)
    except BaseException:
        end_group(process, grace_s=2.0)
        raise
    return launched


def end_with_parent() -> None:
    """For a launched process: ends it (SIGTERM) when the process that launched it is gone.

    Only where standard input is a pipe, as `launch` makes it.
    """

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this process's own Python."""
    return [sys.executable, "-m", module, *arguments]


def place() -> tuple[int, int]:
    """Which of the processes of `torchrun`, or of a launcher that sets its variables, this one is,
    from 0, and how many there are: (0, 1) where there is no launcher. Raises ValueError where the
    variables make no sense."""
    said = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if None in said:
        return 0, 1
    try:
        rank, size = (int(str(number)) for number in said)
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        what = f"RANK={said[0]} and WORLD_SIZE={said[1]}"
        raise ValueError(f"{what} make no sense; unset them, or start the command by torchrun")
    return rank, size


def wait_healthy(url: str, timeout_s: float = 30.0) -> None:
    """Waits until GET `url` answers 2xx. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while (problem := _unhealthy(url, deadline)) is not None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} is not healthy after {timeout_s:g} s ({problem})")
        time.sleep(0.05)


def _read_output(
    stream: IO[bytes], path: Path, lines: "queue.Queue[dict[str, Any] | None]"
) -> None:
    """Finds the line that says ready, writes all the rest to the log, for the process's life."""
    found = False
    with path.open("ab") as log:
        for line in stream:
            ready = None if found else _ready_line(line)
            if ready is not None:
                found = True
                lines.put(ready)
            else:
                log.write(line)
                log.flush()
    lines.put(None)


def _ready_line(line: bytes) -> dict[str, Any] | None:
    if not line.lstrip().startswith(b"{"):
        return None
    with contextlib.suppress(ValueError):
        value = json.loads(line)
        if isinstance(value, dict) and "url" in value:
            return value
    return None


def _await_line(
    name: str,
    process: "subprocess.Popen[bytes]",
    lines: "queue.Queue[dict[str, Any] | None]",
    deadline: float,
    log_path: Path,
) -> dict[str, Any]:
    try:
        ready = lines.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise LaunchError(f"{name} was not ready in time; see {log_path}") from None
    if ready is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2.0)
        raise LaunchError(
            f"{name} ended with code {process.returncode} before it was ready; "
            f"see {log_path}: {last_line(log_path)}"
        )
    return ready


def _await_health(launched: Launched, health: str, deadline: float) -> None:
    url = launched.url.rstrip("/") + health
    while (problem := _unhealthy(url, deadline)) is not None:
        if not launched.running or time.monotonic() > deadline:
            raise LaunchError(
                f"{launched.name} is not healthy ({problem}); see {launched.log_path}: "
                f"{last_line(launched.log_path)}"
            )
        time.sleep(0.05)


def _unhealthy(url: str, deadline: float) -> str | None:
    """What is wrong with GET url; None when it answers 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=max(0.1, deadline - time.monotonic())):
            return None
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))
