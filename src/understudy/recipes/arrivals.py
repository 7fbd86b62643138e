"""Episodes as they arrive: a fixed set at once, or those of a store that grows.

What a run was given, and before which of its steps, is written down, a line each time: a resumed
run is given the same again before it looks for more. What had arrived before its checkpoint the
checkpoint has seen; of that, only what is still to be learned from is read again.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from understudy.core.types import Episode
from understudy.recipes.checkpoints import ARRIVED
from understudy.runs.directory import Run
from understudy.runs.metrics import cut_torn_line


class Source(Protocol):
    """Where episodes come from. `poll` gives those that are new since the last call, in order, but
    never those that were `known` beforehand; `read` gives one of those, None where it is gone.
    `ends`: nothing more will come."""

    ends: bool
    counted: Counter[str]  # what was passed by, and why

    def poll(self) -> list[Episode]: ...

    def known(self, ids: Iterable[str]) -> None: ...

    def read(self, episode_id: str) -> Episode | None: ...


class Given:
    """A fixed set of episodes, all there from the beginning."""

    ends = True

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._episodes = {e.id: e for e in episodes}
        self._new = list(self._episodes)
        self.counted: Counter[str] = Counter()

    def poll(self) -> list[Episode]:
        new, self._new = self._new, []
        return [self._episodes[i] for i in new]

    def known(self, ids: Iterable[str]) -> None:
        apart = set(ids)
        self._new = [i for i in self._new if i not in apart]

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

    def known(self, ids: Iterable[str]) -> None:
        self._given.update(ids)

    def read(self, episode_id: str) -> Episode | None:
        found: Episode | None = self.store.read_episode(episode_id)
        return found

    def _give(self, episode_id: str, to: list[Episode]) -> None:
        self._given.add(episode_id)
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
    """What has arrived before each step of a run that begins at step `begin`, from a source or as
    it is written down. `seen` are the ids that its checkpoint has seen: those of earlier steps,
    of the run that it was forked from too."""

    def __init__(self, source: Source, run: Run, begin: int) -> None:
        self.source, self.run, self.file = source, run, run.artefacts / ARRIVED
        cut_torn_line(self.file)  # its process died: what it named arrives again
        text = self.file.read_text() if self.file.exists() else ""
        try:
            lines = [json.loads(line) for line in text.splitlines()]
        except ValueError as error:
            raise ValueError(f"{self.file} is damaged ({error}): begin a new run") from None
        self.seen = [i for line in lines if line["step"] < begin for i in line["ids"]]
        self._due = [line for line in lines if line["step"] >= begin]
        self._polled = any(not line.get("forked") for line in lines)
        source.known(i for line in lines for i in line["ids"])

    def before(self, step: int) -> list[Episode]:
        """What arrived since it was last asked, up to this step. Raises ValueError where some of
        what is written down is gone."""
        due = [line for line in self._due if line["step"] <= step]
        self._due = self._due[len(due) :]
        found = [e for line in due for e in self.read(line["ids"])]
        if self._due or (self._polled and self.source.ends):
            return found
        new = self.source.poll()
        if new or not self._polled:
            with self.file.open("a") as out:
                out.write(json.dumps({"step": step, "ids": [e.id for e in new]}) + "\n")
        self._polled = True
        return [*found, *new]

    def read(self, ids: Iterable[str]) -> list[Episode]:
        """Episodes that had arrived. Raises ValueError for one that is gone."""
        found = []
        for episode_id in ids:
            episode = self.source.read(episode_id)
            if episode is None:
                raise ValueError(
                    f"{self.run.path} began with episode {episode_id}, which is gone: "
                    "begin a new run"
                )
            found.append(episode)
        return found


class Pool:
    """What has arrived and is still to be learned from, each episode `passes` times.

    Those that were drawn least often come first, in a random order that the seed and the step fix:
    over a fixed set that is one permutation after another. What was used that often is forgotten.
    """

    def __init__(self, passes: int, seed: int) -> None:
        self.passes, self.seed = passes, seed
        self.items: dict[str, Any] = {}
        self.uses: dict[str, int] = {}  # of the items

    def add(self, items: Iterable[Any], uses: Mapping[str, int] | None = None) -> None:
        """New ones, or with `uses` those that were used so often already."""
        for item in items:
            self.items[item.id], self.uses[item.id] = item, (uses or {}).get(item.id, 0)

    def drop(self, ids: Iterable[str]) -> None:
        for item_id in ids:
            del self.items[item_id], self.uses[item_id]

    def draw(self, count: int, step: int) -> list[Any]:
        """Up to `count` items; they are used once more."""
        rng = random.Random(f"{self.seed}/{step}")
        order = {i: (self.uses[i], rng.random()) for i in sorted(self.items)}
        chosen = sorted(order, key=lambda i: order[i])[:count]
        drawn = [self.items[i] for i in chosen]
        for item_id in chosen:
            self.uses[item_id] += 1
        self.drop(i for i in chosen if self.uses[i] >= self.passes)
        return drawn

    def left(self, arrived: int) -> float:
        """The share that is still to be done of all passes over what `arrived` so far."""
        to_do = sum(self.passes - n for n in self.uses.values())
        return to_do / max(1, to_do, self.passes * arrived)

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from, as JSON: how often what is here was used, and whatever
        arrived before and is not."""
        return {"uses": dict(self.uses), "done": self.passes}

    def unfinished(self, seen: Iterable[str], state: Mapping[str, Any]) -> dict[str, int]:
        """Of the ids that a state's run had seen, those to go on with, and how often each was used:
        what was here, and where more passes are wanted now than then, what was done with too."""
        uses, done = state.get("uses", {}), int(state.get("done", 0))
        known = {i: int(uses.get(i, done)) for i in seen}
        return {i: n for i, n in known.items() if n < self.passes}
