"""A world's session that keeps what was asked of it, what changed, and which calls are to fail."""

import json
import threading
from dataclasses import dataclass
from typing import Any

from understudy.core.types import ToolResult
from understudy.world.data.values import parse
from understudy.world.known.state import State
from understudy.world.language.filler import Answering, LanguageWorld
from understudy.world.model import WorldSession
from understudy.world.results.changes import of_call


@dataclass(frozen=True, slots=True)
class Change:
    """A field of a thing that a call changed (world.results.changes); `before` is None where it
    made the thing."""

    type: str
    id: Any
    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the test: what was asked, what the world answered, what it changed."""

    name: str
    arguments: Any  # parsed; the text where it is no JSON
    result: ToolResult
    failed: bool  # whether the answer says so, flagged as an error or not
    changes: tuple[Change, ...] = ()
    forced: bool = False  # by `fail_next`

    @property
    def value(self) -> Any:
        """The answer as JSON, or its text where it is none."""
        return parse(self.result.content)

    @property
    def invented(self) -> list[str]:
        """JSON pointers of the values that nothing in the traffic or the test supports."""
        return [p.path for p in self.result.provenance if p.kind == "invented"]

    def __str__(self) -> str:
        asked = json.dumps(self.arguments, ensure_ascii=False)
        flags = "failed, " * self.failed + "forced, " * self.forced
        made_up = f", invented: {' '.join(p or '(all)' for p in self.invented)}"
        sure = f"{flags}doubt {self.result.doubt:.2f}{made_up * bool(self.invented)}"
        return f"{self.name} {asked} -> {self.result.content} ({sure})"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point of a test to go back to."""

    state: State
    calls: tuple[Call, ...]
    failing: tuple[tuple[str, str], ...]


class RecordedSession(WorldSession):
    """A session for calls of any thread, of a world or of one whose gaps a model fills. `failing`
    are tools whose next calls are to fail, each with the class of outcome."""

    def __init__(self, played: Answering, seed: int, names: dict[str, str]) -> None:
        world = played.world if isinstance(played, LanguageWorld) else played
        super().__init__(world, State(world.ids, world.memory, seed), seed, tuple(world.tools()))
        self.calls: list[Call] = []
        self.failing: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self._names = names  # domain -> type
        self._owner = played if isinstance(played, LanguageWorld) else None

    def step(
        self, name: str, arguments: str, greedy: bool = False, outcome: str | None = None
    ) -> ToolResult:
        """Answer a call and note it."""
        with self.lock:
            forced = next((f for f in self.failing if f[0] == name), None)
            if forced is not None and outcome is None:
                self.failing.remove(forced)
                outcome = forced[1]
            asked, n = parse(arguments or "{}"), len(self.state.calls)
            before = self.state.copy()
            foretold = self.foretell(name, arguments, greedy, outcome)
            if self._owner is not None:
                self._owner.fill_now(foretold, self)
            result = self.take(foretold)
            past = self.state.calls[n] if len(self.state.calls) > n else None
            changes = [
                Change(self._names.get(c.key[0], c.key[0]), c.key[1], c.field, c.before, c.after)
                for c in of_call(before, self.state).fields
            ]
            self.calls.append(
                Call(
                    name,
                    asked,
                    result,
                    failed=past is None or not past.ok,
                    changes=tuple(changes),
                    forced=outcome is not None,
                )
            )
            return result

    def snapshot_now(self) -> Snapshot:
        with self.lock:
            return Snapshot(self.state.copy(), tuple(self.calls), tuple(self.failing))

    def rewind(self, to: Snapshot, seed: int) -> None:
        """Go back, and on with this seed."""
        with self.lock:
            self.state, self.seed = to.state.copy(), seed
            self.calls[:], self.failing[:] = to.calls, to.failing
