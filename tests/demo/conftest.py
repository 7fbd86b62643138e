import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

Start = Callable[..., str]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts `python -m module arguments...`; returns the URL that it prints. Ends it after."""
    started: list[subprocess.Popen[str]] = []

    def run(module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0], f"{module} said nothing"
        return str(json.loads(process.stdout.readline())["url"])

    yield run
    for process in started:
        process.terminate()
        process.wait(timeout=20)
