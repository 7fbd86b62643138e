"""Columns of whole numbers that number things, whatever their names and sizes.

An amount and the number of a record look alike. What tells them apart is what results do: the
record of a number is the same each time and follows no order of the numbers, a list shows each
number once, a call gives what it makes a new one; and a number that one call names, others of its
episode name too.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from understudy.world.data.values import escape, is_number
from understudy.world.traffic.transitions import Step

Column = tuple[str, str, str]  # "a" or "r", tool, collapsed path
_LEAST = 5  # numbers, or pairs of calls, that show something
_SURE = 0.8
_TWO = 0.45  # how often a field is alike by chance, from which it says no more than yes or no


def numbers(
    values: Mapping[Column, Counter[Any]], listed: Mapping[Column, float], good: Sequence[Step]
) -> set[Column]:
    """The columns, from `values` of all columns, `listed` (the share of lists that show a column's
    values once each) and the calls that went well."""
    whole = {c: set(seen) for c, seen in values.items() if all(map(_whole, seen))}
    found = _counted(values, whole, listed)
    asked = sorted(c for c, own in whole.items() if c[0] == "a" and len(own) >= _LEAST)
    by_tool: dict[str, list[Step]] = defaultdict(list)
    for s in good:
        by_tool[s.name].append(s)
    found |= {c for c in asked if c not in found and _reads(c[2], by_tool[c[1]])}
    found |= _echoes(found, by_tool)
    found |= _named_with(found, [c for c in asked if c not in found], good)
    found |= _among(found, whole, [c for c in asked if c not in found])
    return found | _echoes(found, by_tool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _counted(
    values: Mapping[Column, Counter[Any]],
    whole: Mapping[Column, set[Any]],
    listed: Mapping[Column, float],
) -> set[Column]:
    """An argument that takes what lists show once each, or what each call of another tool says
    anew, and the columns that say it."""
    shown = {
        c: own for c, own in whole.items() if c[0] == "r" and len(own) >= 8
        and (listed.get(c, 0) > 0.98 or (len(own) > 0.8 * values[c].total() and min(own) > 999))
    }  # fmt: skip
    taken: set[Column] = set()
    for c, own in whole.items():
        if c[0] == "a" and len(own) >= _LEAST:
            tellers = {r for r, v in shown.items() if len(own & v) >= _SURE * len(own)}
            taken |= {c, *tellers} if tellers else set()
    return taken


def _among(
    found: set[Column], whole: Mapping[Column, set[Any]], asked: Sequence[Column]
) -> set[Column]:
    """Arguments whose numbers, too large for amounts of their own, are nearly all what an
    identifier is given in other calls."""
    known: dict[str, set[Any]] = defaultdict(set)
    for side, tool, p in found:
        if side == "a":
            known[p] |= whole[side, tool, p]
    return {
        c
        for c in asked
        if min(whole[c]) > 999
        and any(len(whole[c] & own) >= max(_LEAST, _SURE * len(whole[c])) for own in known.values())
    }


def _echoes(found: Iterable[Column], by_tool: Mapping[str, Sequence[Step]]) -> set[Column]:
    """The fields that always hold what such an argument says."""
    echoes: dict[Column, list[bool]] = defaultdict(list)
    for side, tool, p in found:
        for s in by_tool[tool] if side == "a" else ():
            for name, item in s.value.items() if isinstance(s.value, dict) else ():
                if p in s.args and _whole(item):
                    echoes["r", tool, f"/{escape(name)}"].append(item == s.args[p])
    return {c for c, same in echoes.items() if len(same) > 2 and all(same)}


def _reads(p: str, calls: Sequence[Step]) -> bool:
    """Whether a tool's results are records that an argument numbers: a field hangs on its value
    alone, and not on how large it is; where none recurs, the argument is the only one and the
    record says it."""
    told: dict[str, dict[int, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    alone = echoed = True
    for s in calls:
        if not isinstance(s.value, dict) or not _whole(s.args.get(p)):
            return False
        number = s.args[p]
        alone = alone and len(s.args) == 1
        echoed = echoed and number in s.value.values()
        for name, item in s.value.items():
            if isinstance(item, (str, int, float)) and item not in s.args.values():
                bare = item.replace(str(number), "#") if isinstance(item, str) else item
                told[name][number].setdefault(s.origin, bare)
    by_field = [by_number for by_number in told.values() if len(by_number) >= _LEAST]
    if not any(len(own) > 1 for by_number in by_field for own in by_number.values()):
        return alone and echoed and sum(map(_unordered, map(_usual, by_field))) > 1
    return any(_steady(by_number) and _unordered(_usual(by_number)) for by_number in by_field)


def _usual(by_number: Mapping[int, Mapping[int, Any]]) -> dict[int, Any]:
    """What a field most often is, by number."""
    return {n: Counter(own.values()).most_common(1)[0][0] for n, own in by_number.items()}


def _steady(by_number: Mapping[int, Mapping[int, Any]]) -> bool:
    """Whether scenarios that name the same number see the same, more often than by chance."""
    several = [Counter(own.values()) for own in by_number.values() if len(own) > 1]
    again = sum(c.total() - 1 for c in several)
    same = sum(c.most_common(1)[0][1] - 1 for c in several)
    usual = Counter(_usual(by_number).values())
    chance = sum(n * n for n in usual.values()) / usual.total() ** 2
    return again >= _LEAST and same >= _SURE * again and chance < _TWO


def _unordered(usual: Mapping[int, Any]) -> bool:
    """Whether a field says something else from number to number, and not by how large it is."""
    row = [usual[n] for n in sorted(usual)]
    if all(map(is_number, row)):
        steps = [b - a for a, b in itertools.pairwise(row)]
        return min(steps) < 0 < max(steps)
    kinds, runs = len(set(row)), 1 + sum(a != b for a, b in itertools.pairwise(row))
    return runs > kinds or kinds > 0.5 * len(row)


def _named_with(found: set[Column], asked: Sequence[Column], good: Sequence[Step]) -> set[Column]:
    """Arguments that mostly say what an identifier of the same episode says, and seldom what one
    of another episode does."""
    known: dict[int, set[Any]] = defaultdict(set)
    for s in good:
        for p in [c[2] for c in found if c[:2] == ("a", s.name)]:
            known[s.episode].add(s.args.get(p))
    order = list(known)
    others = {n: known[other] for n, other in zip(order, order[1:] + order[:1], strict=True)}
    taken = set()
    for c in asked:
        own = [s for s in good if s.name == c[1] and c[2] in s.args and s.episode in known]
        here = sum(s.args[c[2]] in known[s.episode] for s in own)
        there = sum(s.args[c[2]] in others[s.episode] for s in own)
        if len(own) >= _LEAST and here >= _SURE * len(own) and there < 0.5 * here:
            taken.add(c)
    return taken
