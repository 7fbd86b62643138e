"""Features of the situation that a call meets: what may explain how it goes."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from understudy.world.data.formats import accepted
from understudy.world.data.values import columns, is_number, kind_of, same
from understudy.world.known.context import Context, ToolFacts
from understudy.world.known.memory import Key
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

_SCALARS, _LISTS, _PAIRED = 14, 6, 6  # fields of a record that are looked at; of numbers, in pairs
OF_OUTCOMES = ("amount", "size", "pair", "holds")  # they part outcomes, not the values of results
Feature = tuple[Any, ...]


def feature(f: Feature, c: Context) -> Any:
    """One feature of the situation: a bool, a number, a short text or None."""
    of_call = _OF_CALLS.get(f[0])
    if of_call is not None:
        return of_call(f, c)
    key = c.id_of(f[1])
    return None if key is None else _OF_THINGS[f[0]](f, c, key)


def _value(f: Feature, c: Context) -> Any:
    value = c.args.get(f[1])
    return value if not isinstance(value, (dict, list)) else None


def _number(f: Feature, c: Context) -> Any:
    value = c.args.get(f[1])
    return value if is_number(value) else None


def _formed(f: Feature, c: Context) -> Any:
    value = c.args.get(f[1])
    if not isinstance(value, str):
        return None
    return accepted(value, c.tool.patterns.get(f[1], ()), c.tool.refused.get(f[1], ()))


def _repeated(f: Feature, c: Context) -> Any:
    n = c.state.same.get(c.key)
    return None if n is None else c.state.calls[n].outcome


def _clash(f: Feature, c: Context) -> Any:
    met = c.clashes[f[1]] if f[1] < len(c.clashes) else None
    return None if met is None else bool(met)


_OF_CALLS: dict[str, Callable[[Feature, Context], Any]] = {
    "has": lambda f, c: f[1] in c.args,
    "kind": lambda f, c: kind_of(c.args[f[1]]) if f[1] in c.args else None,
    "val": _value,
    "num": _number,
    "fmt": _formed,
    "hits": lambda f, c: c.hits,
    "unseen": lambda f, c: c.unseen,
    "clash": _clash,
    "miss": lambda f, c: bool(c.tool.missing(c.args)),
    "extra": lambda f, c: bool(c.tool.extra(c.args)),
    "done": lambda f, c: f[1] in c.state.last,
    "rep": _repeated,
    "n": lambda f, c: len(c.state.calls),
}


def _touched_before(f: Feature, c: Context, key: Key) -> Any:
    thing = c.state.things.get(key)
    return thing is not None and f[2] in thing.touched


def _touched_by(f: Feature, c: Context, key: Key) -> Any:
    thing = c.state.things.get(key)
    touched = thing.touched if thing else {}
    return max(touched, key=touched.__getitem__) if touched else None


def _since(f: Feature, c: Context, key: Key) -> Any:
    thing = c.state.things.get(key)
    return None if thing is None else len(c.state.calls) - thing.first


def _failed_elsewhere(f: Feature, c: Context, key: Key) -> Any:
    thing = c.state.things.get(key)
    failed = thing.failed.items() if thing else ()
    return next((v for t, v in failed if t != c.tool.name), None)


def _failed_here(f: Feature, c: Context, key: Key) -> Any:
    thing = c.state.things.get(key)
    return thing.failed.get(c.tool.name) if thing else None


def _field(f: Feature, c: Context, key: Key) -> Any:
    found = c.state.field(key, f[2])
    return found[0] if found and not isinstance(found[0], (dict, list)) else None


def _holds(f: Feature, c: Context, key: Key) -> Any:
    own = c.state.fields(key)
    return f[2] in own if own else None


def _amount(f: Feature, c: Context, key: Key) -> Any:
    found = c.state.field(key, f[2])
    return found[0] if found and is_number(found[0]) else None


def _size(f: Feature, c: Context, key: Key) -> Any:
    found = c.state.field(key, f[2])
    return len(found[0]) if found and isinstance(found[0], list) else None


def _paired(f: Feature, c: Context, key: Key) -> Any:
    one, other = (_OF_THINGS[head](("", f[1], name), c, key) for head, name in (f[2:4], f[4:6]))
    return None if one is None or other is None else _sign(one, other)


def _sign(one: float, other: float) -> str:
    return "<" if one < other else ">" if one > other else "="


def _together(f: Feature, c: Context, key: Key) -> Any:
    value = c.args.get(f[2])
    return c.state.together(key[1], value) if isinstance(value, str) else None


def _compared(f: Feature, c: Context, key: Key) -> Any:
    found, value = c.state.field(key, f[3]), c.args.get(f[2])
    if found is None or value is None:
        return None
    if is_number(found[0]) and is_number(value):
        return _sign(value, found[0])
    return same(found[0], value)


def _within(f: Feature, c: Context, key: Key) -> Any:
    value = c.args.get(f[2])
    if not isinstance(value, str):
        return None
    own = c.state.fields(key)
    return any(v == value for _, v in columns(own)) or any(
        isinstance(v, dict) and value in v for v in own.values()
    )


_OF_THINGS: dict[str, Callable[[Feature, Context, Key], Any]] = {
    "known": lambda f, c, key: c.state.standing(key),
    "near": lambda f, c, key: c.state.standing(key) == "new" and c.state.near(key[1]),
    "prev": _touched_before,
    "by": _touched_by,
    "since": _since,
    "idfail": _failed_elsewhere,
    "ownfail": _failed_here,
    "field": _field,
    "amount": _amount,
    "holds": _holds,
    "size": _size,
    "pair": _paired,
    "with": _together,
    "cmp": _compared,
    "in": _within,
}
"""Features of the thing that argument f[1] names."""


Number = tuple[str, str]  # ("amount", a number) or ("size", a list, which counts as its length)


@dataclass(slots=True)
class Fields:
    """What the records of a kind of thing hold that may explain an outcome."""

    kinds: dict[str, str] = field(default_factory=dict)  # scalars: "number" or "text"
    lists: list[str] = field(default_factory=list)
    pairs: list[tuple[Number, Number]] = field(default_factory=list)
    """Numbers of which not always the same one is the larger."""
    seldom: list[str] = field(default_factory=list)  # what some records of a tool have not


def feature_names(
    tool: ToolFacts, ids: dict[str, str], fields: Mapping[str, Fields]
) -> list[Feature]:
    """The features that may explain a tool's outcomes; `fields` has what the things of each id
    argument hold."""
    names: list[Feature] = [("miss",), ("extra",), ("unseen",), ("hits",), ("rep",), ("n",)]
    for p in tool.known:
        names += [("has", p), ("kind", p)]
        if p in tool.categorical:
            names.append(("val", p))
        if p in tool.patterns:
            names.append(("fmt", p))
        if p in tool.numeric:
            names.append(("num", p))
    names += [("done", t) for t in tool.tools]
    for p in ids:
        names += [("known", p), ("near", p), ("by", p), ("since", p), ("idfail", p)]
        names.append(("ownfail", p))
        names += [("prev", p, t) for t in tool.tools]
        own = fields.get(p, Fields())
        for name, kind in own.kinds.items():
            names.append(("field", p, name))
            if kind == "number":
                names.append(("amount", p, name))
            for q in tool.known:
                if q != p and (kind == "number") == (q in tool.numeric):
                    names.append(("cmp", p, q, name))
        names += [("size", p, name) for name in own.lists]
        names += [("holds", p, name) for name in own.seldom]
        names += [("pair", p, *one, *other) for one, other in own.pairs]
        names += [("with", p, q) for q in ids if q != p]
        names += [("in", p, q) for q in tool.known if q != p and q not in tool.numeric]
    return names


def fields_of_things(
    all_steps: Sequence[Step], ids: Ids, of_thing: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> dict[str, Fields]:
    """What each domain's records hold: few-valued texts, numbers, lists. `of_thing`: what a tool's
    result says of the thing that its call names."""
    values: dict[str, dict[str, Counter[Any]]] = defaultdict(lambda: defaultdict(Counter))
    lists: dict[str, Counter[str]] = defaultdict(Counter)
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    shown: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for s in all_steps:
        if s.failed:
            continue
        named = list(ids.shown(s.name, s.args, s.value))
        if not named and isinstance(s.value, dict):
            held = ids.alone(s.name, s.args)
            told = of_thing(s.name, s.value)
            named = [(held[0][1], held[0][2], told)] if len(held) == 1 else []
        for domain, _, record in named:
            records[domain].append(record)
            shown[domain][s.name].update(["", *record])
            for name, item in record.items():
                if isinstance(item, list):
                    lists[domain][name] += 1
                elif not isinstance(item, dict):
                    values[domain][name][item] += 1
    found = {d: Fields() for t in ids.args.values() for d in t.values()}
    for domain in records:
        kinds = _kinds(values[domain])
        long = [name for name in lists[domain] if name not in values[domain]][:_LISTS]
        numbers = [name for name, kind in kinds.items() if kind == "number"][:_PAIRED]
        pairs = _pairs(records[domain], long, numbers)
        found[domain] = Fields(kinds, long, pairs, _seldom(shown[domain]))
    return found


def _seldom(shown: Mapping[str, Counter[str]]) -> list[str]:
    """The fields that some records of a tool have and others have not, by how often each is shown
    and, under "", how often a record is."""
    names: dict[str, None] = {}
    for own in shown.values():
        names |= dict.fromkeys(n for n, k in own.items() if 0.05 <= k / own[""] <= 0.95)
    return list(names)[:_LISTS]


def _kinds(fields: Mapping[str, Counter[Any]]) -> dict[str, str]:
    kinds = {}
    for name, seen in fields.items():
        if all(is_number(v) or v is None for v in seen):
            kinds[name] = "number"
        elif len(seen) <= 12 or len(seen) > 0.2 * sum(seen.values()):
            kinds[name] = "text"
    return dict(list(kinds.items())[:_SCALARS])


def _pairs(
    records: Sequence[dict[str, Any]], lists: Sequence[str], numbers: Sequence[str]
) -> list[tuple[Number, Number]]:
    signs: dict[tuple[Number, Number], set[str]] = defaultdict(set)
    for record in records:
        held: dict[Number, float] = {
            ("size", n): len(record[n]) for n in lists if isinstance(record.get(n), list)
        }
        held |= {("amount", n): record[n] for n in numbers if is_number(record.get(n))}
        for one, other in combinations(held, 2):
            signs[one, other].add(_sign(held[one], held[other]))
    return [pair for pair, seen in signs.items() if len(seen) > 1]
