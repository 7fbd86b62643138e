"""Statements about a tool that its traffic bears, and the remembered calls that they are checked
against."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from understudy.world.data.values import columns
from understudy.world.known.context import Context
from understudy.world.known.state import State
from understudy.world.model import World
from understudy.world.tools import ToolModel

Kind = Literal["takes", "gives", "changes", "needs", "fails"]
_CALLS = 2000  # remembered calls of a tool that statements are checked against


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement. `about` is what it is of: an argument, a field of the result, a failure class;
    empty for the tool. `calls` could show it, `agree` of them do."""

    tool: str
    kind: Kind
    about: str
    text: str
    calls: int
    agree: int


@dataclass(frozen=True, slots=True)
class Bar:
    """What it takes to state something: calls that show it, and the share of them that agree."""

    least: int = 5
    sure: float = 0.95

    def passes(self, agree: int, calls: int) -> bool:
        return agree >= self.least and agree >= self.sure * calls


@dataclass(frozen=True, slots=True)
class Case:
    """A tool in its world, with calls of it that went well, as the world remembers them."""

    world: World
    model: ToolModel
    calls: Sequence[tuple[dict[str, Any], Any]]
    bar: Bar

    @property
    def tool(self) -> str:
        return self.model.facts.name

    def context(self, args: dict[str, Any]) -> Context:
        """A call at the beginning of a session: what is known is what the traffic remembers."""
        return self.model.context(State(self.world.ids, self.world.memory), args)

    def fact(self, kind: Kind, about: str, text: str, counts: tuple[int, int]) -> list[Fact]:
        """The statement, if (agree, calls) pass the bar; else nothing."""
        agree, calls = counts
        if not self.bar.passes(agree, calls):
            return []
        return [Fact(self.tool, kind, about, text, calls, agree)]


def case_of(world: World, model: ToolModel, bar: Bar) -> Case:
    """A tool with its remembered calls."""
    name, calls = model.facts.name, list[tuple[dict[str, Any], Any]]()
    for key, held in model.recall.items():
        args = json.loads(key.removeprefix(name))
        calls += [(args, value) for _, value in held]
        if len(calls) >= _CALLS:
            break
    return Case(world, model, calls, bar)


def tally(answers: Iterable[bool]) -> tuple[int, int]:
    """(how many are true, how many there are)."""
    found = list(answers)
    return sum(found), len(found)


def common_fields(records: Sequence[dict[str, Any]], sure: float) -> list[str]:
    """The fields that (nearly) all records have, in their order."""
    counts: dict[str, int] = {}
    for record in records:
        for name in record:
            counts[name] = counts.get(name, 0) + 1
    return [name for name, n in counts.items() if n >= sure * len(records)]


def holds(value: Any, item: Any) -> bool:
    """Whether a value has an item among its leaves."""
    return any(v == item for _, v in columns(value))
