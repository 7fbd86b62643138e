"""Mining listings: the order of the listed records, and how many of them are shown."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from understudy.world.data.values import is_number, kind_of
from understudy.world.lists.query import Query
from understudy.world.traffic.transitions import Step

Rows = Sequence[tuple[Step, list[dict[str, Any]]]]


def _monotone(rows: list[dict[str, Any]], name: str) -> tuple[bool, bool] | None:
    values = [r.get(name) for r in rows]
    kinds = {kind_of(v) for v in values}
    if kinds not in ({"number"}, {"string"}) or len(set(values)) < 2:
        return None
    pairs = list(pairwise(values))
    return all(a <= b for a, b in pairs), all(a >= b for a, b in pairs)  # type: ignore[operator]


def _order_of(lists: list[list[dict[str, Any]]]) -> tuple[str, bool] | None:
    """The field and direction that all lists follow. None without enough evidence."""
    best: tuple[float, str, bool] | None = None
    for name in lists[0][0] if lists else ():
        seen = [m for m in (_monotone(rows, name) for rows in lists if len(rows) > 1) if m]
        odds = sum(len(rows) > 2 for rows in lists)
        if len(seen) < 4 or (odds < 2 and len(seen) < 8):
            continue
        for down in (False, True):
            share = sum(m[down] for m in seen) / len(seen)
            if share >= 0.97 and (best is None or (share, len(seen)) > (best[0], 0)):
                best = best or (share, name, down)
    return (best[1], best[2]) if best else None


def _follows(lists: list[list[dict[str, Any]]], name: str, down: bool) -> bool:
    seen = [m for m in (_monotone(rows, name) for rows in lists if len(rows) > 1) if m]
    return sum(m[down] for m in seen) >= 0.97 * len(seen)


def mine_order(query: Query, full: Rows, names: list[str]) -> None:
    chosen: set[int] = set()
    selecting = {p for p, _ in query.equal} | {s.argument for s in query.searches}
    selecting |= query.elsewhere.keys()
    for p in names:
        groups: dict[str, list[int]] = defaultdict(list)
        values: dict[str, Any] = {}
        for i, (s, _) in enumerate(full):
            if isinstance(s.args.get(p), (str, bool)):
                groups[repr(s.args[p])].append(i)
                values[repr(s.args[p])] = s.args[p]
        if p in selecting or not groups or len(groups) > 12:
            continue
        rest = _order_of([rows for s, rows in full if p not in s.args])
        rules = []
        for text, members in groups.items():
            lists = [full[i][1] for i in members]
            kept = rest is not None and _follows(lists, *rest)  # another may hold by chance
            by = rest if kept else _order_of(lists)
            if by is not None:
                rules.append((values[text], by[0], by[1]))
        alone = all(p in s.args for s, _ in full)
        if rules and alone and len({r[1:] for r in rules}) == 1:
            continue  # it is so whatever the argument says
        if rules and any((f, d) != rest for _, f, d in rules):
            query.order[p] = rules
            chosen.update(i for g in groups.values() for i in g)
            _mine_ties(query, [(full[i][1], f) for v, f, _ in rules for i in groups[repr(v)]])
    plain = [rows for i, (_, rows) in enumerate(full) if i not in chosen]
    query.default = _order_of(plain) if plain else None
    query.stable = query.default is None and _is_stable(query, plain)
    if query.stable and query.key:
        _arrange(query, plain)


def _mine_ties(query: Query, lists: list[tuple[list[dict[str, Any]], str]]) -> None:
    """Arrange the remembered records as sorted lists show those that the sort leaves equal."""
    first: dict[Any, set[Any]] = defaultdict(set)
    for rows, name in lists:
        for a, b in pairwise(rows):
            if query.key and a.get(name) == b.get(name):
                first[query.key_of(b)].add(query.key_of(a))
    try:
        order = {key: n for n, key in enumerate(TopologicalSorter(first).static_order())}
    except CycleError:
        return  # equal records come in any order
    query.ties = True
    query.rows.sort(key=lambda r: order.get(r.key, -1))


def _is_stable(query: Query, lists: list[list[dict[str, Any]]]) -> bool:
    """Whether pairs of records always come in the same order."""
    if query.key is None:
        return False
    before: Counter[tuple[Any, Any]] = Counter()
    for rows in lists:
        listed = [query.key_of(r) for r in rows]
        before.update((a, b) for a, b in pairwise(listed))
    pairs = [(n, before[b, a]) for (a, b), n in before.items() if n + before[b, a] > 1]
    total = sum(n + m for n, m in pairs)
    return total >= 4 and sum(max(n, m) for n, m in pairs) >= 0.98 * total


def _arrange(query: Query, lists: list[list[dict[str, Any]]]) -> None:
    """Remembered records in the traffic's order: by mean relative position."""
    place: dict[Any, list[float]] = defaultdict(list)
    for rows in lists:
        for i, r in enumerate(rows):
            place[query.key_of(r)].append(i / max(1, len(rows) - 1))
    query.rows.sort(key=lambda r: sum(place[r.key]) / max(1, len(place[r.key])))


def mine_limit(query: Query, full: Rows, names: list[str]) -> None:
    for p in names:
        asked = [(s.args[p], len(r)) for s, r in full if is_number(s.args.get(p))]
        if len(asked) < 5 or len({v for v, _ in asked}) < 2:
            continue
        if all(n <= v for v, n in asked) and sum(n == v for v, n in asked) > 0.3 * len(asked):
            query.limit_by = p
            break
    free = [len(rows) for s, rows in full if not is_number(s.args.get(query.limit_by or ""))]
    longest = max(free, default=0)
    if longest > 1 and free.count(longest) >= 0.1 * len(free):
        query.limit = longest
