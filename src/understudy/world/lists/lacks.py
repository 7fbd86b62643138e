"""How much of what a listing selects the memory does not know."""

from collections.abc import Sequence
from typing import Any

from understudy.world.lists.query import Query
from understudy.world.lists.spans import siblings
from understudy.world.traffic.transitions import Step


def lack(query: Query, args: dict[str, Any], found: int) -> float | None:
    """The chance that a call selects more than the `found` records that are known; None where it
    does not ask by texts or by fields that other tools show."""
    asked = [p for p in query.elsewhere if args.get(p) is not None]
    searched = any(args.get(s.argument) is not None for s in query.searches)
    if not query.lacks or not (asked or searched):
        return None
    lacking = query.lacks[found > 0]
    for p in asked:
        rest = {q: v for q, v in args.items() if q != p}
        untold = sum(not r.under.get(p) for r in query.narrowed(rest) if query.chooses(r, rest))
        values = {v for r in query.rows for v in r.under.get(p, ())}
        lacking = max(lacking, 1 - (1 - 1 / max(2, len(values))) ** untold)
    return lacking


def mine_lacks(query: Query, good: Sequence[tuple[Step, list[dict[str, Any]]]]) -> None:
    """How often calls list more than the records that other scenarios showed, by Laplace's rule:
    where they showed none, and where some."""
    own = siblings(good)
    lacking: dict[bool, list[bool]] = {False: [], True: []}
    for s, rows in good[:400]:
        known = len(query.matches(s.args, own[s.origin]))
        counted = query.total is not None and isinstance(s.value, dict)
        real = s.value[query.total] if counted else len(rows)
        if counted or known < len(rows) or not query.cuts(len(rows), s.args):
            lacking[known > 0].append(known < real)
    query.lacks = [(sum(found) + 1) / (len(found) + 2) for found in lacking.values()]
