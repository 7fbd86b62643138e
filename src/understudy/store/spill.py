"""Where records wait when the database cannot take them: JSON lines in files beside it.

Each process appends to a file of its own, which it holds locked; whoever finds one unlocked
replays it. Replaying twice is harmless: records are idempotent by id.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from understudy.core.ids import uuid7
from understudy.core.serial import (
    completion_from_json,
    completion_to_json,
    episode_from_json,
    episode_to_json,
    feedback_from_json,
    feedback_to_json,
)
from understudy.core.types import Completion, Episode, Feedback

Record = Completion | Feedback | Episode


def record_to_line(record: Record) -> str:
    if isinstance(record, Completion):
        return json.dumps({"completion": completion_to_json(record)})
    if isinstance(record, Feedback):
        return json.dumps({"feedback": feedback_to_json(record)})
    return json.dumps({"episode": episode_to_json(record)})


def record_from_line(line: str) -> Record:
    """Raises ValueError for a line that is none (a crash may cut the last one)."""
    data: dict[str, Any] = json.loads(line)
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("not a spilled record")
    if "completion" in data:
        return completion_from_json(data["completion"])
    if "feedback" in data:
        return feedback_from_json(data["feedback"])
    return episode_from_json(data["episode"])


class Spill:
    """The spill file of one process. Thread-safe."""

    def __init__(self, database: str, folder: str | None = None) -> None:
        path = Path(database)
        self._folder = Path(folder) if folder is not None else path.parent
        self._stem = f"{path.name}.spill-"
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._path: Path | None = None

    @property
    def pending(self) -> bool:
        return self._file is not None

    def write(self, records: Sequence[Record]) -> None:
        """Append and fsync. Raises OSError when this disk cannot take them either."""
        text = "".join(record_to_line(r) + "\n" for r in records)
        with self._lock:
            if self._file is None:
                path = self._folder / f"{self._stem}{uuid7()}.jsonl"
                file = path.open("a", encoding="utf-8")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._path, self._file = path, file
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())

    def release(self) -> None:
        """Close this process's file, so that `orphans` finds it."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._path = self._file = None

    def waiting(self) -> list[Path]:
        """Files whose records are not in the database yet, whoever holds them."""
        return sorted(self._folder.glob(f"{self._stem}*.jsonl"))

    def orphans(self) -> Iterator[tuple[Path, IO[str]]]:
        """Files that no process holds, locked and open. The caller removes and closes them."""
        for path in sorted(self._folder.glob(f"{self._stem}*.jsonl")):
            if path == self._path:
                continue
            try:
                file = path.open("r+", encoding="utf-8")
            except FileNotFoundError:  # another process has just replayed it
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            yield path, file
