"""What the order of a traffic's calls shows of a tool, counted: where the values of its arguments
came from, what it left changed, whether its failures pass.

Counted in one pass while a world is learned, each call against the state before it, and kept with
the world: `world.describing.describe` states nothing that these counts do not bear.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.values import columns
from understudy.world.known.context import Context
from understudy.world.known.memory import Key, idlike
from understudy.world.known.state import Past

TOLD, NOWHERE = "user", ""  # origins that are no result; a tool's are "TOOL PATH"
_VALUES = 12  # of a changed field that are told apart


@dataclass(slots=True)
class Evidence:
    """Counts of one tool's calls."""

    classes: dict[str, int] = field(default_factory=dict)  # outcome class -> calls
    repeats: dict[str, list[int]] = field(default_factory=dict)
    """Failure class -> [equal calls that followed in the episode, of these: failed alike]. Only
    where no call that went well named one of their things in between: it may have mended them."""
    origins: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Identifier argument -> where its value was first shown -> [calls, of these: went well]."""
    changes: dict[str, list[int]] = field(default_factory=dict)
    """Field -> [results that show it of a thing known before, of these: changed]. Only where no
    other call named the thing in between."""
    becomes: dict[str, dict[str, int]] = field(default_factory=dict)  # field -> JSON -> changes
    shown: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Field that this tool told -> the tool that showed it next -> [times, of these: the same]."""
    effects: dict[str, list[int]] = field(default_factory=dict)
    """Field of another thing -> [later sights of it, of these: as the learned effect says]."""


Evidences = dict[str, Evidence]


def note(evidences: Evidences, c: Context, label: str, value: Any, told: str) -> None:
    """Count one call of the traffic. `c` is the call in the state before it; `told` is what users
    said in the episode."""
    own = evidences.setdefault(c.tool.name, Evidence())
    own.classes[label] = own.classes.get(label, 0) + 1
    before = c.state.same.get(c.key)
    failure = "" if before is None else c.state.calls[before].outcome
    if before is not None and failure.startswith("err") and not _named_since(c, before):
        _count(own.repeats, failure, label == failure)
    for p, item in c.args.items():
        if idlike(item) or any(p == named for named, _, _ in c.ids):
            seen = own.origins.setdefault(p, {})
            _count(seen, _origin(item, c.state.calls, told), label.startswith("ok"))
    if label.startswith("ok") and isinstance(value, (dict, list)):
        _sights(evidences, own, c, value)


def _named_since(c: Context, n: int) -> bool:
    """Whether a call that went well named a thing of this call after call `n`."""
    own = {(domain, item) for _, domain, item in c.ids}
    return any(past.ok and not own.isdisjoint(past.ids) for past in c.state.calls[n + 1 :])


def _count(table: dict[str, list[int]], key: str, holds: bool) -> None:
    counts = table.setdefault(key, [0, 0])
    counts[0] += 1
    counts[1] += holds


def _origin(item: Any, calls: list[Past], told: str) -> str:
    """Where a value was first shown: in a result whose call did not give it, by the user."""
    for past in calls:
        if not past.ok or (isinstance(item, str) and idlike(item) and item not in past.names):
            continue
        if any(v == item for _, v in columns(past.args)):
            continue
        for path, v in columns(past.value):
            if v == item:
                return f"{past.name} {path}"
    return TOLD if str(item) in told else NOWHERE


def _sights(evidences: Evidences, own: Evidence, c: Context, value: Any) -> None:
    """What a result shows of things that the episode knew."""
    state, tool = c.state, c.tool.name
    for domain, item, record in state.ids.of_result(tool, value):
        thing = state.things.get((domain, item))
        if thing is None:
            continue
        named = _last(state.calls, (domain, item))
        for name, now in record.items():
            held = thing.fields.get(name)
            if held is None or not held[2].startswith("call ") or now == item:
                continue  # a thing's own identifier is always as it was
            before, kind, source = held
            n = int(source.removeprefix("call "))
            if named > n:
                continue
            same = before == now
            teller = evidences[state.calls[n].name]
            if kind == "inferred":
                _count(teller.effects, name, same)
                continue
            _count(own.changes, name, not same)
            _count(teller.shown.setdefault(name, {}), tool, same)
            if not same and not isinstance(now, (dict, list)):
                values = own.becomes.setdefault(name, {})
                text = json.dumps(now, ensure_ascii=False)
                if text in values or len(values) < _VALUES:
                    values[text] = values.get(text, 0) + 1


def _last(calls: list[Past], key: Key) -> int:
    """The last call that went well and named a thing; -1 where there is none."""
    numbers = range(len(calls) - 1, -1, -1)
    return next((n for n in numbers if calls[n].ok and key in calls[n].ids), -1)


def read(data: dict[str, Any]) -> Evidence:
    """Evidence from its JSON."""
    return Evidence(**data)
