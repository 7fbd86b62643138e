"""Episodes as they arrive: a fixed set at once, or those of a store that grows.

What a run was given, and before which of its steps, is written down: a resumed run is given the
same again before it looks for more.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from understudy.core.types import Episode
from understudy.runs.metrics import cut_torn_line

ARRIVED = "arrived.jsonl"


class Source(Protocol):
    """Where episodes come from. `poll` gives those that are new since the last call, in order, and
    `read` one that was given before, None where it is gone. `ends`: nothing more will come."""

    ends: bool
    counted: Counter[str]  # what was passed by, and why

    def poll(self) -> list[Episode]: ...

    def read(self, episode_id: str) -> Episode | None: ...


class Given:
    """A fixed set of episodes, all there from the beginning."""

    ends = True

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._episodes = {e.id: e for e in episodes}
        self._new = True
        self.counted: Counter[str] = Counter()

    def poll(self) -> list[Episode]:
        new, self._new = self._new, False
        return list(self._episodes.values()) if new else []

    def read(self, episode_id: str) -> Episode | None:
        return self._episodes.get(episode_id)


class Following:
    """A store's episodes, each once: as soon as it has feedback of this name, or, where the name is
    None, when its last completion is older than `patience_s`.

    An episode is waited for `patience_s` after its last completion; then the cursor passes it, and
    it is counted where nobody had said anything.
    """

    ends = False

    def __init__(
        self,
        store: Any,
        feedback: str | None,
        workload: str | None = None,
        patience_s: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.feedback, self.patience_s, self.clock = store, feedback, patience_s, clock
        self.counted: Counter[str] = Counter()
        self._where = {"workload": workload} if workload else {}
        self._cursor: str | None = None  # all up to this episode are done with
        self._given: set[str] = set()  # of those after the cursor

    def poll(self) -> list[Episode]:
        new: list[Episode] = []
        for summary in self._after(feedback=self.feedback) if self.feedback else ():
            if summary.id not in self._given:
                self._give(summary.id, new)
        settled = self.clock() - self.patience_s
        for summary in self._after():
            if (summary.finished_at or summary.started_at) > settled:
                break
            if summary.id not in self._given:
                if self.feedback is None:
                    self._give(summary.id, new)
                else:
                    self.counted[f"no feedback named {self.feedback} in time"] += 1
            self._given.discard(summary.id)
            self._cursor = summary.id
        return new

    def read(self, episode_id: str) -> Episode | None:
        found: Episode | None = self.store.read_episode(episode_id)
        self._given.add(episode_id)
        return found

    def _give(self, episode_id: str, to: list[Episode]) -> None:
        episode = self.read(episode_id)
        if episode is not None:
            to.append(episode)

    def _after(self, **query: Any) -> Iterable[Any]:
        """Summaries of the episodes after the cursor, oldest first."""
        at = self._cursor
        while True:
            page = self.store.find(newest_first=False, after=at, **self._where, **query)
            yield from page
            if not page:
                return
            at = page[-1].id


class Arrivals:
    """What has arrived before each step, from a source or as it is written down in `file`."""

    def __init__(self, source: Source, file: Path) -> None:
        self.source, self.file = source, file
        cut_torn_line(file)  # its process died: what it named arrives again
        lines = file.read_text().splitlines() if file.exists() else []
        try:
            self._known = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}): begin a new run") from None
        self._replayed = bool(lines)

    def before(self, step: int) -> list[Episode]:
        """What arrived since it was last asked, up to this step. Raises ValueError where some of
        what is written down is gone."""
        due = [line for line in self._known if line["step"] <= step]
        self._known = self._known[len(due) :]
        found = [self._read(episode_id) for line in due for episode_id in line["ids"]]
        if self._known or (self._replayed and self.source.ends):
            return found
        new = [e for e in self.source.poll() if e.id not in {f.id for f in found}]
        if new:
            with self.file.open("a") as out:
                out.write(json.dumps({"step": step, "ids": [e.id for e in new]}) + "\n")
        return [*found, *new]

    def _read(self, episode_id: str) -> Episode:
        episode = self.source.read(episode_id)
        if episode is None:
            raise ValueError(
                f"{self.file.parent.parent} began with episode {episode_id}, which is gone: "
                "begin a new run"
            )
        return episode


class Pool:
    """What has arrived and is still to be learned from, each episode `passes` times.

    Those that were drawn least often come first, in a random order that the seed and the step fix:
    over a fixed set that is one permutation after another.
    """

    def __init__(self, passes: int, seed: int) -> None:
        self.passes, self.seed = passes, seed
        self.uses: dict[str, int] = {}
        self.items: dict[str, Any] = {}

    def add(self, items: Sequence[Any]) -> None:
        for item in items:
            if self.uses.setdefault(item.id, 0) < self.passes:
                self.items[item.id] = item

    def drop(self, ids: Iterable[str]) -> None:
        for item_id in ids:
            self.items.pop(item_id, None)
            self.uses[item_id] = self.passes

    def draw(self, count: int, step: int) -> list[Any]:
        """Up to `count` items; they are used once more."""
        rng = random.Random(f"{self.seed}/{step}")
        order = {i: (self.uses[i], rng.random()) for i in sorted(self.items)}
        chosen = sorted(order, key=lambda i: order[i])[:count]
        drawn = [self.items[i] for i in chosen]
        for item_id in chosen:
            self.uses[item_id] += 1
            if self.uses[item_id] >= self.passes:
                del self.items[item_id]
        return drawn
