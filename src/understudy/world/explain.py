"""What could have explained a result: which sources had its values, how often they were right, and
which of them to believe."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world import joins
from understudy.world.context import Context, Source, apply, branches, sources
from understudy.world.edits import PLUS, aggregates, edits, explains, totals
from understudy.world.features import Feature
from understudy.world.moments import is_moment, reckoned
from understudy.world.tree import Node, decide, grow
from understudy.world.values import chance, is_number, same

Ranked = tuple[Source, float, int]  # a source, its precision, how often it was right

# which of sources that are as often right is taken: the simplest
_COST = {
    "arg": 0.9, "own": 1, "ref": 2, "word": 2.1, "join": 2.2, "mirror": 2.5, "sum": 2.5,
    "append": 2.6, "count": 2.7, "total": 2.8, "repeat": 3, "const": 3.5, "recall": 4, "last": 5,
    "ref2": 6, "op": 7, "next": 3.2, "later": 6, "day": 3, "still": 2.9,
}  # fmt: skip
# (right, wrong) calls that each kind of source is credited with before the first is seen
_TRUST = {
    "own": (4.0, 0.05), "arg": (4.0, 0.05), "ref": (2.0, 0.1), "repeat": (1.0, 0.1),
    "still": (2.0, 0.1),
    "word": (1.0, 0.2), "recall": (1.0, 0.2), "const": (0.5, 0.2), "op": (0.5, 0.3),
    "ref2": (0.5, 0.5), "last": (0.2, 1.0),
}  # fmt: skip


@dataclass(slots=True)
class Seen:
    """One successful result with what could have explained its values."""

    row: dict[Feature, Any]
    values: dict[str, Any]  # leaf path -> value
    right: dict[str, set[Source]]  # leaf path -> sources that had this very value
    had: set[Source]
    numbers: dict[Source, float]
    moments: dict[Source, str]
    whole: Any
    joined: dict[tuple[str, str], list[joins.Element]] = field(default_factory=dict)
    fold: int = 0  # 0 or 1: which half of the scenarios it is of


def see(c: Context, value: Any, row: dict[Feature, Any], origin: int = 0) -> Seen:
    """Compare a result with every source in its context. `origin` is its scenario's number."""
    plain = dict(branches(value))
    values = dict(plain)
    edited: list[tuple[Source, str]] = []
    had: set[Source] = set()
    for source, path, before in edits(c):
        if path in values:
            had.add(source)
            if explains(source, before, values[path]):
                edited.append((source, path))
                if source[0] == "append":
                    added = values[path][-1]
                    values |= {f"{path}{PLUS}{k}": v for k, v in branches(added)}
    texts: dict[str, list[str]] = defaultdict(list)
    for path, item in values.items():
        texts[text(item)].append(path)
    right: dict[str, set[Source]] = {path: set() for path in values}
    for source, path in edited:
        right[path].add(source)
    numbers: dict[Source, float] = {}
    moments = {("out", p): v for p, v in values.items() if is_moment(v) and PLUS not in p}
    for source, item in sources(c):
        if source[0] in ("repeat", "still", "recall"):
            had.add(source)
            if source[1] in values and same_value(values[source[1]], item):
                right[source[1]].add(source)
            continue
        had.add(source)
        for path in texts.get(text(item), ()):
            right[path].add(source)
        if is_moment(item) and source[0] != "own":
            moments[source] = item
        if is_number(item) and source[0] != "own":
            numbers[source] = item
        elif isinstance(item, list) and source[0] in ("ref", "arg"):
            numbers.update(aggregates(source, item))
    for path, item in values.items():
        if isinstance(item, list) and PLUS not in path:
            numbers.update(aggregates(("out", path), item))
    numbers.update(totals(numbers))
    fold = int(2 * chance("fold", origin))
    joined = joins.see_joins(c, plain)
    return Seen(row, values, right, had, numbers, moments, value, joined, fold)


def text(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value
    if is_number(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(value, sort_keys=True)


def same_value(a: Any, b: Any) -> bool:
    return bool(a == b) if isinstance(a, (dict, list)) else same(a, b)


_SAME = ("repeat", "still", "recall", "arg", "ref")  # believed from the first time on
_CHOSEN = {"own", "ref", "arg", "append", "mirror", "repeat"}


def choice(path: str, seen: Sequence[Seen]) -> Node | None:
    """Which source a value comes from, where several do and the situation tells; null where it
    comes from none of them."""
    hits = Counter(x for s in seen for x in s.right[path] if x[0] in _CHOSEN)
    kept: list[Source] = []
    left = [s for s in seen if s.right[path]]
    for source in sorted(hits, key=lambda x: (-hits[x], _cost(x), str(x))):
        own = [s for s in left if source in s.right[path]]
        if len(own) >= 3 and len(kept) < 4:
            kept.append(source)
            left = [s for s in left if source not in s.right[path]]
    if len(kept) < 2:
        return None
    rows = [(s, next((x for x in kept if x in s.right[path]), None)) for s in seen]
    labelled = [(s.row, json.dumps(x)) for s, x in rows if x is not None]
    tree = grow([r for r, _ in labelled], [x for _, x in labelled])
    for row in (s.row for s, x in rows if x is None):
        counts = decide(tree, row.get)
        counts["null"] = counts.get("null", 0) + 1
    return tree if "feature" in tree else None


def trusted(ranked: Ranked) -> float:
    """The precision of a source, shrunk towards what its kind is worth."""
    source, precise, n = ranked
    right, wrong = _TRUST.get(source[0], (0.5, 0.5))
    return (n + right) / (n / max(precise, 1e-9) + right + wrong)


def rank(ranked: Ranked) -> tuple[float, float, int, str]:
    source, _, n = ranked
    return -round(trusted(ranked), 2), _cost(source), -n, str(source)


def _cost(source: Source) -> float:
    """A composed source costs what its parts cost beside what composing does."""
    parts = sum(_cost(x) for x in source[1:] if isinstance(x, tuple))
    return _COST.get(source[0], 9) + 0.1 * parts


_SEEN = 10  # calls of a half of the scenarios that say how precise a source is there
_GOOD = 0.9  # the precision from which on a half of the scenarios suggests a source


def held_out(right: tuple[int, int], had: tuple[int, int]) -> float:
    """The precision of a source on scenarios apart from those that suggest it.

    `right` and `had` count the calls of either half of the scenarios. Where one half alone
    suggests the source, the other one says how precise it is; else both do.
    """
    n, times = sum(right), sum(had)
    if min(had) >= _SEEN:
        one, other = (r / h for r, h in zip(right, had, strict=True))
        if (one >= _GOOD) != (other >= _GOOD):
            return min(one, other)
    return n / times if times > 2 else n / (times + 1)


def direct(path: str, seen: Sequence[Seen]) -> list[Ranked]:
    """(source, precision, hits) of every single source that was ever right."""
    hits: tuple[Counter[Source], Counter[Source]] = Counter(), Counter()
    folds: tuple[list[Seen], list[Seen]] = [], []
    for s in seen:
        hits[s.fold].update(s.right[path])
        folds[s.fold].append(s)
    ranked = []
    for source in dict.fromkeys([*hits[0], *hits[1]]):
        right = hits[0][source], hits[1][source]
        had = sum(source in s.had for s in folds[0]), sum(source in s.had for s in folds[1])
        if sum(right) >= 2 or (source[0] in _SAME and right == had):
            ranked.append((source, held_out(right, had), sum(right)))
    texts = Counter(text(s.values[path]) for s in seen)
    top, times = texts.most_common(1)[0]
    if times >= 0.97 * len(seen) and len(seen) > 2:
        value = next(s.values[path] for s in seen if text(s.values[path]) == top)
        ranked.append((("const", value), times / len(seen), times))
    return ranked


def available(source: Source, s: Seen) -> bool:
    if source[0] == "const":
        return True
    if source[0] in ("later", "day"):
        begin = source[1] in s.moments
        return begin and (source[0] == "day" or available(source[3], s))
    if source[0] == "op":
        return available(source[2], s) and available(source[3], s)
    return source in s.had or source in s.numbers


def _made_of(source: Source, part: Source) -> bool:
    return source == part or any(_made_of(x, part) for x in source if isinstance(x, tuple))


def moments(path: str, seen: Sequence[Seen]) -> list[Ranked]:
    """Moments reckoned from others and from numbers; of parts of the result, from those before."""
    rows = []
    for s in seen:
        order = list(s.values)
        before = set(order[: order.index(path)])
        known = {a: v for a, v in s.moments.items() if a[0] != "out" or a[1] in before}
        plain = {b: v for b, v in s.numbers.items() if b[0] in ("arg", "ref", "last")}
        rows.append((s.values[path], known, plain))
    return reckoned(rows)


def arithmetic(path: str, seen: Sequence[Seen]) -> list[Ranked]:
    """Products, sums, differences of two known numbers, and fixed multiples of differences and of
    single numbers."""
    hits: Counter[Source] = Counter()
    had: Counter[tuple[Source, Source]] = Counter()
    scaled: Counter[Source] = Counter()
    spans: dict[tuple[Source, Source], set[float]] = defaultdict(set)
    sample = seen[:: max(1, len(seen) // 120)]
    rows: list[tuple[float, dict[Source, float]]] = []
    for s in sample:
        target = s.values[path]
        if not is_number(target):
            continue
        own = path.partition(PLUS)[0]
        usable = [n for n in s.numbers.items() if not _made_of(n[0], ("out", own))]
        known = sorted(usable, key=lambda n: (_cost(n[0]), str(n[0])))[:40]
        rows.append((target, dict(known)))
        for i, (a, x) in enumerate(known):
            for b, y in known[i:]:
                had[a, b] += 1
                for op, left, right in (("*", a, b), ("+", a, b), ("-", a, b), ("-", b, a)):
                    if op == "-" and a == b:
                        continue
                    u, v = (x, y) if left is a else (y, x)
                    if abs(apply(op, u, v) - target) < 0.006:
                        hits["op", op, left, right] += 1
                    if op == "-" and u > v:
                        for factor in _factors(target, u - v):
                            scaled["op", "*", ("const", factor), ("op", op, left, right)] += 1
                            spans[left, right].add(u - v)
    found: dict[Source, int] = {}
    for source, n in [*hits.items(), *scaled.items()]:
        a, b = source[2:] if source in hits else source[3][2:]
        times = had.get((a, b)) or had[b, a]
        varied = source in hits or len(spans[a, b]) > 1
        if n >= 4 and n >= 0.8 * times and varied:
            found[source] = n
    found |= _multiples(rows)
    return [(source, _tried(source, path, sample), n) for source, n in found.items()]


def _tried(source: Source, path: str, seen: Sequence[Seen]) -> float:
    """The precision of a reckoned source, see `held_out`."""
    right, had = [0, 0], [0, 0]
    for s in seen:
        number, target = _reckon(source, s.numbers), s.values[path]
        if number is not None and is_number(target):
            had[s.fold] += 1
            right[s.fold] += abs(number - target) < 0.006
    return held_out((right[0], right[1]), (had[0], had[1]))


def _reckon(source: Source, numbers: dict[Source, float]) -> float | None:
    if source[0] == "const":
        return float(source[1])
    if source[0] != "op":
        return numbers.get(source)
    a, b = _reckon(source[2], numbers), _reckon(source[3], numbers)
    return None if a is None or b is None else apply(source[1], a, b)


def _multiples(rows: Sequence[tuple[float, dict[Source, float]]]) -> dict[Source, int]:
    """Fixed multiples of a single number, each with how often it is right, from targets and what
    was known beside them. A product rounded to cents does not tell its factor exactly: what most
    rows say is tried on all."""
    votes: dict[Source, Counter[float]] = defaultdict(Counter)
    for target, known in rows:
        for a, x in known.items():
            votes[a].update(_factors(target, x))
    found: dict[Source, int] = {}
    for a, counted in votes.items():
        pairs = [(target, known[a]) for target, known in rows if a in known]
        for factor, n in counted.most_common(3):
            if n < 0.3 * len(pairs):
                continue
            right = [x for target, x in pairs if abs(apply("*", factor, x) - target) < 0.006]
            if len(right) >= 4 and len(right) >= 0.8 * len(pairs) and len(set(right)) > 1:
                found["op", "*", ("const", factor), a] = len(right)
    return found


def _factors(target: float, number: float) -> set[float]:
    """The factors but 1, of two and of four digits, that make a number the target to cents."""
    if not target or not number or not is_number(target / number):
        return set()
    rounded = {round(target / number, digits) for digits in (2, 4)}
    return {
        int(f) if f == int(f) else f
        for f in rounded
        if f not in (0, 1) and abs(apply("*", f, number) - target) < 0.006
    }
