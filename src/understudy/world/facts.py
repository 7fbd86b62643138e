"""Statements about a tool that its traffic bears, and the remembered calls that they are checked
against."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from understudy.world.context import Context, Source
from understudy.world.model import World
from understudy.world.state import State
from understudy.world.tools import ToolModel
from understudy.world.values import columns, unescape

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


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def value_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def path_text(path: str) -> str:
    """A path in a result, list positions left open: the field, and what it is in."""
    *outer, last = [unescape(part) for part in path.split("/")[1:] if part != "#"] or [""]
    return f"`{last}` in {quoted(reversed(outer))}" if outer else f"`{last}`"


_OPERATORS = {"*": "times", "+": "plus", "-": "minus"}


def source_text(source: Source) -> str | None:
    """What a value is made of, in words; None where that is more than a line can say."""
    head = source[0]
    if head == "arg":
        return path_text(source[1])
    if head == "out":
        return f"{path_text(source[1])} of the result"
    if head == "const":
        return value_text(source[1])
    if head == "ref" and len(source) == 3:
        return f"`{source[2]}` of the record that `{source[1]}` names"
    if head in ("sum", "count", "op", "total"):
        parts = [source_text(x) for x in source[1:] if isinstance(x, tuple)]
        if not parts or any(p is None for p in parts):
            return None
        if head == "sum":
            return f"the sum of `{source[2]}` over {parts[0]}"
        if head == "count":
            return f"the number of items of {parts[0]}"
        word = _OPERATORS[source[1]] if head == "op" else "times"
        return f"{parts[0]} {word} {parts[1]}"
    return None


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
