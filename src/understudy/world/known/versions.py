"""Results of a tool whose fields changed in the middle of a traffic: from some call on they have
other ones than before, and never as before again."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.values import call_key
from understudy.world.known.memory import Key
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

_LEAST = 5  # results before and after
_BOTH = 3  # things, or equal calls, that were answered in both forms


@dataclass(slots=True)
class Version:
    """How a tool's results changed last: after how many of them, and which fields came and went."""

    calls: int
    added: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def outdated(self, value: Any) -> bool:
        """Whether a result is as they were before."""
        return isinstance(value, dict) and (
            any(n in value for n in self.gone) or any(n not in value for n in self.added)
        )

    def renewed(self, value: dict[str, Any]) -> list[str]:
        """The fields that such a result would have now."""
        return sorted({*value, *self.added} - set(self.gone))

    def text(self, tool: str) -> str:
        """The change in words."""
        signs = [f"+ {n}" for n in self.added] + [f"- {n}" for n in self.gone]
        return f"The result of {tool} changed after {self.calls} calls: {', '.join(signs)}."


def mine(steps: Sequence[Step], ids: Ids) -> dict[str, Version]:
    """The changes, by tool. `steps` are in the order of time."""
    by_tool: dict[str, list[Step]] = defaultdict(list)
    for s in steps:
        if not s.failed and isinstance(s.value, dict):
            by_tool[s.name].append(s)
    found = {tool: version for tool, own in by_tool.items() if (version := _version(own))}
    return {tool: v for tool, v in found.items() if _met_both(by_tool[tool], v, ids)}


def _version(own: Sequence[Step]) -> Version | None:
    """What came and went at once, the last time that something did."""
    cuts: dict[int, Version] = {}
    for name in dict.fromkeys(n for s in own for n in s.value):
        having = [name in s.value for s in own]
        cut = having.index(not having[0]) if not all(h == having[0] for h in having) else 0
        if min(cut, len(own) - cut) >= _LEAST and all(h != having[0] for h in having[cut:]):
            version = cuts.setdefault(cut, Version(cut))
            (version.gone if having[0] else version.added).append(name)
    return cuts[max(cuts)] if cuts else None


def _met_both(own: Sequence[Step], version: Version, ids: Ids) -> bool:
    """Whether the same things were shown in both forms: what they are does not decide it."""
    sides: tuple[set[Key | str], set[Key | str]] = set(), set()
    for s in own:
        named: set[Key | str] = {(d, v) for _, d, v in ids.of_args(s.name, s.args)}
        sides[version.outdated(s.value)].update(named or {call_key(s.name, s.args)})
    return len(sides[0] & sides[1]) >= _BOTH
