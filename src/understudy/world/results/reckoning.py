"""Numbers that are reckoned from others: products, sums, differences, fixed multiples."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, islice
from math import ceil

from understudy.world.data.values import is_number, operate
from understudy.world.known.context import Source
from understudy.world.results.edits import PLUS
from understudy.world.results.explain import Ranked, Seen, held_out, made_of

_NUMBERS = 40  # known numbers that are taken by twos
_SAMPLE = 120  # results that they are tried on
_TRIED = 24  # of these, on which factors are looked for
_CENT = 0.006
_PARTS = 2000  # of a whole, the smallest that factors are made of
Numbers = list[tuple[Source, float]]


def arithmetic(path: str, seen: Sequence[Seen], later: Collection[str] = ()) -> list[Ranked]:
    """Products, sums, differences of two known numbers, parts of the result before this one and
    the `later` ones among them, and fixed multiples of one and of differences."""
    rows: list[tuple[float, Numbers]] = []
    sample = seen[:: max(1, len(seen) // _SAMPLE)]
    for s in sample:
        if is_number(s.values[path]):
            rows.append((s.values[path], _usable(path, s, later)))
    hits: Counter[Source] = Counter()
    beside: dict[Source, list[tuple[float, float]]] = defaultdict(list)
    for target, known in rows:
        hits.update(_made(target, known))
        hits.update(_moved(path, target, known))
        for a, x in known:
            beside[a].append((x, target))
    ranked = [multiple for a, own in beside.items() for multiple in _multiples(a, own)]
    held = [dict(known) for _, known in rows]
    for source, n in hits.items():
        if n >= 4:
            times = sum(_reckon(source, own) is not None for own in held)
            if n >= 0.8 * times:
                ranked.append((source, n / times, n))
    ranked += _scaled([(t, own) for (t, _), own in zip(rows, held, strict=True)])
    return [(source, _tried(source, path, sample), n) for source, _, n in ranked]


def _tried(source: Source, path: str, seen: Sequence[Seen]) -> float:
    """The precision of a reckoned source, see `held_out`."""
    right, had = [0, 0], [0, 0]
    for s in seen:
        number, target = _reckon(source, s.numbers), s.values[path]
        if number is not None and is_number(target):
            had[s.fold] += 1
            right[s.fold] += abs(number - target) < _CENT
    return held_out((right[0], right[1]), (had[0], had[1]))


def _reckon(source: Source, numbers: dict[Source, float]) -> float | None:
    if source[0] == "const":
        return float(source[1])
    if source[0] != "op":
        return numbers.get(source)
    a, b = _reckon(source[2], numbers), _reckon(source[3], numbers)
    return None if a is None or b is None else operate(source[1], a, b)


def _usable(path: str, s: Seen, later: Collection[str]) -> Numbers:
    """The simplest numbers that a value may be made of: none that is made of the value itself, or
    of a part of the result that comes after it, but for the `later` ones."""
    own, place = ("out", path.partition(PLUS)[0]), s.places[path]
    usable = (
        (a, x) for a, x in s.numbers.items()
        if (a[0] != "out" or s.places[a[1]] < place or a[1] in later) and not made_of(a, own)
    )  # fmt: skip
    return list(islice(usable, _NUMBERS))


def _made(target: float, known: Numbers) -> Iterator[Source]:
    """The operations on two numbers that make a third. The second is looked up by its value: the
    work grows with the numbers, not with their pairs."""
    ordered = sorted((y, n) for n, (_, y) in enumerate(known))
    values = [y for y, _ in ordered]
    for i, (a, x) in enumerate(known):
        needed = [("+", target - x), ("-", x - target)]
        if x and is_number(target / x):
            needed.append(("*", target / x))
        elif not x and abs(target) < _CENT:
            yield from (("op", "*", a, b) for b, _ in known[i:])
        for op, y in needed:
            wide = 2 * _CENT / (abs(x) if op == "*" else 1) + 1e-9 * abs(y)
            for _, n in ordered[bisect_left(values, y - wide) : bisect_right(values, y + wide)]:
                b, other = known[n]
                if (op == "-" and n == i) or (op != "-" and n < i):
                    continue
                if abs(operate(op, x, other) - target) < _CENT:
                    yield "op", op, a, b


def _moved(path: str, target: float, known: Numbers) -> Iterator[Source]:
    """What a field was, and a product of two numbers more."""
    name = path.rpartition("/")[2]
    for before, x in known:
        if before[0] == "ref" and before[2:] == (name,) and abs(target - x) > _CENT:
            for product in _made(target - x, known):
                if product[1] == "*":
                    yield "op", "+", before, product


def _scaled(rows: Sequence[tuple[float, dict[Source, float]]]) -> Iterator[Ranked]:
    """Fixed multiples of a difference of two numbers. What shows on a few results is counted on
    all of them."""
    few: Counter[tuple[Source, Source, float]] = Counter()
    for target, known in rows[:: max(1, len(rows) // _TRIED)]:
        for (a, x), (b, y) in combinations(islice(known.items(), _NUMBERS // 2), 2):
            factor = _factor(target, abs(x - y)) if x != y else None
            if factor is not None:
                few[(a, b, factor) if x > y else (b, a, factor)] += 1
    for a, b, factor in (found for found, n in few.items() if n > 1):
        both = [(target, own[a] - own[b]) for target, own in rows if a in own and b in own]
        right = [by for target, by in both if by > 0 and _factor(target, by) == factor]
        if len(right) >= max(4, 0.8 * len(both)) and len(set(right)) > 1:
            source = ("op", "*", ("const", factor), ("op", "-", a, b))
            yield source, len(right) / len(both), len(right)


def _factor(target: float, by: float) -> float | None:
    """What a number is a multiple by, other than 1."""
    if not target or not is_number(target / by):
        return None
    factor = round(target / by, 4)
    return None if factor == 1 else int(factor) if factor == int(factor) else factor


def _multiples(source: Source, beside: Sequence[tuple[float, float]]) -> Iterator[Ranked]:
    """Fixed multiples of a number, to cents, from (number, value): the largest numbers tell best
    what the factor is, which has two or four digits."""
    few = min(len({x for x, _ in beside}), len({value for _, value in beside})) < 3
    distinct = dict(sorted(beside, key=lambda p: abs(p[0])))
    top = [] if few else list(distinct.items())[-3:]
    found = {round(value / x, digits) for x, value in top if x for digits in (2, 4)}
    for factor in sorted(int(f) if f == int(f) else f for f in found):
        n = sum(abs(operate("*", factor, x) - value) < 0.006 for x, value in beside)
        if factor not in (0, 1) and n >= 4 and n >= 0.9 * len(beside):
            yield ("op", "*", ("const", factor), source), n / len(beside), n
    if not few and all(type(value) is int for _, value in beside):
        yield from _wholes(source, beside)


def _wholes(source: Source, beside: Sequence[tuple[float, float]]) -> Iterator[Ranked]:
    """The fixed multiple of a number that is rounded to a whole one: the shortest factor that all
    of the numbers allow, those that the largest of them do not fit left out."""
    largest = sorted((p for p in beside if p[0] > 0), key=lambda p: p[0])[-3:]
    factor = _allowed(largest)
    for _ in range(2 if factor else 0):
        fits = [p for p in beside if p[0] > 0 and operate("~", factor, p[0]) == p[1]]
        factor = _allowed(fits) or factor
    n = sum(operate("~", factor, x) == value for x, value in beside) if factor else 0
    if factor and factor != int(factor) and n >= 4 and n >= 0.9 * len(beside):
        yield ("op", "~", ("const", factor), source), n / len(beside), n


def _allowed(beside: Sequence[tuple[float, float]]) -> float:
    """The factor by which all numbers become the others when rounded: one of three digits, else
    the simplest fraction; 0 where none is."""
    low = max(((value - 0.5) / x for x, value in beside), default=1.0)
    high = min(((value + 0.5) / x for x, value in beside), default=0.0)
    if low >= high:
        return 0.0
    short = (round((low + high) / 2, digits) for digits in range(1, 4))
    plain = (ceil(low * n + 1e-9) / n for n in range(1, _PARTS))
    return next((f for f in (*short, *plain) if low < f < high), 0.0)
