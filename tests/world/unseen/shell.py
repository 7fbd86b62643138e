"""A store of files that answers as a shell does: paths as identifiers, contents and listings as
plain text, failures as text."""

import random
from typing import Any

from unseen.playing import Agent, Refused, Service

FOLDERS = ["/docs", "/src", "/logs", "/tmp"]
NAMES = ["readme.md", "notes.txt", "main.py", "util.py", "build.log", "todo.txt", "data.csv"]
LINES = [
    "all tests pass", "remember the milk", "import os", "id,name", "warning: low disk",
    "version = 3", "to be done", "hello world",
]  # fmt: skip


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("shell")
    files = {}
    for folder in FOLDERS:
        for name in fixed.sample(NAMES, 4):
            lines = [fixed.choice(LINES) for _ in range(fixed.randrange(1, 4))]
            files[f"{folder}/{name}"] = "\n".join(lines)
    return {"files": files, "folders": list(FOLDERS)}


def _file(state: Any, path: str) -> str:
    if path in state["folders"]:
        raise Refused(f"{path}: Is a directory")
    if path not in state["files"]:
        raise Refused(f"No such file: {path}")
    return str(state["files"][path])


def ls(state: Any, path: str) -> Any:
    if path not in state["folders"]:
        raise Refused(f"No such directory: {path}")
    own = sorted(f.rpartition("/")[2] for f in state["files"] if f.rpartition("/")[0] == path)
    return "\n".join(own) if own else "(empty)"


def cat(state: Any, path: str) -> Any:
    return _file(state, path)


def write(state: Any, path: str, text: str) -> Any:
    if path.rpartition("/")[0] not in state["folders"]:
        raise Refused(f"No such directory: {path.rpartition('/')[0]}")
    state["files"][path] = text
    return f"Wrote {len(text)} bytes to {path}"


def append(state: Any, path: str, line: str) -> Any:
    state["files"][path] = _file(state, path) + "\n" + line
    return "OK"


def move(state: Any, source: str, target: str) -> Any:
    text = _file(state, source)
    if target in state["files"]:
        raise Refused(f"File exists: {target}")
    del state["files"][source]
    state["files"][target] = text
    return f"Moved {source} -> {target}"


def rm(state: Any, path: str) -> Any:
    _file(state, path)
    del state["files"][path]
    return "OK"


def stat(state: Any, path: str) -> Any:
    text = _file(state, path)
    return f"{path}: {len(text)} bytes, {len(text.splitlines())} lines"


def agent(rng: random.Random, state: Any) -> Agent:
    for folder in rng.sample(FOLDERS, 2):
        listed = yield "ls", {"path": folder}
        files = [f"{folder}/{name}" for name in listed.splitlines() if name != "(empty)"]
        for path in rng.sample(files, min(2, len(files))):
            if rng.random() < 0.7:
                yield "cat", {"path": path}
            act = rng.random()
            if act < 0.25:
                yield "append", {"path": path, "line": rng.choice(LINES)}
                yield rng.choice(["cat", "stat"]), {"path": path}
            elif act < 0.45:
                target = f"{rng.choice(FOLDERS)}/{rng.choice(NAMES)}"
                yield "move", {"source": path, "target": target}
                yield "cat", {"path": rng.choice([path, target])}
            elif act < 0.65:
                yield "rm", {"path": path}
                if rng.random() < 0.6:
                    yield "cat", {"path": path}
                if rng.random() < 0.3:
                    yield "rm", {"path": path}
            elif act < 0.8:
                yield "stat", {"path": path}
        if rng.random() < 0.7:
            text = "\n".join(rng.sample(LINES, rng.randrange(1, 3)))
            new = f"{folder}/{rng.choice(['new', 'draft', 'copy'])}{rng.randrange(1, 9)}.txt"
            yield "write", {"path": new, "text": text}
            yield rng.choice(["cat", "stat"]), {"path": new}
        if rng.random() < 0.6:
            yield "ls", {"path": folder}
    if rng.random() < 0.3:
        yield "cat", {"path": rng.choice([*FOLDERS, "/docs/missing.md", "/etc/passwd"])}


def malformed(what: str, tool: str, argument: str) -> str:
    words = {"extra": "unknown option", "missing": "missing operand", "type": "bad operand"}
    return f"{tool}: {words[what]} {argument}"


SERVICE = Service(
    "shell", start, {f.__name__: f for f in (ls, cat, write, append, move, rm, stat)},
    agent, malformed,
)  # fmt: skip
