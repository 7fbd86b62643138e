"""Commands of these tests that speak MCP, and what they need of this process's environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# an MCP client hands on few variables; hashes of another seed show that nothing depends on them
ENV = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"} | {
    name: os.environ[name] for name in ("PYTHONPATH", "VIRTUAL_ENV") if name in os.environ
}
WAREHOUSE = [sys.executable, str(Path(__file__).with_name("warehouse_mcp.py")), "{seed}"]


def serve_command(folder: Path, *options: str) -> list[str]:
    """The command that serves a world."""
    return [sys.executable, "-m", "understudy.cli", "world", "serve", str(folder), *options]


@contextmanager
def printing_url(command: list[str]) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """A command of ours that serves over HTTP: the URL that it prints, and its process."""
    with subprocess.Popen(
        [sys.executable, "-m", "understudy.cli", *command],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **ENV},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["url"]), process
        finally:
            process.kill()


@contextmanager
def serving(folder: Path, *options: str) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """A world over HTTP: its URL and its process."""
    command = ["world", "serve", str(folder), "--http", "127.0.0.1:0", *options]
    with printing_url(command) as served:
        yield served
