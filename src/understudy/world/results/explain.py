"""What could have explained a result: which sources had its values, how often they were right, and
which of them to believe."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.moments import is_moment, reckoned
from understudy.world.data.values import chance, is_number, same
from understudy.world.known.context import Context, Source, branches, sources
from understudy.world.outcomes.features import Feature
from understudy.world.outcomes.tree import Node, decide, grow
from understudy.world.results import joins, new_ids
from understudy.world.results.edits import PLUS, aggregates, edits, explains, totals

Ranked = tuple[Source, float, int]  # a source, its precision, how often it was right

# which of sources that are as often right is taken: the simplest
_COST = {
    "arg": 0.9, "own": 1, "ref": 2, "word": 2.1, "join": 2.2, "mirror": 2.5, "sum": 2.5,
    "append": 2.6, "count": 2.7, "total": 2.8, "out": 2.9, "repeat": 3, "const": 3.5,
    "recall": 4, "last": 5, "other": 5.1, "ref2": 6, "op": 7, "next": 3.2, "later": 6, "day": 3,
    "still": 2.9, "now": 3.3,
}  # fmt: skip
# (right, wrong) calls that each kind of source is credited with before the first is seen
_TRUST = {
    "own": (4.0, 0.05), "arg": (4.0, 0.05), "ref": (2.0, 0.1), "repeat": (1.0, 0.1),
    "still": (2.0, 0.1),
    "word": (1.0, 0.2), "recall": (1.0, 0.2), "const": (0.5, 0.2), "op": (0.5, 0.3),
    "ref2": (0.5, 0.5), "last": (0.2, 1.0), "other": (0.2, 1.0),
}  # fmt: skip


@dataclass(slots=True)
class Seen:
    """One successful result with what could have explained its values."""

    row: dict[Feature, Any]
    values: dict[str, Any]  # leaf path -> value
    right: dict[str, set[Source]]  # leaf path -> sources that had this very value
    had: set[Source]
    numbers: dict[Source, float]  # the simplest first
    moments: dict[Source, str]
    whole: Any
    joined: dict[tuple[str, str], list[joins.Element]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)  # leaf path -> its place in the result
    fold: int = 0  # 0 or 1: which half of the scenarios it is of
    known: dict[str, bool] = field(default_factory=dict)  # see world.results.new_ids
    key: str = ""  # of the call
    again: bool = False  # whether the session had called the tool before


def see(c: Context, value: Any, row: dict[Feature, Any], origin: int = 0) -> Seen:
    """Compare a result with every source in its context. `origin` is its scenario's number."""
    plain = dict(branches(value))
    values = dict(plain)
    edited: list[tuple[Source, str]] = []
    had: set[Source] = set()
    for source, path, before in edits(c, value):
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
        elif is_number(item) and PLUS not in path:
            numbers["out", path] = item
    numbers.update(totals(numbers))
    numbers = dict(sorted(numbers.items(), key=lambda n: (_cost(n[0]), str(n[0]))))
    places = {path: n for n, path in enumerate(values)}
    _see_sums(numbers, texts, places, right, had)
    fold = int(2 * chance("fold", origin))
    joined = joins.see_joins(c, plain)
    known, again = new_ids.known(c, plain), c.tool.name in c.state.last
    return Seen(
        row, values, right, had, numbers, moments, value, joined, places, fold, known, c.key, again
    )


def _see_sums(
    numbers: dict[Source, float],
    texts: dict[str, list[str]],
    places: dict[str, int],
    right: dict[str, set[Source]],
    had: set[Source],
) -> None:
    """Note the values that are sums over a list of the result that stands before them."""
    for source, number in numbers.items():
        if source[0] == "sum" and source[1][0] == "out":
            summed = source[1][1]
            had.add(source)
            for path in texts.get(text(number), ()):
                if places[summed] < places[path] and not path.startswith(f"{summed}/"):
                    right[path].add(source)


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


def rank(ranked: Ranked, path: str = "") -> tuple[float, float, bool, int, str]:
    """The better first: of a field's values as often right, those that have its name."""
    source, _, n = ranked
    other = not path or path.rpartition("/")[2] not in source[2:]
    return -round(trusted(ranked), 2), _cost(source), other, -n, str(source)


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


class Holders:
    """Which of a form's results had each source: a bit for each result, so that they are counted
    by the word and not one by one."""

    def __init__(self, seen: Sequence[Seen]) -> None:
        self._place = {id(s): n for n, s in enumerate(seen)}
        self._held: dict[Source, list[int]] = defaultdict(list)
        for n, s in enumerate(seen):
            for source in s.had:
                self._held[source].append(n)
        self._bits: dict[Source, int] = {}

    def among(self, seen: Sequence[Seen]) -> tuple[int, int]:
        """Some of the results, those of each half of the scenarios."""
        folds: tuple[list[int], list[int]] = [], []
        for s in seen:
            folds[s.fold].append(self._place[id(s)])
        return self._of(folds[0]), self._of(folds[1])

    def count(self, source: Source, among: tuple[int, int]) -> tuple[int, int]:
        """How many of them had a source."""
        if source not in self._bits:
            self._bits[source] = self._of(self._held.get(source, ()))
        bits = self._bits[source]
        return (bits & among[0]).bit_count(), (bits & among[1]).bit_count()

    def _of(self, places: Sequence[int]) -> int:
        bits = bytearray(len(self._place) // 8 + 1)
        for n in places:
            bits[n >> 3] |= 1 << (n & 7)
        return int.from_bytes(bits, "little")


def direct(path: str, seen: Sequence[Seen], holders: Holders) -> list[Ranked]:
    """(source, precision, hits) of every single source that was ever right. `holders` are of the
    results that `seen` are of."""
    hits: tuple[Counter[Source], Counter[Source]] = Counter(), Counter()
    for s in seen:
        hits[s.fold].update(s.right[path])
    among, ranked = holders.among(seen), []
    for source in dict.fromkeys([*hits[0], *hits[1]]):
        right = hits[0][source], hits[1][source]
        had = holders.count(source, among)
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


def made_of(source: Source, part: Source) -> bool:
    return source == part or any(made_of(x, part) for x in source if isinstance(x, tuple))


def moments(path: str, seen: Sequence[Seen]) -> list[Ranked]:
    """Moments reckoned from others and from numbers; of parts of the result, from those before."""
    rows = []
    for s in seen:
        order = list(s.values)
        before = set(order[: order.index(path)])
        known = {a: v for a, v in s.moments.items() if a[0] != "out" or a[1] in before}
        plain = {b: v for b, v in s.numbers.items() if b[0] in ("arg", "ref", "last", "other")}
        rows.append((s.values[path], known, plain))
    return reckoned(rows)
