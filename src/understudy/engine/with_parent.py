"""Runs a command that ends when the process that started it is gone, killed or not.

`python -m understudy.engine.with_parent COMMAND ...`, with standard input a pipe that the starting
process holds open, and in a process group of its own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

GRACE_S = 15.0


def main(command: Sequence[str]) -> int:
    """Its exit code; 128 and the signal's number where a signal ended it."""
    child = subprocess.Popen(list(command), stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    alone = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        alone.set()
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    if alone.is_set():  # whichever of the two threads wakes first
        os.killpg(0, signal.SIGKILL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
