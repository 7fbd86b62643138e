"""Features of the situation that a call meets: what may explain how it goes."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from understudy.world.context import Context, ToolFacts
from understudy.world.formats import has_format
from understudy.world.ids import Ids
from understudy.world.memory import Key
from understudy.world.transitions import Step
from understudy.world.values import columns, is_number, kind_of, same

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
    return has_format(value, c.tool.patterns.get(f[1], ())) if isinstance(value, str) else None


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


def _together(f: Feature, c: Context, key: Key) -> Any:
    value = c.args.get(f[2])
    return c.state.together(key[1], value) if isinstance(value, str) else None


def _compared(f: Feature, c: Context, key: Key) -> Any:
    found, value = c.state.field(key, f[3]), c.args.get(f[2])
    if found is None or value is None:
        return None
    if is_number(found[0]) and is_number(value):
        return "<" if value < found[0] else ">" if value > found[0] else "="
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
    "with": _together,
    "cmp": _compared,
    "in": _within,
}
"""Features of the thing that argument f[1] names."""


def feature_names(
    tool: ToolFacts, ids: dict[str, str], fields: dict[str, dict[str, str]]
) -> list[Feature]:
    """The features that may explain a tool's outcomes; `fields` has the kind of each field of
    each id argument's things."""
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
        for name, kind in fields.get(p, {}).items():
            names.append(("field", p, name))
            for q in tool.known:
                if q != p and (kind == "number") == (q in tool.numeric):
                    names.append(("cmp", p, q, name))
        names += [("with", p, q) for q in ids if q != p]
        names += [("in", p, q) for q in tool.known if q != p and q not in tool.numeric]
    return names


def field_kinds(
    all_steps: Sequence[Step], ids: Ids, of_thing: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> dict[str, dict[str, str]]:
    """Scalar fields of each domain's records: few-valued texts, and numbers. `of_thing`: what a
    tool's result says of the thing that its call names."""
    values: dict[str, dict[str, Counter[Any]]] = defaultdict(lambda: defaultdict(Counter))
    for s in all_steps:
        if s.failed:
            continue
        named = list(ids.shown(s.name, s.args, s.value))
        if not named and isinstance(s.value, dict):
            held = ids.alone(s.name, s.args)
            told = of_thing(s.name, s.value)
            named = [(held[0][1], held[0][2], told)] if len(held) == 1 else []
        for domain, _, record in named:
            for name, item in record.items():
                if not isinstance(item, (dict, list)):
                    values[domain][name][item] += 1
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for domain, fields in values.items():
        for name, seen in fields.items():
            if all(is_number(v) or v is None for v in seen):
                kinds[domain][name] = "number"
            elif len(seen) <= 12 or len(seen) > 0.2 * sum(seen.values()):
                kinds[domain][name] = "text"
    return {d: dict(list(f.items())[:14]) for d, f in kinds.items()} | {
        d: {} for t in ids.args.values() for d in t.values() if d not in kinds
    }
