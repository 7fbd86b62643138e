"""What the demo has done so far, on disk: Ctrl-C loses at most the stage that it hit."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from understudy.runs.directory import write_json


class Stages:
    """Stages run in order; a finished one is not run again. Results and seconds are JSON.

    The time of every attempt, all of it, and the highest memory of any (`peak_mb` tells it as it
    is now) are kept beside them whenever a stage ends, however it ends.

    A folder that was begun with another `setting` is started clean, and said so. One that holds
    anything but a demo is left alone: ValueError.
    """

    def __init__(
        self,
        folder: Path,
        setting: dict[str, Any],
        fresh: bool,
        say: Callable[[str], None],
        peak_mb: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._started, self._peak_mb = time.monotonic(), peak_mb
        self.folder, self.say = folder, say
        self.file = folder / "state.json"
        known = self._read()
        if known is None and folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something else than a demo; choose another --out")
        if known is not None and (fresh or known["setting"] != setting or known.get("finished")):
            why = "as asked" if fresh else "finished" if known.get("finished") else "other settings"
            say(f"starting clean in {folder} (what was there: {why})")
            known = None
        elif known is not None:
            done = ", ".join(known["results"]) or "nothing"
            say(f"going on in {folder}: {done} done already; --fresh starts clean")
        if known is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            known = {"setting": setting, "results": {}, "seconds": {}}
        self._known: dict[str, Any] = known
        self._elapsed_before: float = known.get("elapsed", 0.0)
        self._save()

    def run(self, name: str, work: Callable[[], Any], goes_on: bool = False) -> Any:
        """The stage's result: from disk where it is done, else by `work()`.

        Where `work` goes on where it was interrupted, the seconds of every attempt count.
        """
        results, seconds = self._known["results"], self._known["seconds"]
        if name not in results:
            started, before = time.monotonic(), seconds.get(name, 0.0) if goes_on else 0.0
            try:
                results[name] = work()
            finally:
                if goes_on or name in results:
                    seconds[name] = round(before + time.monotonic() - started, 1)
                self._save()
        return results[name]

    @property
    def results(self) -> dict[str, Any]:
        return dict(self._known["results"])

    @property
    def seconds(self) -> dict[str, float]:
        return dict(self._known["seconds"])

    @property
    def elapsed(self) -> float:
        """Seconds of all attempts, with all that they did beside the stages."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def peak_mb(self) -> float:
        """The highest memory of any attempt, in MiB."""
        return max(float(self._known.get("peak_mb", 0.0)), self._peak_mb())

    def done(self, name: str) -> bool:
        return name in self._known["results"]

    def finish(self) -> None:
        """Marks the folder: the next demo there starts clean."""
        self._known["finished"] = True
        self._save()

    def _read(self) -> dict[str, Any] | None:
        try:
            known = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(known, dict):
            return None
        ours = all(isinstance(known.get(k), dict) for k in ("setting", "results", "seconds"))
        return known if ours else None

    def _save(self) -> None:
        self._known |= {"elapsed": round(self.elapsed, 1), "peak_mb": round(self.peak_mb, 1)}
        write_json(self.file, self._known)
