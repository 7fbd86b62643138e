"""Processes that this one has started, each in a process group of its own."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path


def end_group(process: "subprocess.Popen[bytes]", grace_s: float) -> int:
    """Asks a process to end (SIGTERM), after `grace_s` seconds makes it, and with it whatever is
    left of its group; its exit code. Its standard input, where that is a pipe, is closed."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of it and of its children
    code = process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    return code


def last_line(log: Path) -> str:
    """What a log said last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(the log is empty)"
