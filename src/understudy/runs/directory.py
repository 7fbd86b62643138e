"""A run is a directory: everything that is needed to read it, to continue it and to repeat it.

RUN/
  run.json         id, resolved configuration, seed, state, versions of what made it
  metrics.jsonl    one line a step; `used` says how many tokens since the line before (runs.usage)
  checkpoints/     what resuming needs: step-000010 and so on; best.json names the best
  adapter/, best/  what was trained, as it was last and as it was best; model/: all of a model
  artefacts/       what the run is for: adapters, worlds, reports, tables
  lock             held by the one process that writes
"""

import asyncio
import fcntl
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, get_args

from pydantic import BaseModel

from understudy.core.ids import uuid7
from understudy.runs.machine import versions
from understudy.runs.metrics import Metrics, MetricsLog, numbers, read_metrics
from understudy.runs.trackers import Tracker, tracker

State = Literal["running", "done", "failed", "interrupted"]
FORMAT = 1


class RunError(RuntimeError):
    """A run that cannot be created, opened or written; the message says what to do."""


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replaces a file in one step: a reader sees the old one or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """A JSON file, written atomically. Raises ValueError for numbers that JSON cannot hold."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises RunError, with the file's name, where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): begin a new run") from None


class Run:
    """One run's directory. As a context manager it ends in the state that its block ends in:
    done, failed (an exception) or interrupted (Ctrl-C, cancellation)."""

    def __init__(self, path: Path, record: dict[str, Any], lock: IO[str] | None) -> None:
        self.path = path
        self._record = record
        self._lock = lock
        self._log: MetricsLog | None = None
        self._trackers: list[Tracker] = []
        self._used: Counter[str] = Counter()  # tokens that no line tells yet
        self._watched: list[tuple[Callable[[], Mapping[str, int]], Counter[str]]] = []

    @classmethod
    def create(
        cls, path: str | Path, config: BaseModel | Mapping[str, Any], seed: int = 0
    ) -> "Run":
        """A new run, running, locked for this process.

        Raises RunError where there is a run at `path` already, or a folder that is not empty.
        """
        path = Path(path)
        if (path / "run.json").exists():
            raise RunError(f"{path} holds a run already; resume it or choose another path")
        if path.exists() and (not path.is_dir() or any(p.name != "lock" for p in path.iterdir())):
            raise RunError(f"{path} is not an empty folder; choose another path for the run")
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        resolved = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
        record = {
            "format": FORMAT,
            "id": uuid7(),
            "config": resolved,
            "seed": seed,
            "state": "running",
            "created_at": time.time(),
            "versions": versions(),
        }
        run = cls(path, record, lock)
        run._save()
        run.checkpoints.mkdir()
        run.artefacts.mkdir()
        return run

    @classmethod
    def open(cls, path: str | Path, read_only: bool = False) -> "Run":
        """An existing run: locked and running again, or only to be read.

        Raises RunError where there is no run, its format is newer, or another process writes it.
        """
        path = Path(path)
        file = path / "run.json"
        if not file.exists():
            raise RunError(f"{path} holds no run (no run.json); create it first")
        record = read_json(file)
        if record.get("format", 0) > FORMAT:
            raise RunError(f"{path} was written by a newer version; update understudy to open it")
        if read_only:
            return cls(path, record, None)
        run = cls(path, record, _lock(path))
        run._set("running")
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as JSON values."""
        return dict(self._record["config"])

    @property
    def id(self) -> str:
        """What tells it from every other run, also where its folder is moved. Of runs from before
        they had one, the time at which they were made."""
        return str(self._record.get("id", self._record["created_at"]))

    @property
    def seed(self) -> int:
        return int(self._record["seed"])

    @property
    def state(self) -> State:
        """The state; a run whose process died while it was running is interrupted."""
        state: State = self._record["state"]
        if state == "running" and self._lock is None and not _is_locked(self.path):
            return "interrupted"
        return state

    @property
    def reason(self) -> str | None:
        """Why it failed or was interrupted, where that is known."""
        return self._record.get("reason")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def artefacts(self) -> Path:
        return self.path / "artefacts"

    def log(self, step: int, **values: Any) -> None:
        """One line of metrics. Names are free; values are JSON."""
        self._writable()
        if self._log is None:
            self._log = MetricsLog(self.path / "metrics.jsonl")
        used = self._taken()
        self._log.append(step, values | ({"used": used} if used else {}))
        for other in self._trackers:
            other.log(step, numbers(values))

    def use(self, **tokens: int) -> None:
        """Tokens that the run has used, by kind: the next line of metrics tells them."""
        self._used.update(tokens)

    @property
    def unlogged(self) -> Mapping[str, int]:
        """The tokens given to `use` that no line of metrics tells yet."""
        return dict(self._used)

    def watch(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Counters of tokens that grow from now on, an engine's: each line of metrics tells by how
        much they did."""
        self._watched.append((counters, Counter(counters())))

    def _taken(self) -> dict[str, int]:
        """The tokens used since this was last asked."""
        for number, (counters, before) in enumerate(self._watched):
            now = Counter(counters())
            self._used.update({k: n - before[k] for k, n in now.items()})
            self._watched[number] = counters, now
        taken, self._used = {k: n for k, n in self._used.items() if n}, Counter()
        return taken

    def track(self, names: Sequence[str]) -> None:
        """What is logged from now on goes to these programs too (runs.trackers).

        Raises TrackerError.
        """
        self._trackers += [tracker(name, self.path, self.config) for name in names]

    def rewind(self, step: int) -> int:
        """Sets metrics after `step` aside, for resuming from its checkpoint; how many they were."""
        self._writable()
        if self._log is None:
            self._log = MetricsLog(self.path / "metrics.jsonl")
        return self._log.rewind(step)

    def metrics(self) -> Metrics:
        return read_metrics(self.path / "metrics.jsonl")

    def write_artefact(self, name: str, value: Any) -> Path:
        """Writes text, bytes or (anything else) JSON under artefacts/, atomically."""
        self._writable()
        path = self.artefacts / name
        if not path.resolve().is_relative_to(self.artefacts.resolve()):
            raise RunError(f"artefact {name!r} would leave the run's folder")
        if isinstance(value, str | bytes):
            write_atomic(path, value)
        else:
            write_json(path, value)
        return path

    def finish(self, state: State = "done", reason: str | None = None) -> None:
        """Ends the run in a state and lets go of it."""
        if state not in get_args(State) or state == "running":
            raise RunError(f"a run cannot end as {state!r}; use done, failed or interrupted")
        after = Counter(self._record.get("used", {})) + Counter(self._taken())
        if after:
            self._record["used"] = dict(after)  # what came after the last line
        self._set(state, reason)
        self.close()

    def close(self) -> None:
        """Lets go of the run without changing its state; a running one reads as interrupted."""
        while self._trackers:
            self._trackers.pop().close()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._lock is not None:
            self._lock.close()  # closing releases the lock
            self._lock = None

    def _set(self, state: State, reason: str | None = None) -> None:
        self._writable()
        self._record |= {"state": state, "changed_at": time.time(), "reason": reason}
        self._save()

    def _save(self) -> None:
        write_json(self.path / "run.json", self._record)

    def _writable(self) -> None:
        if self._lock is None:
            raise RunError(f"{self.path} is not open for writing; open it with Run.open")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is None:
            return  # finished inside the block, or only read
        if error is None:
            self.finish("done")
        elif isinstance(error, KeyboardInterrupt | asyncio.CancelledError | SystemExit):
            self.finish("interrupted", type(error).__name__)
        else:
            try:
                self.finish("failed", f"{type(error).__name__}: {error}".splitlines()[0])
            except OSError:  # a full disk: what went wrong first is what is told
                self.close()


def _lock(path: Path) -> IO[str]:
    """An advisory lock that the system releases when the process ends, however it ends."""
    file = (path / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise RunError(f"{path} is being written by {owner}; wait for it or stop it") from None
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file


def _is_locked(path: Path) -> bool:
    try:
        with (path / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
