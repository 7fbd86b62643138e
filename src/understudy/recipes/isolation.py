"""Honest rehearsal: a process that learns and trains sees the store and nothing else.

`only_the_store` installs an audit hook (PEP 578) that cannot be removed again in this process. It
refuses, with a PermissionError that names what was tried: importing the demo or the gateway,
connecting a socket, opening another SQLite database, starting another program, and opening a file
of the demo's. What the hook has refused is counted in `refused`.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORBIDDEN_MODULES = ("understudy.demo", "understudy.gateway")
DATABASES = (".db", ".sqlite", ".sqlite3", "-wal")  # read as plain files
refused: Counter[str] = Counter()


def only_the_store(stores: Sequence[Path]) -> None:
    """From here on this process may open the SQLite files `stores` and no other; see above."""
    allowed = {str(Path(p).resolve()) for p in stores}
    demo_folder = str(Path(__file__).resolve().parents[1] / "demo")

    def refuse(what: str) -> None:
        refused[what.split(" ", 1)[0]] += 1
        raise PermissionError(f"rehearsal reads the store and nothing else: {what} refused")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            if str(arguments[0]).startswith(FORBIDDEN_MODULES):
                refuse(f"import of {arguments[0]}")
        elif event == "socket.connect":
            refuse(f"connection to {arguments[1]!r}")
        elif event == "sqlite3.connect":
            path = str(arguments[0]).removeprefix("file:").split("?", 1)[0]
            if path != ":memory:" and str(Path(path).resolve()) not in allowed:
                refuse(f"database {path}")
        elif event == "open":
            if not isinstance(arguments[0], str | os.PathLike):
                return
            file = os.fspath(arguments[0])
            if str(file).startswith(demo_folder):
                refuse(f"file {file}")
            if str(file).endswith(DATABASES) and str(Path(str(file)).resolve()) not in allowed:
                refuse(f"database {file}")
        elif event in ("subprocess.Popen", "os.system", "os.posix_spawn"):
            refuse(f"program {arguments[0]!r}")

    sys.addaudithook(hook)
