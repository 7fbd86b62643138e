"""Lists of a thing to which calls add a record each: the entries of an account, with the balance
that each left; the history of an order.

What a list shows again is longer by a record for each call in between that adds one. What the
fields of such a record are is looked for in the call, in the thing as the call left it (a running
total is a field of it), and in the record before.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.world.data.amounts import CENT, amount, call_values, with_pairs
from understudy.world.data.values import is_number, same
from understudy.world.known.memory import Key
from understudy.world.known.walk import Walk
from understudy.world.results import settings
from understudy.world.results.rules import Effect, Role, Rule, addressed, shifted
from understudy.world.results.settings import Held
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

EMPTY = ("empty",)  # the value of the rule of a list that every thing begins without records
Record = dict[str, Any]
Adder = tuple[str, Role, str]  # tool, role, list
_LEAST, _SURE = 3, 0.9
_WAYS = 3  # ways to a field's value, each for what those before it do not know
_AHEAD = 3  # what a number may be more than one that the call says


@dataclass(slots=True)
class Made:
    """What a record may be made of: a call, and the fields of the thing as it left it."""

    args: dict[str, Any]
    result: Any
    held: Held  # what was known of the things that the call names
    after: dict[str, Any]


@dataclass(slots=True)
class _Added:
    """A record that a call added, and the one before it."""

    made: Made
    record: Record
    last: Record | None


@dataclass(slots=True)
class _Sight:
    """A list that is shown: its records since its last sight, and the calls since then that named
    the thing. `first`: nothing of the episode showed it before."""

    name: str
    calls: list[tuple[str, Role, Made]]
    added: list[Any]
    last: Record | None
    first: bool

    @property
    def adders(self) -> list[Adder]:
        return [(tool, role, self.name) for tool, role, _ in self.calls]


def mine(
    episodes: Sequence[Sequence[Step]],
    ids: Ids,
    walk: Walk,
) -> dict[str, list[Effect]]:
    """The lists that each tool adds to, as effects."""
    sights: list[_Sight] = []
    for episode in episodes:
        sights += _sights(episode, ids, walk)
    idle = {a for a, n in _alone(sights).items() if len(n) >= _LEAST and not any(n)}
    empty = _begin_empty(sights, idle)
    alone = _alone([s for s in sights if not s.first or s.name in empty], idle)
    adders = {a for a, n in alone.items() if n.count(1) >= max(_LEAST, _SURE * len(n))}
    samples: dict[Adder, list[_Added]] = defaultdict(list)
    for sight in sights:
        own = [call for call, a in zip(sight.calls, sight.adders, strict=True) if a in adders]
        if len(own) != len(sight.added) or (sight.first and sight.name not in empty):
            continue
        last = sight.last
        for (tool, role, made), record in zip(own, sight.added, strict=True):
            samples[tool, role, sight.name].append(_Added(made, record, last))
            last = record
    found: dict[str, list[Effect]] = defaultdict(list)
    for (tool, role, name), added in samples.items():
        rule = _rule(added)
        if rule is not None:
            rule.value = EMPTY if name in empty else ()
            found[tool].append(Effect(role, {name: rule}))
    return dict(found)


def _sights(
    episode: Sequence[Step],
    ids: Ids,
    walk: Walk,
) -> Iterator[_Sight]:
    calls: dict[Key, list[tuple[str, Role, Made]]] = defaultdict(list)
    known: dict[tuple[Key, str], tuple[list[Any], int]] = {}
    state = walk.start(episode[0]) if episode else None
    for s in episode:
        assert state is not None
        c = walk.context(s, state)
        held = settings.held(c)
        shown = [] if s.failed or isinstance(s.value, str) else ids.shown(s.name, s.args, s.value)
        told = set()
        for domain, item, record in shown:
            key = domain, item
            for name, items in record.items():
                if not isinstance(items, list) or not all(isinstance(r, dict) for r in items):
                    continue
                told.add(key)
                before, n = known.get((key, name), ([], 0))
                if items[: len(before)] == before:
                    last, first = before[-1] if before else None, (key, name) not in known
                    yield _Sight(name, calls[key][n:], items[len(before) :], last, first)
                known[key, name] = items, len(calls[key])
        walk.past(s, c)
        if s.failed:
            continue
        named: dict[Key, Role] = {}
        for role, key in addressed(c):
            if key not in told:
                named.setdefault(key, role)
        for key, role in named.items():
            made = Made(s.args, s.value, held, state.fields(key))
            calls[key].append((s.name, role, made))


def _alone(sights: Sequence[_Sight], idle: Container[Adder] = ()) -> dict[Adder, list[int]]:
    """How many records came with each call that alone named its thing, idle ones aside."""
    found: dict[Adder, list[int]] = defaultdict(list)
    for s in sights:
        named = [a for a in s.adders if a not in idle]
        if len(named) == 1:
            found[named[0]].append(len(s.added))
    return found


def _begin_empty(sights: Sequence[_Sight], idle: Container[Adder]) -> set[str]:
    """The lists without records where none but idle calls have named their thing."""
    begun: dict[str, list[bool]] = defaultdict(list)
    for s in sights:
        if s.first and all(a in idle for a in s.adders):
            begun[s.name].append(not s.added)
    return {n for n, own in begun.items() if len(own) >= _LEAST and sum(own) >= _SURE * len(own)}


def _rule(added: Sequence[_Added]) -> Rule | None:
    """How a record is made; None where a field of it is not explained."""
    forms = Counter(tuple(a.record) for a in added)
    form, n = forms.most_common(1)[0]
    if n < max(_LEAST, _SURE * len(added)):
        return None
    rule = Rule("log")
    for name in form:
        ways = _ways(name, [a for a in added if tuple(a.record) == form])
        if not ways:
            return None
        rule.inner += [("", name, way) for way in ways]
    return rule


_COST = ("set", "own", "+", "-", "above", "run")


def _ways(name: str, added: Sequence[_Added]) -> list[Rule]:
    """The ways to a field's value, the surest of the simplest first; none where they leave more
    than few records unexplained."""
    hits: Counter[str] = Counter()
    had: Counter[str] = Counter()
    right: list[set[str]] = []
    able: list[set[str]] = []
    rules: dict[str, Rule] = {}
    for a in added:
        found = {repr((r.kind, r.value, r.by)): (r, v) for r, v in _candidates(name, a)}
        rules |= {key: r for key, (r, _) in found.items()}
        able.append(set(found))
        right.append({key for key, (_, v) in found.items() if _equal(v, a.record[name])})
        had.update(able[-1])
        hits.update(right[-1])
    sure = {k for k, n in hits.items() if n >= max(_LEAST, _SURE * had[k])}
    ways: list[str] = []
    left = list(range(len(added)))
    explained = 0
    while left and len(ways) < _WAYS:
        new = Counter(k for i in left for k in right[i] & sure)
        if not new:
            break
        best = max(new, key=lambda k: (new[k], -_COST.index(rules[k].kind), k))
        ways.append(best)
        explained += new[best]
        left = [i for i in left if best not in able[i]]
    return [rules[k] for k in ways] if explained >= _SURE * len(added) else []


def _candidates(name: str, a: _Added) -> Iterator[tuple[Rule, Any]]:
    """(way, value) of all that a field of an added record may be made of."""
    m, item = a.made, a.record[name]
    for source, value in settings.said(m.args, m.result, m.held).items():
        yield Rule("set", source), value
    yield Rule("set", ("const", json.dumps(item))), item
    for own, value in m.after.items():
        yield Rule("own", (own,)), value
    if not is_number(item):
        return
    values = call_values(m.args, m.result)
    for source, value in (values | with_pairs(values)).items():
        if is_number(value):
            yield Rule("+", source), value
            yield Rule("-", source), -value
            if isinstance(value, int):
                yield from (
                    (Rule("above", source, str(k)), value + k) for k in range(1, _AHEAD + 1)
                )
    for other, value in a.record.items():
        if other != name and is_number(value) and a.last and is_number(a.last.get(name)):
            yield Rule("run", (other,)), round(a.last[name] + value, 2)


def _equal(a: Any, b: Any) -> bool:
    if is_number(a) and is_number(b):
        return abs(a - b) < CENT
    return bool(a == b) if isinstance(a, (dict, list)) else same(a, b)


def grown(before: Any, rule: Rule, made: Made) -> tuple[list[Any]] | None:
    """A list with the record that a call adds; None where a field of it is not known."""
    if not isinstance(before, list):
        return None
    last = before[-1] if before and isinstance(before[-1], dict) else {}
    names = list(dict.fromkeys(name for _, name, _ in rule.inner))
    record: Record = {}
    for late in (False, True):  # what runs on is made of the record's other fields
        for name in names:
            ways = [way for _, own, way in rule.inner if own == name]
            known = (_value(way, made, record, last.get(name)) for way in ways
                     if late or way.kind != "run")  # fmt: skip
            found = next((v for v in known if v is not None), None)
            if found is not None and name not in record:
                record[name] = found[0]
    if len(record) < len(names):
        return None
    return ([*before, {name: record[name] for name in names}],)


def _value(way: Rule, made: Made, record: Record, last: Any) -> tuple[Any] | None:
    if way.kind == "set":
        said = settings.said(made.args, made.result, made.held)
        return settings.value_of((way.value[0], way.value[1]), said)
    if way.kind == "own":
        return (made.after[way.value[0]],) if way.value[0] in made.after else None
    if way.kind == "run":
        other = record.get(way.value[0])
        return (round(last + other, 2),) if is_number(last) and is_number(other) else None
    values = call_values(made.args, made.result)
    if way.kind == "above":
        number = amount(way.value, values)
        return None if number is None else (number + int(way.by),)
    signed = shifted(0, way, values)
    return None if signed is None else (signed,)
