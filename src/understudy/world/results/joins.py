"""Lists that a call names in its arguments and its result tells more of: each element joined with
the record that agrees with it, in the thing's own list or in an earlier result of the session."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.values import chance, escape, same
from understudy.world.known.context import Context, branches
from understudy.world.known.memory import idlike
from understudy.world.lists.listings import list_in

_SAMPLES = 40  # values of a key that are kept
Part = tuple[Any, ...]
"""Where a value of an element comes from: ("e", key) of the argument's element; ("o", key) of the
thing's own list; ("r", path) of a listed record; ("i", path, argument) in it, under the argument's
value; ("t", key, field) of the thing that the element's key names, whatever else is known of it."""


@dataclass(slots=True)
class Element:
    """One element of a result's list: its values, and for each the parts that had it."""

    values: dict[str, Any]
    right: dict[str, set[Part]]
    had: set[Part]


@dataclass(slots=True)
class Join:
    """A result's list made of an argument's list: keys in their order, each with parts by rank,
    and values of the traffic for what no part knows."""

    argument: str
    keys: list[tuple[str, list[Part]]] = field(default_factory=list)
    samples: dict[str, list[Any]] = field(default_factory=dict)

    def render(self, path: str, c: Context) -> tuple[list[Any], int] | None:
        """The list, and how many of its values no part knows: these are drawn by the session's
        seed from the traffic's. None where the argument is no list of records."""
        asked = c.args.get(self.argument)
        if not isinstance(asked, list):
            return None
        out, gaps = [], 0
        for element in asked:
            if not isinstance(element, dict):
                return None
            known = dict(parts(element, path, c))
            record: dict[str, Any] = {}
            for key, ranked in self.keys:
                part = next((p for p in ranked if p in known), None)
                gaps += part is None
                record[key] = self._drawn(key, element, c) if part is None else known[part]
            out.append(record)
        return out, gaps

    def _drawn(self, key: str, element: dict[str, Any], c: Context) -> Any:
        held = self.samples[key]
        return held[int(chance(c.state.seed, key, element) * len(held))]


def parts(element: dict[str, Any], path: str, c: Context) -> Iterator[tuple[Part, Any]]:
    """Every part that an element of an argument's list may get its values from."""
    for key, value in element.items():
        yield ("e", key), value
    own = _own(element, path, c)
    for key, value in own.items() if own else ():
        yield ("o", key), value
    record = _shown(element, c) or _remembered(element, c)
    for place, value in branches(record) if record is not None else ():
        yield ("r", place), value
        if isinstance(value, dict):
            for p, word in c.args.items():
                if isinstance(word, str) and word in value:
                    yield ("i", place, p), value[word]
    for key, item in element.items():
        if idlike(item) and (thing := c.state.named(item)) is not None:
            for name, value in c.state.fields(thing).items():
                yield ("t", key, name), value


def _own(element: dict[str, Any], path: str, c: Context) -> dict[str, Any] | None:
    for _, domain, item in c.ids:
        thing = c.state.things.get((domain, item))
        for name, (value, _, _) in thing.fields.items() if thing else ():
            if f"/{escape(name)}" != path or not isinstance(value, list):
                continue
            for record in value:
                if isinstance(record, dict) and _agrees(element, record, {}, {}):
                    return record
    return None


def _shown(element: dict[str, Any], c: Context) -> dict[str, Any] | None:
    for past in reversed(c.state.calls):
        listed = list_in(past.value) if past.ok else None
        for record in listed[1] if listed else ():
            if _agrees(element, record, past.args, {}):
                return record
    return None


def _remembered(element: dict[str, Any], c: Context) -> dict[str, Any] | None:
    """A record that the traffic listed."""
    for query in c.listings:
        for key in element.values() if query.key else ():
            for row in query.by_key(key):
                seen = any(e not in c.state.without for e in row.episodes)
                if seen and _agrees(element, row.fields, {}, row.under):
                    return row.fields
    return None


def _agrees(
    element: dict[str, Any],
    record: dict[str, Any],
    args: dict[str, Any],
    under: dict[str, list[Any]],
) -> bool:
    """Whether a record, with the calls that showed it, has all that the element says."""
    equal = 0
    for key, value in element.items():
        if record.get(key) is not None:
            if not same(record[key], value):
                return False
            equal += 1
        elif not (key in args and same(args[key], value)) and under.get(key) != [value]:
            return False
    return equal > 0


def see_joins(c: Context, values: dict[str, Any]) -> dict[tuple[str, str], list[Element]]:
    """The lists of a result that may be joins, by (path, argument)."""
    found: dict[tuple[str, str], list[Element]] = {}
    for p, asked in c.args.items():
        if not (isinstance(asked, list) and asked and all(isinstance(e, dict) for e in asked)):
            continue
        for path, value in values.items():
            if not (isinstance(value, list) and len(value) == len(asked)) or value == asked:
                continue
            if all(isinstance(r, dict) for r in value):
                pairs = zip(asked, value, strict=True)
                found[path, p] = [_element(e, r, path, c) for e, r in pairs]
    return found


def _element(asked: dict[str, Any], record: dict[str, Any], path: str, c: Context) -> Element:
    known = dict(parts(asked, path, c))
    right = {
        key: {
            p
            for p, v in known.items()
            if v == value and isinstance(v, bool) == isinstance(value, bool)
        }
        for key, value in record.items()
    }
    return Element(record, right, set(known))


_ORDER = {"e": 0, "o": 1, "i": 2, "r": 3, "t": 4}


def mine_join(argument: str, elements: Sequence[Element]) -> Join | None:
    """The join that explains most elements; None where some key is mostly unexplained."""
    join = Join(argument)
    for key in elements[-1].values:
        rest = [e for e in elements if key in e.values]
        ranked: list[Part] = []
        explained = 0
        while rest and len(ranked) < 4:
            had = Counter(p for e in rest for p in e.had)
            hits = Counter(p for e in rest for p in e.right[key])
            good = [p for p, n in hits.items() if n >= 2 and n >= 0.8 * had[p]]
            if not good:
                break
            best = max(
                good, key=lambda p: (round(hits[p] / had[p], 1), -_ORDER[p[0]], hits[p], str(p))
            )
            ranked.append(best)
            explained += hits[best]
            rest = [e for e in rest if best not in e.had]
        if explained < min(5, 0.5 * len(elements)):
            return None
        join.keys.append((key, ranked))
        join.samples[key] = [e.values[key] for e in elements if key in e.values][-_SAMPLES:]
    return join


def explained(join: Join, elements: Sequence[Element]) -> tuple[bool, bool]:
    """(whether the join can make values of these elements, whether all that it makes are right)."""
    can, right = False, True
    for e in elements:
        for key, ranked in join.keys:
            part = next((p for p in ranked if p in e.had), None)
            if part is not None:
                can, right = True, right and part in e.right.get(key, ())
        right &= [k for k, _ in join.keys] == list(e.values)
    return can, can and right


def to_json(joins: dict[str, Join]) -> dict[str, Any]:
    return {path: [j.argument, j.keys, j.samples] for path, j in joins.items()}


def from_json(data: dict[str, Any]) -> dict[str, Join]:
    return {
        path: Join(argument, [(key, [tuple(p) for p in ranked]) for key, ranked in keys], samples)
        for path, (argument, keys, samples) in data.items()
    }
