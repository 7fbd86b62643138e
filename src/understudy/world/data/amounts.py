"""The numbers that a call and its result say, and which of them another number moves by."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from understudy.world.data.values import columns, is_number, leaves

Value = tuple[Any, ...]
"""Where in a call: ("arg" | "res", path), ("sum" | "count", side, path), of the last record of a
list that names a part ("part-arg" | "part-res", list, field), or of two numbers ("and" | "less",
one, other): their sum, the first without the second. ("const", number) is a number itself."""
_LEAST, _SURE = 2, 0.8  # moves that one number shows
_MANY, _SURER = 5, 0.9  # moves that two numbers show: there are more pairs to be right by chance
_MOST = 10  # numbers of a call that are taken by twos
CENT = 0.006  # what a sum may be off by


def call_values(args: dict[str, Any], result: Any) -> dict[Value, Any]:
    """What a call and its result say: scalars, lengths of lists, sums of their numbers."""
    found: dict[Value, Any] = {}
    for side, whole in (("arg", args), ("res", result)):
        sums: dict[str, list[Any]] = defaultdict(list)
        for path, value in columns(whole):
            if "/#" in path:
                sums[path].append(value)
            else:
                found[side, path] = value
        for path, values in sums.items():
            found["count", side, path] = len(values)
            if all(is_number(v) for v in values):
                found["sum", side, path] = round(sum(values), 2)
    return found


def part_values(part: Any, args: dict[str, Any], result: Any) -> dict[Value, Any] | None:
    """The numbers beside a part's key in the last record of each list that names it, None where
    the call's arguments do not name it."""
    if not any(v == part for _, v in leaves(args)):
        return None
    found: dict[Value, Any] = {}
    for side, whole in (("arg", args), ("res", result)):
        for name, items in whole.items() if isinstance(whole, dict) else ():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and part in item.values():
                    found |= {(f"part-{side}", name, n): v for n, v in item.items() if is_number(v)}
    return found


def amount(source: Value, values: Mapping[Value, Any]) -> float | None:
    """The number of a source; None where the call says none."""
    if source[0] == "const":
        return float(source[1]) if isinstance(source[1], float) else int(source[1])
    if source[0] not in ("and", "less"):
        found = values.get(source)
        return found if found is not None and is_number(found) else None
    one, other = amount(source[1], values), amount(source[2], values)
    if one is None or other is None:
        return None
    both = one + other if source[0] == "and" else one - other
    return both if isinstance(both, int) else round(both, 2)


def with_pairs(values: Mapping[Value, Any]) -> dict[Value, float]:
    """The sums and differences of two of the numbers, where they are few."""
    numbers = {v: n for v, n in values.items() if is_number(n) and n}
    found: dict[Value, float] = {}
    for one, other in combinations(numbers, 2) if len(numbers) <= _MOST else ():
        for source in (("and", one, other), ("less", one, other), ("less", other, one)):
            both = amount(source, numbers)
            if both:
                found[source] = both
    return found


def moved_by(pairs: Sequence[tuple[dict[Value, Any], float]]) -> tuple[str, Value] | None:
    """The sign and the source of the number that differences are, each beside what its call says;
    of two numbers where it is no one."""
    one = _best(pairs, _LEAST, _SURE)
    if one is not None or sum(abs(delta) > CENT for _, delta in pairs) < _MANY:
        return one
    return _best([(with_pairs(values), delta) for values, delta in pairs], _MANY, _SURER)


def _best(
    pairs: Sequence[tuple[Mapping[Value, Any], float]], least: int, sure: float
) -> tuple[str, Value] | None:
    hits: Counter[tuple[str, Value]] = Counter()
    had: Counter[Value] = Counter()
    for values, delta in pairs:
        for source, value in values.items():
            if is_number(value):
                had[source] += 1
                for sign, signed in (("+", value), ("-", -value)):
                    hits[sign, source] += abs(signed - delta) < CENT
    moved = sum(abs(delta) > CENT for _, delta in pairs)
    good = [
        (n / had[k[1]], n, k)
        for k, n in hits.items()
        if n >= least and n >= sure * had[k[1]] and n >= sure * moved
    ]
    if not good:
        return None
    _, _, best = max(good, key=lambda g: (g[0], g[1], -len(g[2][1]), str(g[2])))
    return best
