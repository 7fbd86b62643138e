"""Mining what selects records by a field that they show through other tools alone: the values go to
what the records are listed under."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from understudy.world.data.matching import values_of
from understudy.world.known.memory import Memory
from understudy.world.lists.query import Query, Row
from understudy.world.lists.spans import siblings, spans, there
from understudy.world.traffic.transitions import Step

_LEAST = 5  # listed records whose field another scenario showed
_RIGHT = 0.95  # share of them that have what was asked for: fields change
_PRECISION = 0.9  # share of those that have it that are listed

Rows = Sequence[tuple[Step, list[dict[str, Any]]]]
_Told = dict[Any, list[tuple[int, list[Any]]]]
"""By key of a record: the episodes that showed the field, and its values there."""


def mine_elsewhere(query: Query, good: Rows, names: Sequence[str], memory: Memory) -> None:
    """Add arguments that ask for a field of the records which their listing does not show."""
    if query.domain is None or query.vary is not None:
        return
    shown = {n for row in query.rows for n in row.fields}
    hidden = {
        n
        for row in query.rows
        for _, fields in memory.versions.get(query.domain, {}).get(row.key, ())
        for n in fields
        if n not in shown
    }
    told = {n: _told(query, n, memory) for n in sorted(hidden)}
    life = spans(query, good)
    for p in names:
        asked = [(s, rows) for s, rows in good if isinstance(s.args.get(p), (str, int))]
        fits = {n: f for n, own in told.items() if (f := _fit(query, p, own, asked, life))}
        if fits:
            name = max(fits, key=lambda n: fits[n])
            query.elsewhere[p] = name
            for row in query.rows:
                latest = told[name].get(row.key)
                if latest:
                    row.under[p] = list(latest[-1][1])
            query.under.append(p)


def _told(query: Query, name: str, memory: Memory) -> _Told:
    versions = memory.versions.get(query.domain or "", {})
    return {
        row.key: [(e, values_of(f[name])) for e, f in versions.get(row.key, ()) if name in f]
        for row in query.rows
    }


def _fit(
    query: Query, p: str, told: _Told, asked: Rows, life: Mapping[Any, tuple[int, int]]
) -> float:
    """How often records had what an argument asks for where chance would not; 0 where it is no
    rule."""
    own = siblings(asked)
    spread = Counter(v for own in told.values() if own for v in own[-1][1])
    known = sum(1 for own in told.values() if own)
    right = total = listed = could = 0
    chance = 0.0
    values = set()
    for s, rows in asked:
        value, without = s.args[p], own[s.origin]
        keys = {query.key_of(r) for r in rows}
        for held in (_latest(told, key, without) for key in keys):
            if held is None:
                continue
            total += 1
            right += value in held
            chance += 1 - spread[value] / known
            values.add(value)
        if query.cuts(len(rows), s.args):
            continue
        for row in _others(query, p, s):
            held = _latest(told, row.key, without)
            if held is not None and value in held and there(life.get(row.key), without):
                could += 1
                listed += row.key in keys
    ok = total >= _LEAST and len(values) > 1 and right >= _RIGHT * total
    return chance if ok and chance >= _LEAST and listed >= _PRECISION * could else 0.0


def _latest(told: _Told, key: Any, without: frozenset[int]) -> list[Any] | None:
    return next((v for e, v in reversed(told.get(key, ())) if e not in without), None)


def _others(query: Query, p: str, s: Step) -> Iterator[Row]:
    """The records that the other arguments of a call select."""
    rest = {q: v for q, v in s.args.items() if q not in (p, query.limit_by) and v is not None}
    if any(isinstance(v, (list, dict)) for v in rest.values()):
        return
    chosen = {q for q, _ in query.equal} | {search.argument for search in query.searches}
    for row in query.rows:
        under = all(v in row.under.get(q, ()) for q, v in rest.items() if q not in chosen)
        if under and query.selects(row.fields, rest):
            yield row
